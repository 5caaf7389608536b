"""Perturbations of a whole sound track: (N,) float32 in [-1, 1] -> (N,) float32, aligned sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
from scipy.signal import fftconvolve

from utils.media.sound import RESAMPLER_QUALITY
from utils.media.sound_codecs import through_codec

Floats = npt.NDArray[np.floating[Any]]
Waveform = npt.NDArray[np.float32]  # (N,)
Change = Callable[[Waveform, int, float, np.random.Generator], Waveform]
PITCH_FFT, PITCH_HOP = 2048, 512


def _fit(waveform: Floats, length: int) -> Waveform:
    """The first `length` samples, filled up with zeros."""
    return np.pad(waveform[:length], (0, max(0, length - len(waveform)))).astype(np.float32, copy=False)


def _within_range(waveform: Floats) -> Waveform:
    """The sound, scaled down where it would clip: clipping is a perturbation of its own."""
    peak = float(np.abs(waveform).max(initial=0.0))
    return (waveform / max(peak, 1.0)).astype(np.float32)


def _add_at_snr(waveform: Floats, noise: Floats, snr_db: float) -> Waveform:
    power = np.mean(waveform.astype(np.float64) ** 2)
    gain = math.sqrt(power / np.mean(noise**2) / 10 ** (snr_db / 10))
    return _within_range(waveform + gain * noise)


def white_noise(waveform: Waveform, rate_hz: int, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Add white noise at a signal-to-noise ratio over the whole track. Silence stays silent."""
    return _add_at_snr(waveform, rng.standard_normal(len(waveform)), snr_db)


def speech_noise(waveform: Waveform, rate_hz: int, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Add noise with the track's own long-term spectrum, like the murmur of many such voices."""
    if not waveform.any():
        return waveform
    spectrum = np.fft.rfft(waveform.astype(np.float64))
    turned = np.abs(spectrum) * np.exp(2j * np.pi * rng.random(len(spectrum)))
    return _add_at_snr(waveform, np.fft.irfft(turned, len(waveform)), snr_db)


def resample(waveform: Waveform, rate_hz: int, low_hz: float, rng: np.random.Generator) -> Waveform:
    """Resample to a lower rate and back: nothing above half of that rate remains."""
    low = soxr.resample(waveform, rate_hz, low_hz, quality=RESAMPLER_QUALITY)
    return _fit(soxr.resample(low, low_hz, rate_hz, quality=RESAMPLER_QUALITY), len(waveform))


def _codec(name: str) -> Change:
    def change(waveform: Waveform, rate_hz: int, kbit_s: float, rng: np.random.Generator) -> Waveform:
        return through_codec(waveform, rate_hz, name, round(1000 * kbit_s))

    return change


def reverberate(waveform: Waveform, rate_hz: int, rt60_s: float, rng: np.random.Generator) -> Waveform:
    """Add the echo of a room, which falls by 60 dB in `rt60_s` and is as strong as the direct sound.

    The direct sound is not shifted, and the power of the whole does not change.
    """
    seconds = np.arange(1, round(rt60_s * rate_hz)) / rate_hz
    echo = rng.standard_normal(len(seconds)) * 10 ** (-3 * seconds / rt60_s)
    response = np.concatenate([[1.0], echo / np.sqrt(np.sum(echo**2))])
    wet = fftconvolve(waveform.astype(np.float64), response)[: len(waveform)]
    power = np.mean(wet**2)
    return _within_range(wet * math.sqrt(np.mean(waveform.astype(np.float64) ** 2) / power) if power else wet)


def shift_pitch(waveform: Waveform, rate_hz: int, semitones: float, rng: np.random.Generator) -> Waveform:
    """Change the pitch but not the speed: stretch by a phase vocoder, then resample to the old length."""
    import torch
    from torchaudio.functional import phase_vocoder

    factor = 2 ** (semitones / 12)
    window = torch.hann_window(PITCH_FFT)
    samples = torch.from_numpy(np.ascontiguousarray(waveform, np.float32))
    spectrum = torch.stft(samples, PITCH_FFT, PITCH_HOP, window=window, return_complex=True)
    advance = torch.linspace(0, math.pi * PITCH_HOP, PITCH_FFT // 2 + 1)[:, None]
    slowed = phase_vocoder(spectrum, 1 / factor, advance)
    length = round(len(waveform) * factor)
    stretched = torch.istft(slowed, PITCH_FFT, PITCH_HOP, window=window, length=length)
    shifted = soxr.resample(stretched.numpy(), rate_hz * factor, rate_hz, quality=RESAMPLER_QUALITY)
    return _within_range(_fit(shifted, len(waveform)))


def change_gain(waveform: Waveform, rate_hz: int, gain_db: float, rng: np.random.Generator) -> Waveform:
    """Make the sound quieter by -`gain_db` dB."""
    return (waveform * 10 ** (gain_db / 20)).astype(np.float32)


def clip_peaks(waveform: Waveform, rate_hz: int, share: float, rng: np.random.Generator) -> Waveform:
    """Clip the loudest `share` of the samples to the level of the others."""
    limit = np.quantile(np.abs(waveform), 1 - share)
    return np.clip(waveform, -limit, limit)


def delay(waveform: Waveform, rate_hz: int, late_s: float, rng: np.random.Generator) -> Waveform:
    """Delay the sound. The track's end fills its start: silence there would be a trace of some fakes."""
    return np.roll(waveform, round(late_s * rate_hz))


SOUND_CHANGES: dict[str, Change] = {
    "white_noise": white_noise,
    "speech_noise": speech_noise,
    "resampling": resample,
    "aac": _codec("aac"),
    "mp3": _codec("libmp3lame"),
    "opus": _codec("libopus"),
    "reverberation": reverberate,
    "pitch_up": shift_pitch,
    "pitch_down": shift_pitch,
    "gain": change_gain,
    "clipping": clip_peaks,
    "av_offset": delay,
}
