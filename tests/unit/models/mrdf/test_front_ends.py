"""AV-HuBERT's front ends against numbers of python_speech_features and OpenCV."""

import cv2
import numpy as np
import pytest
import soxr
import torch

from models.mrdf.front_ends import FilterbankFrontEnd, LogFilterbank, PictureFrontEnd, halve, stack_rows

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


def test_the_front_end_takes_48_khz_and_masks():
    rng = np.random.default_rng(0)
    smooth = np.convolve(rng.standard_normal(60_000), np.hanning(25) / 12, mode="same")
    waveform = (0.1 * smooth).astype(np.float32)
    front_end = FilterbankFrontEnd(4)
    mask = torch.zeros(2, 70_000, dtype=torch.bool)
    mask[0, 60_000:] = mask[1, 30_000:] = True
    batch = torch.full((2, 70_000), 0.7)
    batch[:, :60_000] = torch.from_numpy(waveform)
    rows = front_end(batch, mask, 32)
    assert rows.shape == (2, 32, 104)
    for row, length in enumerate((60_000, 30_000)):
        resampled = soxr.resample(waveform[:length], 48_000, 16_000, quality="HQ")
        samples = torch.from_numpy(np.round(resampled * 32_768))
        expected = stack_rows(rows_of(samples)[0], 4, 32)[0]
        # the two low-pass filters differ at the ends and close to 8 kHz, where the last triangles are
        inside = slice(1, length // 1920 - 1)
        error = (rows[row] - expected)[inside].unflatten(1, (4, 26))[..., :25].abs()
        assert error.max() < 0.1
        assert error.mean() < 2e-3
    alone = front_end(batch[1:, :30_000], mask[1:, :30_000], 32)
    # sums of floats in another order may round to the next of 65,536 levels
    torch.testing.assert_close(rows[1:], alone, rtol=0, atol=2e-3)


def test_frames_are_the_published_codes():
    t, y, x, c = np.ogrid[:2, :224, :224, :3]
    frames = ((3 * y + 5 * x + 7 * c + 11 * t) % 256).astype(np.uint8)
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None]
    halved = halve(video)[0].permute(1, 2, 3, 0)
    for place, expected in (((0, 6, 6), [100, 107, 114]), ((1, 56, 56), [143, 150, 157]),
                            ((0, 105, 105), [148, 155, 162])):  # fmt: skip
        assert halved[place].tolist() == expected
    for frame, small in zip(frames, halved, strict=True):
        opencv = cv2.resize(frame, (112, 112), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(small, opencv)
    output = PictureFrontEnd(112, 100).eval()(video)[0].permute(1, 2, 3, 0)
    for place, expected in (((0, 0, 0), [-0.174807, -0.008437, 0.157932]),
                            ((1, 50, 50), [0.847178, 1.013547, 1.179917]),
                            ((0, 99, 99), [0.966013, 1.132383, 1.298752])):  # fmt: skip
        np.testing.assert_allclose(output[place], expected, atol=1e-6)
    assert output.mean().item() == pytest.approx(0.4780400, abs=1e-6)
    assert output.std(correction=0).item() == pytest.approx(1.6921054, abs=1e-6)


def test_pictures_of_another_size_are_brought_to_the_same():
    """An even gradient stays one, whatever the size of the crop."""
    for size in (90, 112, 224, 448):
        ramp = torch.linspace(0, 255, size).round().to(torch.uint8)
        output = PictureFrontEnd(112, 100).eval()(ramp.expand(1, 3, 1, size, size))
        values = (output[0, 0, 0, 50] * 0.165 + 0.421) * 255
        expected = torch.linspace(0, 255, 112)[6:106]
        assert (values - expected).abs().max() < 3
