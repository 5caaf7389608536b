"""Tracks end at hard cuts, and go on when the same person comes back."""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from preprocess.clip.crop import require_faces
from preprocess.faces.cuts import CUT, WHOLE, Place, find_cuts, luma_grid, may_be_cut, unlike
from preprocess.faces.track import CropConfig
from preprocess.faces.tracker import FaceTracker
from tests.moving_face import moving_face, turn_by_metadata, write_video
from utils.errors import NoFaceError
from utils.media.picture import Picture, PictureConverter
from utils.media.video import iterate_pictures

FPS = 15
PLACE = (240, 160)


def pictures(frames):
    return (Picture.from_rgb(np.ascontiguousarray(frame), PictureConverter()) for frame in frames)


def follow(folder, frames, **flags):
    frames = list(frames)
    config = CropConfig(max_gap_s=0.4, **flags)
    tracker = FaceTracker(folder, num_frames=len(frames), fps=Fraction(FPS), config=config)
    return tracker, tracker.follow(pictures(frames))[0]


def seen(track) -> list[int]:
    """Frames with landmarks, as written."""
    return np.flatnonzero(np.isfinite(np.load(track.landmarks_path)[:, 0, 0])).tolist()


def person(count, *, there=lambda i: True, jitter=1):
    return list(moving_face(count, path=lambda i: (240 + jitter * (i % 3), 160) if there(i) else None))


WALL = next(moving_face(1, path=lambda i: None))


def other_person(frame):
    """Somebody else in the same place, in front of the same wall: hair, dress and face are others."""
    body = np.abs(frame.astype(int) - WALL).max(axis=2, keepdims=True)[:, ::-1] > 0
    return np.where(body, cv2.convertScaleAbs(frame[:, ::-1, ::-1], alpha=0.75, beta=60), WALL).astype(
        np.uint8
    )


def other_shot(frame):
    """Somebody else in the same place, in front of another wall."""
    person = other_person(frame)
    return np.where(person == WALL, landscape(1, seed=4)[0], person)


def cuts_of(frames, flash=2):
    found = find_cuts(pictures(frames), flash, lambda picture: {"whole": WHOLE})
    return [number for number, (_, keys) in enumerate(found) if keys]


def landscape(count, seed=0, move=0):
    """A picture of random blobs that moves to the left."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 255, (9, 24, 3), np.uint8), (480 + 40 * 12, 360))
    return [image[:, move * i : move * i + 480] for i in range(count)]


def test_a_cut_is_found_where_the_next_shot_begins_and_nowhere_else():
    assert cuts_of(landscape(12) + landscape(9, seed=1) + landscape(8, seed=2)) == [12, 21]
    assert (
        cuts_of(landscape(1, seed=2) + landscape(9) + landscape(2, seed=1)) == []
    )  # a stray picture at an end


def test_what_is_passed_over_without_a_comparison_is_no_cut():
    rng = np.random.default_rng(0)
    first = cv2.GaussianBlur(rng.integers(0, 256, (320, 480, 3), np.uint8), (0, 0), 9)
    first = cv2.normalize(first, None, 0, 255, cv2.NORM_MINMAX)
    other = np.ascontiguousarray(first[::-1, ::-1])
    place = Place.around(*PLACE, 60, 480, 320)
    seen = set()
    for share in np.linspace(0, 1, 41):
        for gain in (0.3, 1.0):
            second = cv2.addWeighted(first, gain * (1 - share), other, gain * share, 0)
            one, two = (luma_grid(picture) for picture in pictures([first, second]))
            for where in (place, WHOLE):
                asked, found = may_be_cut(one, two, where), unlike(one, two, where) >= CUT
                assert asked or not found
                seen.add((asked, found))
    assert seen == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("size", [(720, 1280), (360, 480), (540, 960), (480, 854), (1918, 1082), (130, 118)])
def test_a_grid_holds_the_mean_luma_of_the_pictures_cells(size):
    rows, columns = (np.linspace(30, 200, length) for length in size)
    luma = (rows[:, None] / 2 + columns / 2).astype(np.uint8)
    chroma = np.full((size[0] // 2, size[1]), 128, np.uint8)
    frame = av.VideoFrame.from_ndarray(np.concatenate([luma, chroma]), format="yuv420p")
    expected = cv2.resize(luma, (40, 40), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(luma_grid(Picture(frame, PictureConverter())).luma - expected).max() <= 2


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj444p", "yuv420p10le"])
def test_a_grid_is_of_the_picture_as_displayed(tmp_path, degrees, pixel_format):
    path = write_video(
        tmp_path / "video.mp4", [frame[:320] for frame in landscape(2)], pixel_format=pixel_format
    )
    if degrees:
        turn_by_metadata(path, degrees)
    for _, picture in iterate_pictures(path):
        grey = cv2.cvtColor(picture.rgb(), cv2.COLOR_RGB2GRAY)
        expected = cv2.resize(grey, (40, 40), interpolation=cv2.INTER_AREA).astype(float)
        luma = luma_grid(picture).luma.astype(float)
        assert np.corrcoef(luma.ravel(), expected.ravel())[0, 1] > 0.995


def test_a_pan_a_zoom_a_fade_and_a_dissolve_are_no_cuts():
    zoom = [
        cv2.resize(landscape(1)[0][6 * i : 360 - 6 * i, 8 * i : 480 - 8 * i], (480, 360)) for i in range(24)
    ]
    fade = [(frame * (1 - i / 20)).astype(np.uint8) for i, frame in enumerate(landscape(20))]
    pairs = zip(landscape(20), landscape(20, seed=1), strict=True)
    dissolve = [cv2.addWeighted(a, 1 - i / 19, b, i / 19, 0) for i, (a, b) in enumerate(pairs)]
    for frames in (landscape(24, move=20), zoom, fade, dissolve):
        assert cuts_of(frames) == []


@pytest.mark.parametrize("value", [255, 128])
def test_a_flash_is_no_cut_but_another_shot_after_one_is(value):
    flash = [
        cv2.addWeighted(frame, 0.2, np.full_like(frame, value), 0.8, 0) for frame in landscape(2, seed=3)
    ]
    assert cuts_of(landscape(10) + flash + landscape(10)) == []
    white = [np.full((360, 480, 3), value, np.uint8)] * 3
    assert cuts_of(landscape(10) + white + landscape(10)) == []
    assert cuts_of(landscape(10) + white + landscape(10, seed=1)) == [13]


def test_another_person_after_a_cut_is_another_track(tmp_path):
    """In the same place and of the same size; and so is the first person after a second cut."""
    one = person(60)
    tracker, best = follow(tmp_path, one[:25] + [other_shot(frame) for frame in one[25:40]] + one[40:])
    assert tracker.cuts == [25, 40]
    assert tracker.num_tracks == 3
    assert seen(best) == list(range(25))
    assert best.first_frame == 0
    assert len(best.boxes) == 25
    assert tracker.num_frames_with_face == 60


def test_somebody_else_in_front_of_the_same_wall_is_another_track_with_or_without_an_absence(tmp_path):
    one = person(60, there=lambda i: not 25 <= i < 40)
    tracker, best = follow(tmp_path, one[:40] + [other_person(frame) for frame in one[40:]])
    assert tracker.num_tracks == 2
    assert seen(best) == list(range(25))
    (tmp_path / "at once").mkdir()
    one = person(45)
    tracker, best = follow(tmp_path / "at once", one[:25] + [other_person(frame) for frame in one[25:]])
    assert (tracker.num_tracks, tracker.cuts) == (2, [25])
    assert seen(best) == list(range(25))


def test_the_same_person_comes_back_to_the_same_place_in_one_track(tmp_path):
    """Two absences, both longer than --max_gap_s; black from then on, and boxes again with the face."""
    tracker, best = follow(tmp_path, person(90, there=lambda i: not (20 <= i < 35 or 60 <= i < 75)))
    assert (tracker.num_tracks, tracker.cuts, best.num_seen) == (1, [], 60)
    assert set(seen(best)) >= {*range(20), *range(38, 60), *range(78, 90)}
    assert best.without_face == sorted(set(range(90)) - set(seen(best)))
    assert [bool(box) for box in best.boxes[:36]] == [True] * 27 + [False] * 8 + [True]
    assert (best.first_frame, len(best.boxes)) == (0, 90)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".mp4", ".npy"]


def test_after_a_cut_in_between_the_same_person_is_another_track(tmp_path):
    frames = person(60, there=lambda i: not 20 <= i < 35)
    frames[24:30] = landscape(6)
    tracker, best = follow(tmp_path, frames)
    assert tracker.num_tracks == 2
    assert seen(best)[0] >= 35


def test_a_refusal_counts_the_frames_with_any_face_and_the_cuts_and_names_the_flag():
    with pytest.raises(NoFaceError) as error:
        require_faces("a.mp4", 40, 140, 0.8, num_with_any=133, num_cuts=3)
    for words in (
        "one face in 40 of 140 frames (29%)",
        "any face in 133 (95%)",
        "hard cut",
        "--min_face_fraction 0.8",
    ):
        assert words in error.value.reason
    require_faces("a.mp4", 40, 50, 0.8)
