"""Plain facts of windows change as their names say, and with nothing else."""

import dataclasses

import numpy as np
import pytest
import torch

from loaders.batches.facts import PICTURE_FACTS, SOUND_FACTS, fact_names, window_facts
from tests.clip_factory import make_batch


def smooth_batch(**changes):
    """Two clips of smooth pictures and a low tone."""
    batch = make_batch(2, 10, seconds=1.0)
    size = 64
    ramp = torch.linspace(40, 200, size)
    picture = (ramp[:, None] + ramp[None]) / 2
    video = picture.expand(2, 3, batch.video.shape[2], size, size).to(torch.uint8).contiguous()
    time = torch.arange(batch.waveform.shape[1]) / batch.sample_rate_hz
    waveform = (0.3 * torch.sin(2 * torch.pi * 300 * time)).expand(2, -1).contiguous()
    mask = torch.zeros_like(batch.audio_padding_mask)
    return dataclasses.replace(batch, video=video, waveform=waveform, audio_padding_mask=mask, **changes)


def fact(batch, name):
    names = fact_names(frozenset({"video", "sound"}))
    return window_facts(batch)[0, names.index(name)].item()


def test_facts_are_those_that_they_are_called():
    batch = smooth_batch()
    assert window_facts(batch).shape == (2, len(PICTURE_FACTS) + len(SOUND_FACTS))
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(-20, 21, batch.video.shape, generator=rng)
    noisy = dataclasses.replace(batch, video=(batch.video.int() + noise).clamp(0, 255).to(torch.uint8))
    for name in ("noise", "detail at 1 pixel", "flicker"):
        assert fact(noisy, name) > fact(batch, name) + 0.5
    bright = dataclasses.replace(batch, video=batch.video // 2 + 120)
    assert fact(bright, "brightness") > fact(batch, "brightness") + 0.1
    assert fact(bright, "contrast") < fact(batch, "contrast") - 0.3
    loud = dataclasses.replace(batch, waveform=batch.waveform * 2)
    assert fact(loud, "level") == pytest.approx(fact(batch, "level") + 2 * np.log(2), abs=0.01)
    hiss = batch.waveform + 0.1 * torch.randn(batch.waveform.shape, generator=rng)
    hissing = dataclasses.replace(batch, waveform=hiss)
    for name in ("bandwidth", "share above 4 kHz", "spectral flatness"):
        assert fact(hissing, name) > fact(batch, name) + 0.3


def test_facts_of_a_clip_do_not_depend_on_its_padding_or_neighbours():
    batch = smooth_batch()
    longer = batch.padded_to((batch.lengths[0] + 7, batch.lengths[1] + 5000, *batch.lengths[2:]))
    torch.testing.assert_close(window_facts(longer), window_facts(batch))
    assert fact_names(frozenset({"video"})) == PICTURE_FACTS
    silent = dataclasses.replace(
        batch, waveform=batch.waveform[:, :0], audio_padding_mask=batch.audio_padding_mask[:, :0]
    )
    assert window_facts(silent).shape == (2, len(PICTURE_FACTS))
