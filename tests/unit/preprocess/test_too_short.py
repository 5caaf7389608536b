"""A clip that no training could use is refused when it is prepared, and found by verify."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from loaders.batches.data_config import DataConfig
from loaders.batches.places import window_frames
from models import MODELS
from preprocess.clip.make import ClipConfig, prepare_clip
from preprocess.verify import check_clip
from tests.clip_factory import write_clip_folder
from tests.moving_face import clicks, moving_face, write_video
from utils.clip.files import MIN_CLIP_S
from utils.errors import ClipError


@pytest.mark.parametrize(("suffix", "num_frames", "fps"), [("mp4", 3, 30), ("mkv", 5, 50), ("mov", 1, 10)])
def test_a_video_too_short_for_training_is_refused_at_once(tmp_path, suffix, num_frames, fps):
    sound = clicks(num_frames / fps)
    video = write_video(tmp_path / f"a.{suffix}", moving_face(num_frames), fps=fps, waveform=sound)
    (tmp_path / "clip").mkdir()
    with pytest.raises(
        ClipError, match=rf"too short: {num_frames} frames, 0\.100 s; training needs .* 0\.12 s"
    ):
        prepare_clip(video, tmp_path / "clip", ClipConfig())
    assert not list((tmp_path / "clip").iterdir())


def test_verify_finds_clips_that_are_too_short(tmp_path):
    short = write_clip_folder(tmp_path / "short", num_frames=2)
    (problem,) = check_clip(short, deep=False)
    assert problem[0] == short / "cropped_video.mp4"
    assert "2 frames, 0.080 s; training needs at least 0.12 s" in problem[1]
    assert check_clip(write_clip_folder(tmp_path / "enough", num_frames=3), deep=False) == []


@pytest.mark.parametrize("fps", [Fraction(15), Fraction(24_000, 1001), 25, Fraction(30_000, 1001), 50, 60])
def test_every_method_takes_the_shortest_clip(fps):
    config = DataConfig()
    steps = window_frames(0, math.ceil(MIN_CLIP_S * fps), Fraction(fps), config)
    for name, method in MODELS.items():
        assert len(steps) / config.video_fps >= method.min_window_s, name
