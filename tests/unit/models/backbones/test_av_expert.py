"""The audio-visual expert: its mel bands against librosa, its slots, and that it can learn synchrony."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.backbones.av_expert import AudioSlots, AudioVisualExpert, MelRows, slot_means
from models.blocks.vit import ViTSize

RATE_HZ = 16_000


def sound(seconds=0.64, rate_hz=RATE_HZ):
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(round(seconds * rate_hz))).astype(np.float32)


def test_rows_are_librosas_mel_bands_in_decibels():
    """librosa 0.11's of this sound lie next to this file: its first import compiles for half a minute.

    They are power_to_db(power[:, :64], ref=np.max, top_db=80) of feature.melspectrogram(y=samples, sr=16_000,
    n_fft=512, win_length=320, hop_length=160, n_mels=80, htk=True, norm=None).
    """
    samples = sound()
    samples[6000:] = 0
    decibels = np.load(Path(__file__).with_name("librosa_mel.npz"))["decibels"]
    rows = MelRows()(torch.from_numpy(samples)[None], RATE_HZ, 16)
    assert rows.shape == (1, 1, 64, 80)
    np.testing.assert_allclose(rows[0, 0].T, (decibels + 40) / 40, atol=1e-4)
    assert rows.min() == -1
    assert rows.max() == 1


def test_rows_of_48_khz_are_close_to_those_of_16_khz():
    seconds = np.arange(round(0.64 * 48_000)) / 48_000
    tone = torch.from_numpy(0.3 * np.sin(2 * np.pi * 440 * seconds)).float()[None]
    mel = MelRows()
    high, low = mel(tone, 48_000, 16), mel(tone[:, ::3], RATE_HZ, 16)
    inner = (..., slice(4, 60), slice(8, 20))  # around the tone, which nothing at the ends disturbs
    torch.testing.assert_close(high[inner], low[inner], atol=0.02, rtol=0)


def test_rows_do_not_depend_on_padding():
    samples = torch.from_numpy(sound(0.5))[None]
    mel = MelRows()
    longer = torch.nn.functional.pad(samples, (0, 4000))
    torch.testing.assert_close(mel(samples, RATE_HZ, 16), mel(longer, RATE_HZ, 16), atol=1e-5, rtol=0)


def test_a_slot_of_sound_is_two_frames():
    torch.manual_seed(0)
    network = AudioSlots().eval()
    rows = torch.zeros(1, 1, 64, 80)
    with torch.no_grad():
        silent = network(rows)
        rows[:, :, 60:] = 1.0  # the last frame's
        loud = network(rows)
    assert silent.shape == (1, 8, 512)
    changed = (silent != loud).any(dim=2)[0]
    assert changed[-1]
    strength = (silent - loud).norm(dim=2)[0]
    assert strength.argmax() == 7
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 1, 4, 80))  # half a slot


def test_slots_are_unit_vectors_of_means_over_places():
    torch.manual_seed(0)
    expert = AudioVisualExpert(ViTSize(24, 1, 3), num_frames=4, image_size=32).eval()
    video = torch.randn(2, 3, 4, 32, 32)
    slots = expert.video_slots(video)
    assert slots.shape == (2, 2, 256)
    torch.testing.assert_close(slots.norm(dim=2), torch.ones(2, 2))
    tokens = expert.video_trunk(video)
    expected = expert.video_projection(torch.stack([tokens[:, :4].mean(1), tokens[:, 4:].mean(1)], dim=1))
    torch.testing.assert_close(slots, nn.functional.normalize(expected, dim=2))
    assert slot_means(tokens, 2).shape == (2, 2, 24)
    heard = expert.audio_slots(torch.from_numpy(np.stack([sound(0.16)] * 2)), RATE_HZ)
    assert heard.shape == (2, 2, 256)
    torch.testing.assert_close(heard.norm(dim=2), torch.ones(2, 2))
