"""The curve of delays and the map of regions, of a score that is known."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from loaders.batches.data_config import DataConfig
from loaders.batches.windows import ClipDataset, WindowStart
from models.judging.evidence import REGIONS, blur_region, lag_curve, region_map
from tests.clip_factory import make_clip, write_clip_folder
from utils.clip.files import LANDMARKS_NAME, SAMPLE_RATE_HZ

FPS, STARTS = Fraction(25), (10, 14, 22)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    clip = make_clip(write_clip_folder(tmp_path_factory.mktemp("clips") / "clip", num_frames=40))
    return ClipDataset([clip], DataConfig(window_s=0.4), training=False, keeps_frames=True)


def in_batches(of_window):
    """A Score that takes windows as models/judging does, two at a time."""

    def score(windows):
        windows, logits = iter(windows), []
        while taken := list(itertools.islice(windows, 2)):
            logits += [of_window(window) for window in taken]
        return np.array(logits)

    return score


def test_a_curve_has_the_mean_logit_of_each_delay(dataset):
    """The level of the sound rises by a tenth a second: it says when the sound began."""
    score = in_batches(lambda window: 10 * window.waveform[: SAMPLE_RATE_HZ // 10].mean().item())
    curve = lag_curve(score, dataset, STARTS, FPS, 2)
    assert curve["delay_s"] == [-0.08, -0.04, 0.0, 0.04, 0.08]
    began_s = np.mean(STARTS) / 25 + 0.05
    np.testing.assert_allclose(curve["logit"], began_s - np.array(curve["delay_s"]), atol=0.005)


def test_a_sound_that_is_shifted_out_of_its_clip_is_silence(dataset):
    """A face of a third of a second is shifted by more than it lasts."""
    for start, delay_s in ((0, 0.6), (30, -0.6)):
        waveform = dataset[0, WindowStart(start, delay_s)].waveform
        assert waveform.shape == (0.4 * SAMPLE_RATE_HZ,)
        assert not waveform.any()
    half = dataset[0, WindowStart(30, -0.2)].waveform
    assert half[: SAMPLE_RATE_HZ // 5].any()
    assert not half[SAMPLE_RATE_HZ // 5 :].any()


def test_a_map_has_the_mean_fall_of_each_region(dataset):
    def sharpness(window):
        return window.video.float().diff(dim=2).abs().mean().item()

    landmarks = np.load(dataset.clips[0].folder / LANDMARKS_NAME)
    falls = {name: [] for name in REGIONS}
    for start, name in itertools.product(STARTS, REGIONS):
        window = dataset[0, WindowStart(start)]
        blurred = blur_region(window.video.numpy(), landmarks[start : start + 10], name)
        changed = dataclasses.replace(window, video=torch.from_numpy(blurred))
        falls[name].append(sharpness(window) - sharpness(changed))
    found = region_map(in_batches(sharpness), dataset, STARTS, FPS)
    assert found == {name: pytest.approx(np.mean(values)) for name, values in falls.items()}
    assert len({round(value, 3) for value in found.values()}) == len(REGIONS)
