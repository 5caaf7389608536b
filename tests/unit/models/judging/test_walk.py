"""The walk over a judged video's frames, which both annotated videos share."""

from fractions import Fraction

import numpy as np

from models.judging.walk import to_even, walk_faces
from preprocess.clip.all_faces import TrackedVideo
from tests.moving_face import moving_face, write_video


def test_a_frame_that_stays_over_a_gap_is_handed_out_as_it_was(tmp_path):
    """What was drawn into it the first time does not show the second time."""
    path, times_ms = tmp_path / "a.mp4", [0, 40, 80, 240, 280, 320]
    write_video(path, moving_face(6, size=(160, 120), face_height=60), times_ms=times_ms)
    tracked = TrackedVideo(
        fps=Fraction(25), num_frames=6, width=160, height=120, silent=True, sound=path, tracks=[]
    )
    for frame, faces in walk_faces(path, tracked, lambda pictures, count: pictures):
        assert not faces
        assert frame.mean() < 250
        frame[:] = 255


def test_an_odd_row_and_column_are_repeated():
    frame = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    even = to_even(frame)
    assert even.shape == (6, 4, 3)
    np.testing.assert_array_equal(even[5, :3], frame[4])
    np.testing.assert_array_equal(even[:5, 3], frame[:, 2])
    assert to_even(even).shape == even.shape
