"""AV-HuBERT's filterbank against numbers of python_speech_features."""

import numpy as np
import pytest
import torch

from models.backbones.log_filterbank import LogFilterbank, stack_rows

# of the sine below, made by python_speech_features 0.6
ROW_0 = """
    11.66321 11.83744 13.56542 15.38291 18.97138 18.50788 15.02310 14.07848 13.58502 13.16036
    12.78343 12.51047 12.31123 12.06923 11.92483 11.79179 11.61431 11.50560 11.40619 11.29952
    11.22053 11.16561 11.09990 11.08803 11.06019 11.08744
"""
ROW_50 = """
    12.07401 12.00861 13.64103 15.41832 18.97724 18.51056 15.00187 14.04782 13.55040 13.12069
    12.76252 12.44494 12.28884 12.00166 11.88926 11.75248 11.56083 11.45068 11.36345 11.25660
    11.17703 11.11383 11.05350 11.04017 11.01754 11.04354
"""


def numbers(text):
    return np.array([float(word) for word in text.split()])


@pytest.fixture(scope="module")
def sine():
    """One second at 16 kHz, in 16-bit units."""
    return torch.from_numpy(np.round(10_000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000))).float()


def rows_of(samples, num_samples=None):
    return LogFilterbank()(samples[None], torch.tensor([num_samples or len(samples)]))


def test_the_filterbank_is_python_speech_features(sine):
    assert sine[:5].tolist() == [0, 1719, 3387, 4955, 6374]
    rows, num_rows = rows_of(sine)
    assert rows.shape == (1, 99, 26)
    assert num_rows.tolist() == [99]
    assert rows.mean().item() == pytest.approx(12.050958, abs=1e-5)
    np.testing.assert_allclose(rows[0, 0], numbers(ROW_0), atol=1e-4)
    np.testing.assert_allclose(rows[0, 50], numbers(ROW_50), atol=1e-4)


def test_silence_has_the_floors_logarithm_and_a_short_sound_one_row():
    rows, _ = rows_of(torch.zeros(1600))
    np.testing.assert_allclose(rows, np.full((1, 9, 26), -36.043653), atol=1e-5)
    assert rows_of(torch.ones(400))[0].shape == rows_of(torch.ones(7))[0].shape == (1, 1, 26)
    assert rows_of(torch.ones(401))[0].shape == (1, 2, 26)
    assert rows_of(torch.zeros(160_000))[0].shape == (1, 999, 26)


def test_stacked_rows_are_normalised_together(sine):
    stacked = stack_rows(rows_of(sine)[0], 4, 25)[0]
    np.testing.assert_allclose(stacked[0, :6], [-0.0716, -0.0143, 0.5539, 1.1515, 2.3314, 2.1790], atol=1e-4)
    np.testing.assert_allclose(stacked[0, 26:29], [0.5954, 0.4515, 0.8493], atol=1e-4)
    np.testing.assert_allclose(stacked[24, :3], [0.8560, 0.7801, 0.9899], atol=1e-4)
    np.testing.assert_allclose(stacked[24, -3:], [-1.5185] * 3, atol=1e-4)
    longer = stack_rows(rows_of(sine)[0], 4, 27)[0]
    torch.testing.assert_close(longer[:25], stacked)
    assert (longer[25:] == 0).all()
    torch.testing.assert_close(stack_rows(rows_of(sine)[0], 4, 3)[0], stacked[:3])


def test_a_clips_rows_do_not_depend_on_how_far_it_is_padded(sine):
    """Nor does the pre-emphasis of its last sample reach the first one after it."""
    for length in (399, 4_321, 15_999):
        alone, _ = rows_of(sine[:length])
        rows, num_rows = rows_of(sine, length)
        assert num_rows.item() == alone.shape[1]
        # the caller masks what is not the clip's
        masked = torch.where(torch.arange(len(sine)) < length, sine, 0.0)
        rows, _ = rows_of(masked, length)
        torch.testing.assert_close(rows[:, : alone.shape[1]], alone, rtol=0, atol=1e-4)
        assert (rows[:, alone.shape[1] :] == 0).all()
