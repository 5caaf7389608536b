"""Install the network of Face Mesh, for `--landmark_backend mesh`, where mediapipe 0.10.21 cannot be.

    python -m preprocess.face_models                   into this environment
    python -m preprocess.face_models --folder MODELS   for a machine without network: set FACE_MODELS=MODELS

No later release of mediapipe has this network, and 0.10.21 wants NumPy 1 and Python 3.12 at most. Its wheel
is an archive: pip downloads it (36 MB), and one file of 2.5 MB is kept, checked by its sha256. With --folder,
the files of the other networks that the backend needs are put there, too.
"""

from __future__ import annotations

import functools
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from preprocess.faces.model_files import FACE_MESH, INSTALLED, MODEL_FILES, find_model
from utils.config import opt, parse_command
from utils.errors import UsageError, run_command
from utils.files import file_sha256, require_writable, write_atomically

log = logging.getLogger(__name__)

# any wheel with this file does: it is data
_WHEEL = ("--python-version", "3.12", "--platform", "manylinux_2_28_x86_64", "--only-binary", ":all:")


@dataclass(frozen=True, kw_only=True)
class FaceModelsConfig:
    """python -m preprocess.face_models"""

    folder: Path | None = opt(None, "where the networks are put, all of them; default: this environment")


def download_face_mesh(folder: Path) -> Path:
    """The file of Face Mesh's network, from mediapipe's wheel; raises UsageError if pip cannot get that."""
    wanted = f"{FACE_MESH.package}=={FACE_MESH.version}"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", *_WHEEL]
    if subprocess.run([*command, "--dest", str(folder), wanted], check=False).returncode:
        raise UsageError(f"pip could not download {wanted}: see above")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(FACE_MESH.place, folder))
    if file_sha256(path) != FACE_MESH.sha256:
        raise UsageError(f"{wheel.name}: the sha256 of {FACE_MESH.name} is not {FACE_MESH.sha256}")
    return path


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = parse_command(FaceModelsConfig, __doc__)
    folder = config.folder or INSTALLED
    others = [model for model in MODEL_FILES["mesh"] if model != FACE_MESH] if config.folder else []
    require_writable(folder)
    with tempfile.TemporaryDirectory() as temporary:
        found = [find_model(model, looks_in_folder=False) for model in others]
        for path in (download_face_mesh(Path(temporary)), *found):
            write_atomically(folder / path.name, functools.partial(shutil.copyfile, path))
            log.info("installed %s", folder / path.name)


if __name__ == "__main__":
    run_command(main)
