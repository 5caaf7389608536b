"""Real faces followed by M2SD's rules."""

from fractions import Fraction

import numpy as np
import pytest

from preprocess.clip.all_faces import track_video
from preprocess.faces.finder import Face, FaceDetector
from preprocess.faces.m2sd_tracker import M2sdTracker, _look
from preprocess.faces.track import CropConfig, FaceTrack, Pose, distance
from tests.moving_face import moving_face, write_video
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME
from utils.clip.frames import read_frames
from utils.media.picture import Picture, PictureConverter


@pytest.fixture(scope="module")
def face():
    """A frame with the face, one without it."""
    return [next(moving_face(1, path=lambda i, place=place: place)) for place in ((240, 160), None)]


def track(folder, frames, **options):
    """The tracks of a video by M2SD's rules: (first frame, end), and the result of `track_video`."""
    tracked = track_video(write_video(folder / "a.mp4", frames), folder / "work", rules="m2sd", **options)
    return [(clip.first_frame, clip.first_frame + clip.num_frames) for clip in tracked.tracks], tracked


@pytest.mark.parametrize(
    ("missed", "expected"),
    [([], [(0, 20)]), ([0], [(2, 20)]), ([8], [(10, 20), (0, 8)]), ([3, 19], [(5, 19)]), (range(20), [])],
    ids=["never", "in the first frame", "in the middle", "early and in the last frame", "always"],
)
def test_a_real_face_is_followed_in_the_stretches_of_the_rules(tmp_path, face, missed, expected):
    """Stretches under 0.2 s are left out, as those of our own tracker are."""
    shown = []
    places, tracked = track(
        tmp_path,
        [face[index in missed] for index in range(20)],
        show_progress=lambda pictures, count: shown.append(count) or pictures,
    )
    assert places == expected
    assert shown == [40]  # two passes
    assert (tracked.width, tracked.height, tracked.num_frames) == (480, 360, 20)
    assert "M2SD's rules" in tracked.notes[0]
    for clip in tracked.tracks:
        assert clip.has_face.all()
        assert {path.name for path in clip.folder.iterdir()} == {AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME}
        x, y, side = clip.face_boxes[2]
        assert (x + side / 2, y + side / 2) == pytest.approx((240, 160), abs=8)
        assert np.isfinite(np.load(clip.folder / LANDMARKS_NAME)).all()
        assert len(read_frames(clip.folder / VIDEO_NAME, np.arange(clip.num_frames))) == clip.num_frames
    assert not list((tmp_path / "work").glob("track_*"))


def test_two_real_faces_are_two_tracks_but_a_face_that_comes_later_is_none(tmp_path, face):
    """The second one is missing in the first frame; the first one alone is there in all."""
    (tmp_path / "both").mkdir()
    both = np.concatenate([face[0], face[0][:, ::-1]], axis=1)
    places, tracked = track(tmp_path / "both", [both] * 8)
    assert places == [(0, 8), (0, 8)]
    left, right = sorted(clip.face_boxes[4][0] for clip in tracked.tracks)
    assert left < 480 < right
    alone = np.concatenate([face[0], face[1]], axis=1)
    places, tracked = track(tmp_path, [alone] + [both] * 7)
    assert places == [(0, 8)]
    assert tracked.tracks[0].face_boxes[4][0] < 480


def stored(image):
    return Picture.from_rgb(image, PictureConverter())


def test_a_face_that_is_too_small_for_the_detectors_view_of_the_frame_is_followed(tmp_path):
    """As RetinaFace sees it at full size: found in a part of the frame, then in its surroundings."""
    frames = list(moving_face(7, size=(960, 540), face_height=32, path=lambda i: (600 + i, 300)))
    whole = [FaceDetector().in_frame(stored(frame)) for frame in frames]
    assert [] in whole
    places, tracked = track(tmp_path, frames)
    assert places == [(0, 7)]
    x, y, side = tracked.tracks[0].face_boxes[3]
    assert (x + side / 2, y + side / 2) == pytest.approx((603, 300), abs=6)


def test_tracks_beyond_the_number_that_is_judged_are_said(tmp_path, face):
    frames = [stored(face[index == 3]) for index in range(10)]
    tracker = M2sdTracker(tmp_path, fps=Fraction(25), max_tracks=1)
    tracker.search(frames)
    (longest,) = tracker.follow(frames)
    assert (longest.first_frame, len(longest.boxes)) == (5, 5)
    assert tracker.notes[1:] == ["the 1 largest tracks are judged, 1 left out"]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_crop_goes_where_the_detections_go_even_to_another_face(tmp_path):
    frame = next(moving_face(1, path=lambda i: (240, 160)))
    picture = stored(np.concatenate([frame, frame[:, ::-1]], axis=1))
    here, there = Pose(240, 160, 100), Pose(720, 160, 100)
    track = FaceTrack(
        tmp_path / "a", first_frame=0, fps=Fraction(25), pose=here, config=CropConfig(), pad_to=None
    )
    for detected in (here, here, there, there):
        _look(track, picture, detected)
        assert track.sees
        assert distance(track.pose, detected) < 15
        track.keep()


def test_what_only_the_detector_takes_for_a_face_is_left_out(tmp_path, face):
    tracker = M2sdTracker(tmp_path, fps=Fraction(25), max_tracks=8)
    tracker._faces = [[Face(240, 160, 90, 0.7)]] * 6
    assert tracker.follow([stored(face[1])] * 6) == []
    assert not list(tmp_path.iterdir())
