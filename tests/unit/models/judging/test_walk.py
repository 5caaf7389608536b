"""The walk over a judged video's frames, which both annotated videos share."""

import numpy as np

from models.judging.walk import to_even


def test_an_odd_row_and_column_are_repeated():
    frame = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    even = to_even(frame)
    assert even.shape == (6, 4, 3)
    np.testing.assert_array_equal(even[5, :3], frame[4])
    np.testing.assert_array_equal(even[:5, 3], frame[:, 2])
    assert to_even(even).shape == even.shape
