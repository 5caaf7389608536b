"""Frames, their times and regions: what the one decode pass hands on."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from preprocess.clip.schedule import frame_schedule, iterate_schedule
from tests.moving_face import moving_face, turn_by_metadata, write_video
from tests.numbered_video import damage, read_number, write_numbered
from utils.errors import ClipError
from utils.media.times import VideoTimes, read_video_times
from utils.media.video import iterate_frames, iterate_pictures


def numbered_frames(count: int, size: tuple[int, int] = (96, 64)):
    """Grey frames whose brightness is their number times five."""
    return (np.full((size[1], size[0], 3), 5 * index, np.uint8) for index in range(count))


def numbers_of(pictures) -> list[int]:
    return [round(float(picture.rgb().mean()) / 5) for picture in pictures]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_region_is_the_same_piece_of_the_displayed_frame_whatever_the_rotation(tmp_path, degrees):
    frames = moving_face(3, size=(322, 242), face_height=70, path=lambda i: (150 + 9 * i, 110))
    path = write_video(tmp_path / "video.mp4", frames)
    if degrees:
        turn_by_metadata(path, degrees)
    for (_, picture), (_, whole) in zip(iterate_pictures(path), iterate_frames(path), strict=True):
        assert (picture.width, picture.height) == whole.shape[1::-1]
        assert (picture.width > picture.height) == (degrees % 180 == 0)
        for x0, y0, x1, y1 in ((0, 0, picture.width, picture.height), (31, 50, 180, 201), (7, 8, 40, 33)):
            np.testing.assert_array_equal(picture.region(x0, y0, x1, y1), whole[y0:y1, x0:x1])


def test_rotation_metadata_puts_the_picture_upright(tmp_path):
    upright = next(moving_face(1, size=(320, 240), face_height=80, path=lambda i: (100, 90)))
    lying = np.rot90(upright)  # a quarter turn against the clock, undone by 90 degrees with it
    path = write_video(tmp_path / "video.mp4", [lying] * 2)
    turn_by_metadata(path, 90)
    shown = next(iter(iterate_frames(path)))[1]
    assert shown.shape == upright.shape
    assert np.abs(shown.astype(int) - upright).mean() < 4


@pytest.mark.parametrize(("codec", "pixel_format"), [("libx264", "yuv444p"), ("mpeg4", "yuv420p")])
def test_odd_sizes_lose_no_row_or_column(tmp_path, codec, pixel_format):
    frames = list(moving_face(2, size=(321, 241), face_height=80, path=lambda i: (240, 160)))
    path = write_video(tmp_path / "video.mkv", frames, codec=codec, pixel_format=pixel_format)
    for _, picture in iterate_pictures(path):
        assert (picture.width, picture.height) == (321, 241)
        corner = picture.region(301, 221, 321, 241)
        # the scaler interpolates the colour of odd sizes, so that the two differ a little in mpeg4's 4:2:0
        assert np.abs(corner.astype(int) - picture.rgb()[221:, 301:]).mean() < 6
        assert np.abs(corner.astype(int) - frames[0][221:, 301:]).mean() < 12


def test_constant_rate_takes_each_frame_once(tmp_path):
    path = write_video(tmp_path / "video.mp4", numbered_frames(40), fps=Fraction(30000, 1001))
    times = read_video_times(path)
    assert times.constant
    assert times.fps == Fraction(30000, 1001)
    assert numbers_of(iterate_schedule(path, times)) == list(range(40))


def test_varying_rate_is_resampled_to_the_nearest_frames():
    # 5 frames over 400 ms: 10 per second on average, wanted at 0, 100, 200, 300 and 400 ms
    starts_s = np.array([0.0, 0.01, 0.04, 0.26, 0.4])
    times = VideoTimes(starts_s=starts_s, fps=Fraction(10), constant=False)
    # 100 ms: 40 (60 away) before 260 (160); 200 ms: 260 (60) before 40 (160); 300 ms: 260 (40) before 400
    np.testing.assert_array_equal(frame_schedule(times), [0, 2, 3, 3, 4])


def test_a_frame_stays_over_a_gap_as_in_a_player():
    starts_s = np.array([0.0, 0.1, 0.2, 1.2, 1.3])
    times = VideoTimes(starts_s=starts_s, fps=Fraction(10), constant=False)
    np.testing.assert_array_equal(frame_schedule(times), [0, 1, 2, 2, 2])
    times = VideoTimes(starts_s=starts_s, fps=Fraction(40, 13), constant=False)  # the average rate
    shown_s = starts_s[frame_schedule(times)]
    wanted_s = np.arange(5) * 13 / 40
    assert (shown_s <= wanted_s + 13 / 40).all()


def test_varying_rate_keeps_length_and_duration(tmp_path):
    times_ms = [0, 20, 60, 160, 200, 300, 320, 400, 440, 500]
    path = write_video(tmp_path / "video.mp4", numbered_frames(10), times_ms=times_ms)
    times = read_video_times(path)
    assert not times.constant
    assert times.fps == 18  # 9 steps in 500 ms
    wanted_ms = np.arange(10) * 1000 / 18
    away_ms = np.array(times_ms)[None] - wanted_ms[:, None]
    away_ms[away_ms > 1000 / 18] = 1e9  # none is shown more than a frame before its time
    assert numbers_of(iterate_schedule(path, times)) == np.abs(away_ms).argmin(axis=1).tolist()


def test_a_file_that_lacks_many_listed_frames_is_refused(tmp_path):
    path = write_video(tmp_path / "video.mp4", numbered_frames(20), fps=25)
    listed = read_video_times(path)
    more = VideoTimes(starts_s=np.arange(30) / 25, fps=listed.fps, constant=True)
    with pytest.raises(ClipError, match="10 of 30 frames cannot be decoded"):
        list(iterate_schedule(path, more))


def damaged(folder, numbers, *, group: int, **places):
    """A video of 90 frames with a key frame every `group`, some packets of which are noise."""
    options = {"preset": "fast", "crf": "20", "bf": "0", "g": str(group), "sc_threshold": "0"}
    path = write_numbered(folder / "video.mp4", container="mp4", options=options, count=90)
    damage(path, numbers, **places)
    return path


def test_a_frame_of_noise_is_told_and_the_one_before_it_stays(tmp_path):
    path = damaged(tmp_path, [59], group=30)  # the last that no other frame needs
    undecoded: list[int] = []
    shown = [
        read_number(picture.rgb()) for picture in iterate_schedule(path, read_video_times(path), undecoded)
    ]
    assert shown == [number % 64 for number in [*range(59), 58, *range(60, 90)]]
    assert undecoded == [59]


@pytest.mark.parametrize(
    ("numbers", "places", "reason"),
    [
        (range(30, 60), {"part": 0.1}, "30 of 90 packets"),
        (
            range(36, 66, 2),
            {"part": 0.3, "size": 20},
            r"\d\d of 90 frames cannot be decoded, the first at 1\.4",
        ),
    ],
    ids=["all of a third", "some bytes of every second packet"],
)
def test_a_damaged_middle_is_refused_even_if_every_frame_can_be_drawn(tmp_path, numbers, places, reason):
    path = damaged(tmp_path, numbers, group=120, **places)
    with pytest.raises(ClipError, match=f"damaged: {reason}"):
        list(iterate_schedule(path, read_video_times(path)))
