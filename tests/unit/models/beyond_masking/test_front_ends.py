from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.beyond_masking.mfcc import Mfcc, centre_columns
from models.beyond_masking.video import VideoFrontEnd, equalize_luma, equalize_luma_on_device
from models.blocks.position import sinusoidal_positions


def _opencv_equalized(frame):
    luma_chroma = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)
    luma_chroma[..., 0] = cv2.equalizeHist(luma_chroma[..., 0])
    return cv2.cvtColor(luma_chroma, cv2.COLOR_YCrCb2RGB)


@pytest.mark.parametrize("equalize", [equalize_luma, equalize_luma_on_device])
def test_equalisation_is_opencvs_bit_for_bit(equalize):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (50, 70, 3), dtype=np.uint8) for _ in range(4)]
    frames.append(rng.integers(100, 120, (50, 70, 3), dtype=np.uint8))  # low contrast
    frames.append(np.full((50, 70, 3), 93, np.uint8))  # one value only
    frames.append(
        rng.choice(np.array([[255, 0, 0], [0, 0, 255], [3, 250, 7]], np.uint8), (50, 70))
    )  # saturated
    video = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)[None]
    expected = np.stack([_opencv_equalized(frame) for frame in frames])
    actual = equalize(video)[0].permute(1, 2, 3, 0).numpy()
    np.testing.assert_array_equal(actual, expected)


def test_mfcc_are_librosas_whatever_the_padding():
    """librosa 0.11's of these sounds lie next to this file: its first import compiles for half a minute.

    They are librosa.feature.mfcc(y=waveform, sr=48_000, n_mfcc=40, n_fft=2048, hop_length=512).
    """
    stored = np.load(Path(__file__).with_name("librosa_mfcc.npz"))
    rng = np.random.default_rng(0)
    waveforms = [
        rng.standard_normal(n).astype(np.float32) * scale
        for n, scale in ((40_000, 0.1), (25_321, 0.5), (48_128, 1e-4))
    ]
    longest = max(map(len, waveforms)) + 5_000
    batch = torch.full((3, longest), 0.7)
    mask = torch.ones(3, longest, dtype=torch.bool)
    for row, waveform in enumerate(waveforms):
        batch[row, : len(waveform)] = torch.from_numpy(waveform)
        mask[row, : len(waveform)] = False
    mfcc, num_columns = Mfcc(40, 48_000)(batch, mask)
    for row, waveform in enumerate(waveforms):
        expected = stored[f"of_{len(waveform)}_samples"]
        assert num_columns[row] == expected.shape[1]
        np.testing.assert_allclose(mfcc[row, :, : num_columns[row]], expected, atol=2e-3)
        assert (mfcc[row, :, num_columns[row] :] == 0).all()


def test_centre_columns_takes_the_middle_or_adds_zeros_behind():
    mfcc = torch.arange(10.0).expand(2, 1, 10).clone()
    picked = centre_columns(mfcc, torch.tensor([10, 3]), 4)
    assert picked[0, 0].tolist() == [3, 4, 5, 6]
    assert picked[1, 0].tolist() == [0, 1, 2, 0]


def test_the_front_end_resizes_and_normalises():
    video = torch.full((1, 3, 2, 32, 32), 128, dtype=torch.uint8)
    frames = VideoFrontEnd(16, equalize=False, kinetics_normalization=True)(video)
    assert frames.shape == (1, 3, 2, 16, 16)
    assert frames[0, 0, 0, 0, 0].item() == pytest.approx((128 / 255 - 0.43216) / 0.22803, rel=1e-5)


def test_positions_are_the_papers():
    table = sinusoidal_positions(torch.tensor([0.0, 3.0]), 4)
    expected = [[0, 1, 0, 1], [np.sin(3), np.cos(3), np.sin(3 / 100), np.cos(3 / 100)]]
    np.testing.assert_allclose(table, expected, atol=1e-6)
