"""MRDF's front ends against numbers of soxr and OpenCV."""

import cv2
import numpy as np
import pytest
import soxr
import torch

from models.backbones.log_filterbank import stack_rows
from models.mrdf.front_ends import FilterbankFrontEnd, PictureFrontEnd, halve
from tests.unit.models.backbones.test_log_filterbank import rows_of


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
