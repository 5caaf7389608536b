"""Which faces M2SD's rules follow: fixture F4 of the description of its inference."""

import pytest

from preprocess.faces import m2sd_rules
from preprocess.faces.m2sd_rules import Detection, find_segments, iou


def frames_of(pattern, score=0.9):
    """One face that stands still; "-" is a frame without it."""
    face = Detection((10.0, 10.0, 50.0, 60.0), score)
    return [[] if mark == "-" else [face] for mark in pattern]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("xxxxxxxxxxxx", [(0, 12)]),
        ("xxxxx-xxxxxx", [(0, 5), (7, 12)]),
        ("-xxxxxxxxxxx", [(2, 12)]),
        ("x-xxxxxxxxxx", [(2, 12)]),
        ("xxxxxxxxxxx-", [(0, 11)]),
        ("xxxxxxx-xx", [(0, 7)]),
        ("----", []),
        ("", []),
    ],
)
def test_the_stretches_that_are_judged(pattern, expected):
    assert [(s.start, s.end) for s in find_segments(frames_of(pattern))] == expected


def test_a_first_frame_with_a_low_score_is_skipped_with_the_next():
    frames = frames_of("x" * 8)
    frames[0] = frames_of("x", score=0.7)[0]
    assert [(s.start, s.end) for s in find_segments(frames)] == [(2, 8)]


def test_two_faces_are_two_tracks_and_a_copy_of_a_face_is_none():
    left, right = Detection((0, 0, 40, 40), 0.9), Detection((100, 0, 140, 40), 0.9)
    both = find_segments([[left, right], [right, left], [left, right]])
    assert [segment.faces for segment in both] == [(0, 1, 0), (1, 0, 1)]
    copy = Detection((2, 0, 42, 40), 0.9)
    assert len(find_segments([[left, copy], [left, copy]])) == 1


def test_the_score_with_which_a_track_begins_can_be_another_detectors():
    frames = frames_of("x" * 8, score=0.7)
    assert find_segments(frames) == []
    assert [(s.start, s.end) for s in find_segments(frames, 0.6)] == [(0, 8)]


def test_a_second_face_ends_a_stretch_and_only_the_first_face_goes_on():
    """Both are missed once, at different times, so that neither is there in all frames."""
    left, right = Detection((0, 0, 40, 40), 0.9), Detection((100, 0, 140, 40), 0.8)
    frames = [[left, right] for _ in range(12)]
    frames[4], frames[8] = [left], [right]
    found = [(s.start, s.end, frames[s.start][s.faces[0]]) for s in find_segments(frames)]
    assert found == [(0, 4, left), (4, 8, left), (8, 12, right)]


def test_a_face_is_compared_once_per_frame_however_long_the_video(monkeypatch):
    compared = []
    monkeypatch.setattr(m2sd_rules, "iou", lambda *boxes: compared.append(1) or iou(*boxes))
    assert len(find_segments(frames_of(("x" * 999 + "-") * 5))) == 5
    assert len(compared) < 2 * 5_000
