"""Fixture F2 of the description of M2SD's inference."""

import numpy as np
import pytest

from models.m2sd.clips import clip_indices, crop_box, frame_scores


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((100.4, 80.6, 221.2, 239.5), (40, 2, 282, 320)),
        ((500, 300, 620, 470), (440, 215, 639, 479)),
    ],
)
def test_the_crop_is_twice_the_box_and_stays_in_the_frame(box, expected):
    assert crop_box(box, 640, 480) == expected


@pytest.mark.parametrize(("num_frames", "num_clips"), [(20, 5), (16, 1), (15, 30), (5, 20), (2, 17), (1, 16)])
def test_short_faces_are_mirrored(num_frames, num_clips):
    """Trap T8, with fewer than five frames."""
    assert clip_indices(num_frames).shape == (num_clips, 16)
    assert (clip_indices(1) == 0).all()
    assert clip_indices(5)[0].tolist() == [1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1, 0]
    assert clip_indices(5)[-1].tolist() == [4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3]
    assert clip_indices(2)[0].tolist() == [1, 0] * 8


def test_a_frames_score_is_the_mean_over_every_time_it_is_shown():
    scores = frame_scores(clip_indices(20), np.array([0, 0.25, 0.5, 0.75, 1]), 20)
    expected = [0, 0.125, 0.25, 0.375, 0.5, *[0.5] * 11, 0.625, 0.75, 0.875, 1]
    assert scores == pytest.approx(expected)
    assert np.bincount(clip_indices(5).ravel()).tolist() == [40, 80, 80, 80, 40]
