"""How a face is measured, followed and boxed."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from preprocess.faces.backends import new_face_mesh
from preprocess.faces.fast_graphs import FastDetection, FastMesh
from preprocess.faces.finder import Face, FaceDetector, _tile_starts, distinct
from preprocess.faces.solutions import SolutionDetection, SolutionMesh, import_mediapipe
from preprocess.faces.track import CropConfig, pose_of
from preprocess.faces.tracker import FaceTracker
from tests.commands import ROOT
from tests.environment import needs_solutions
from tests.moving_face import moving_face, portrait
from utils.clip.frames import read_frames
from utils.media.picture import Picture, PictureConverter


def stored(image: np.ndarray) -> Picture:
    """A frame that is RGB already."""
    return Picture.from_rgb(image, PictureConverter())


def track(folder, frames, fps=25, **flags):
    """(tracker, best track) after all frames."""
    frames = list(frames)
    folder.mkdir(exist_ok=True)
    tracker = FaceTracker(folder, num_frames=len(frames), fps=Fraction(fps), config=CropConfig(**flags))
    best = tracker.follow(stored(image) for image in frames)
    return tracker, best[0] if best else None


@pytest.fixture(scope="module")
def face_landmarks() -> np.ndarray:
    image = portrait(200)[0]
    landmarks = new_face_mesh()(image[: image.shape[1]])  # square
    return landmarks * image.shape[1]


def test_opening_the_mouth_moves_neither_centre_nor_size(face_landmarks):
    # everything below the nose drops by a tenth of the face's height, as the jaw does
    lower = face_landmarks[:, 1] > face_landmarks[2, 1] + 2
    lower[[234, 454]] = False  # cheeks lie next to the nose, whatever the pose of the head
    opened = face_landmarks.copy()
    opened[lower, 1] += 20
    assert lower[[13, 14, 17, 152]].all()
    assert pose_of(opened) == pose_of(face_landmarks)


def test_pose_scales_and_moves_with_the_face(face_landmarks):
    small = pose_of(face_landmarks)
    large = pose_of(face_landmarks * 3 + 7)
    assert large == pytest.approx((3 * small.x + 7, 3 * small.y + 7, 3 * small.height), rel=1e-4)
    chin_to_hairline = np.linalg.norm(face_landmarks[152] - face_landmarks[10])
    assert small.height == pytest.approx(chin_to_hairline, rel=0.1)


@needs_solutions
def test_fast_landmarks_are_those_of_mediapipes_own_solution_to_the_last_bit():
    """While the face moves and tilts, is gone, and comes back elsewhere; on two sizes of image; forgotten."""
    path = [(190 + 3 * i, 200) for i in range(6)] + [None] * 3 + [(150, 180 + i) for i in range(4)]
    frames = list(moving_face(len(path), size=(384, 384), face_height=150, path=lambda i: path[i]))
    for index, frame in enumerate(frames):
        tilt = cv2.getRotationMatrix2D((192, 192), 4 * index, 1)
        frames[index] = cv2.warpAffine(frame, tilt, (384, 384), borderMode=cv2.BORDER_REPLICATE)
    frames += [cv2.resize(frame, (256, 256)) for frame in frames[-3:]]
    fast, plain, num_faces = FastMesh(), SolutionMesh(), 0
    for index, frame in enumerate(frames):
        landmarks, expected = fast(frame), plain(frame)
        assert (landmarks is None) == (expected is None)
        if landmarks is not None:
            num_faces += 1
            assert landmarks.shape == expected.shape == (478, 2)
            assert landmarks.dtype == expected.dtype == np.float32
            np.testing.assert_array_equal(landmarks, expected)
        if index == 4:
            fast.forget()
            plain.forget()
    assert num_faces >= 11


@needs_solutions
def test_fast_detections_are_those_of_mediapipes_own_solution():
    frames = moving_face(3, size=(384, 384), face_height=150, path=lambda i: (190 + i, 200) if i else None)
    fast, plain = FastDetection(), SolutionDetection()
    found = []
    for frame in frames:
        assert fast(frame) == plain(frame)
        found.append(len(fast(frame)))
    assert found == [0, 1, 1]
    (box,) = plain(frame)
    (face,) = FaceDetector().around(stored(frame), 192, 192, 384)
    assert face.score == box.score
    assert face.size == pytest.approx(384 * max(box.width, box.height))
    assert face.x == pytest.approx(384 * (box.left + box.width / 2))


WHOLE_PACKAGE = """
import sys
from preprocess.faces.solutions import import_mediapipe
import_mediapipe()
assert "matplotlib" not in sys.modules
import mediapipe
from mediapipe import solutions
assert solutions is mediapipe.solutions
assert mediapipe.solutions.face_mesh.FaceMesh and mediapipe.tasks.vision.FaceLandmarker
assert mediapipe.__version__ and not hasattr(mediapipe, "nothing")
"""


@needs_solutions
def test_mediapipe_is_imported_without_matplotlib_and_is_whole_for_others():
    words = [sys.executable, "-c", WHOLE_PACKAGE]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@needs_solutions
def test_one_variable_of_the_environment_chooses_mediapipes_own_solutions(tmp_path, monkeypatch):
    """They write the same files, and the fast graphs are not used."""
    frames = list(moving_face(40, face_height=100, path=lambda i: (200 + 2 * i, 150)))
    _, fast = track(tmp_path / "fast", frames)
    monkeypatch.setenv("PLAIN_MEDIAPIPE", "1")
    for name in ("FastMesh", "FastDetection"):
        monkeypatch.setattr(f"preprocess.faces.fast_graphs.{name}.__init__", None)
    _, plain = track(tmp_path / "plain", frames)
    assert plain.num_seen == fast.num_seen == 40
    for path in ("video_path", "landmarks_path"):
        assert getattr(plain, path).read_bytes() == getattr(fast, path).read_bytes()


def test_meshes_that_take_turns_do_not_see_each_others_past():
    there, here = (
        list(moving_face(4, size=(300, 300), face_height=120, path=lambda i, x=x: (x + 2 * i, 150)))
        for x in (80, 190)
    )
    alone = new_face_mesh()
    expected = [alone(frame) for frame in here]
    mesh, other = new_face_mesh(), new_face_mesh()
    for frame, elsewhere, landmarks in zip(here, there, expected, strict=True):
        np.testing.assert_array_equal(mesh(frame), landmarks)
        assert abs(other(elsewhere)[:, 0].mean() * 300 - 80) < 30
    mesh.forget()
    np.testing.assert_array_equal([mesh(frame) for frame in here], expected)


@needs_solutions
def test_a_graph_that_failed_is_not_used_again():
    (frame,) = moving_face(1, size=(300, 300), face_height=120)
    mesh = FastMesh()
    landmarks = mesh(frame)
    with pytest.raises((RuntimeError, ValueError)):
        mesh._mesh(frame, place=import_mediapipe().packet_creator.create_string("no place"))
    np.testing.assert_array_equal(FastMesh()(frame), landmarks)


@pytest.mark.parametrize(("length", "side"), [(1080, 960), (1920, 960), (100, 960), (961, 960)])
def test_tiles_cover_everything_and_overlap_by_half(length, side):
    starts = _tile_starts(length, side)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - side)
    assert all(0 < b - a <= side // 2 for a, b in zip(starts, starts[1:], strict=False))


def test_one_face_seen_in_two_tiles_is_one_face():
    faces = [Face(100, 100, 40, 0.6), Face(104, 98, 44, 0.9), Face(180, 100, 30, 0.7)]
    assert distinct(faces) == [faces[1], faces[2]]


@pytest.mark.parametrize("face_height", [96, 70, 60, 50])
def test_a_small_face_in_a_portrait_frame_is_found_at_once(tmp_path, face_height):
    """5 % of the frame's height, and 3 %, which only the tiles can show."""
    frames = list(moving_face(3, size=(1080, 1920), face_height=face_height, path=lambda i: (300, 1500)))
    if face_height == 60:
        whole = FaceDetector().in_frame(stored(frames[0]))
        assert not [face for face in whole if face.score > 0.5]
    _, best = track(tmp_path, frames)
    assert (best.first_frame, best.num_seen) == (0, 3)
    x, y, side = best.boxes[0]
    assert (x + side / 2, y + side / 2) == pytest.approx((300, 1500), abs=0.1 * face_height)


@pytest.mark.parametrize(
    ("size", "face_height", "place"),
    [((1920, 1080), 30, (1400, 750)), ((360, 360), 480, (180, 180))],
    ids=["a fortieth of the frame", "chin and forehead outside"],
)
def test_very_small_and_very_large_faces_are_found_at_once(tmp_path, size, face_height, place):
    _, best = track(tmp_path, moving_face(5, size=size, face_height=face_height, path=lambda i: place))
    assert (best.first_frame, best.num_seen) == (0, 5)
    x, y, side = best.boxes[0]
    assert (x + side / 2, y + side / 2) == pytest.approx(place, abs=0.15 * face_height)
    assert face_height < side < 2 * face_height


def test_landmarks_follow_the_true_motion_and_the_box_does_not_tremble(tmp_path):
    def path(i):
        return 150 + 2 * i, 150 + round(10 * np.sin(i / 6))

    tracker, best = track(tmp_path, moving_face(60, face_height=100, path=path))
    assert tracker.num_tracks == 1
    assert (best.first_frame, best.num_seen, best.without_face) == (0, 60, [])
    boxes = np.array(best.boxes)  # (60, 3)
    landmarks = np.load(best.landmarks_path)
    nose = landmarks[:, 168] * boxes[:, 2:] + boxes[:, :2]  # back in the source's pixels
    moved = nose - nose[0]
    true = np.array([path(i) for i in range(60)]) - np.array(path(0))
    assert np.abs(moved - true).max() < 2.5
    # the box follows (the face stays inside) but is much steadier than whole-pixel motion
    assert (landmarks > 0.02).all()
    assert (landmarks < 0.98).all()
    assert np.abs(np.diff(boxes, 2, axis=0)).max() < 0.5


def test_the_crop_shows_what_the_landmarks_say(tmp_path):
    """Face Mesh on the written crop finds the landmarks that were written with it."""
    _, best = track(tmp_path, moving_face(12, face_height=100, path=lambda i: (200 + 3 * i, 150)))
    landmarks = np.load(best.landmarks_path)
    crops = read_frames(best.video_path, np.arange(12))
    assert crops.shape == (12, 224, 224, 3)
    mesh = new_face_mesh()
    distance = [
        np.linalg.norm(mesh(crop) - seen, axis=1).mean() for crop, seen in zip(crops, landmarks, strict=True)
    ]
    assert max(distance) * 224 < 2


def test_before_the_face_comes_and_after_it_has_gone_the_crop_is_black(tmp_path):
    frames = moving_face(60, path=lambda i: (240, 160) if 10 <= i < 30 else None)
    _, best = track(tmp_path, frames, max_gap_s=0.4)
    assert best.first_frame == 10
    assert best.num_seen == 20
    assert best.first_frame + len(best.boxes) == 41  # held for 0.4 s, and given up in the frame after
    crops = read_frames(best.video_path, np.arange(60))
    brightness = crops.mean(axis=(1, 2, 3))
    np.testing.assert_array_less(brightness[:10], 3)
    np.testing.assert_array_less(brightness[41:], 3)
    np.testing.assert_array_less(40, brightness[10:41])
    seen = np.isfinite(np.load(best.landmarks_path).reshape(60, -1)).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(seen), np.arange(10, 30))


def test_a_face_that_is_hidden_for_a_second_stays_one_track(tmp_path):
    frames = moving_face(90, path=lambda i: None if 30 <= i < 55 else (240, 160))
    tracker, best = track(tmp_path, frames)
    assert tracker.num_tracks == 1
    assert (best.first_frame, len(best.boxes)) == (0, 90)
    assert set(range(30, 55)) <= set(best.without_face) <= set(range(30, 58))
    boxes = np.array(best.boxes)
    assert np.abs(boxes - boxes[0]).max() < 10  # held


def test_the_larger_of_two_faces_is_taken_and_both_are_counted(tmp_path):
    left = moving_face(30, size=(300, 360), face_height=80, path=lambda i: (150, 160))
    right = moving_face(30, size=(300, 360), face_height=120, path=lambda i: (140, 160))
    frames = [np.hstack(pair) for pair in zip(left, right, strict=True)]
    tracker, best = track(tmp_path, frames)
    assert tracker.num_tracks == 2
    x, _, side = best.boxes[15]
    assert x + side / 2 == pytest.approx(300 + 140, abs=15)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".mp4", ".npy"]  # the other is gone


def test_a_longer_look_at_a_smaller_face_beats_a_glimpse_of_a_larger_one(tmp_path):
    small = moving_face(50, size=(300, 360), face_height=80, path=lambda i: (150, 160))
    glimpse = moving_face(
        50, size=(300, 360), face_height=120, path=lambda i: (140, 160) if 25 <= i < 37 else None
    )
    frames = [np.hstack(pair) for pair in zip(small, glimpse, strict=True)]
    tracker, best = track(tmp_path, frames, max_gap_s=0.2)
    assert tracker.num_tracks == 2
    assert best.first_frame == 0
    assert best.num_seen == 50


@pytest.mark.parametrize(("max_tracks", "found_at"), [(None, 40), (2, 30)])
def test_after_two_searches_in_vain_further_faces_are_found_later_unless_all_are_wanted(
    tmp_path, max_tracks, found_at
):
    """Ten frames a second: searched at 0, in vain at 10 and 20, and then the second face comes."""
    small = moving_face(60, size=(300, 360), face_height=60, path=lambda i: (150, 160))
    large = moving_face(60, size=(300, 360), face_height=120, path=lambda i: (140, 160) if i >= 24 else None)
    tracker = FaceTracker(
        tmp_path, num_frames=60, fps=Fraction(10), config=CropConfig(), max_tracks=max_tracks
    )
    best, *_ = tracker.follow(stored(np.hstack(pair)) for pair in zip(small, large, strict=True))
    assert tracker.num_tracks == 2
    assert best.first_frame == found_at


def test_a_fast_face_stays_inside_its_crop(tmp_path):
    def path(i):  # to and fro by more than its own width within a second
        return 300 + round(130 * np.sin(i * 0.3)), 160

    _, best = track(tmp_path, moving_face(50, size=(640, 360), path=path))
    landmarks = np.load(best.landmarks_path)
    assert best.num_seen >= 49
    assert np.nanmin(landmarks) > -0.02
    assert np.nanmax(landmarks) < 1.02


def test_no_face_is_no_track(tmp_path):
    tracker, best = track(tmp_path, moving_face(10, path=lambda i: None))
    assert best is None
    assert tracker.num_tracks == 0
    assert not list(tmp_path.iterdir())
