"""Perturbations of a whole sound track: (N,) float32 in [-1, 1] in, (N,) out, sample for sample in place."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import soxr
from scipy.signal import fftconvolve

from utils.media.sound import RESAMPLER_QUALITY
from utils.media.sound_codecs import through_codec

Change = Callable[[np.ndarray, int, float, np.random.Generator], np.ndarray]
PITCH_FFT, PITCH_HOP = 2048, 512


def _fit(waveform: np.ndarray, length: int) -> np.ndarray:
    """Cut at the end, or fill up with zeros."""
    return np.pad(waveform[:length], (0, max(0, length - len(waveform)))).astype(np.float32, copy=False)


def _within_range(waveform: np.ndarray) -> np.ndarray:
    """Sound and noise lowered together where they would clip: that would be another perturbation."""
    peak = float(np.abs(waveform).max(initial=0.0))
    return (waveform / max(peak, 1.0)).astype(np.float32)


def _add_at_snr(waveform: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    power = np.mean(waveform.astype(np.float64) ** 2)
    gain = math.sqrt(power / np.mean(noise**2) / 10 ** (snr_db / 10))
    return _within_range(waveform + gain * noise)


def white_noise(waveform: np.ndarray, rate_hz: int, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """White noise at a signal-to-noise ratio over the whole track. Silence stays silence."""
    return _add_at_snr(waveform, rng.standard_normal(len(waveform)), snr_db)


def speech_noise(waveform: np.ndarray, rate_hz: int, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Noise with the track's own long-term spectrum, as the murmur of many such voices has it."""
    if not waveform.any():
        return waveform
    spectrum = np.fft.rfft(waveform.astype(np.float64))
    turned = np.abs(spectrum) * np.exp(2j * np.pi * rng.random(len(spectrum)))
    return _add_at_snr(waveform, np.fft.irfft(turned, len(waveform)), snr_db)


def resample(waveform: np.ndarray, rate_hz: int, low_hz: float, rng: np.random.Generator) -> np.ndarray:
    """To a lower sample rate and back: nothing is left above half of it."""
    low = soxr.resample(waveform, rate_hz, low_hz, quality=RESAMPLER_QUALITY)
    return _fit(soxr.resample(low, low_hz, rate_hz, quality=RESAMPLER_QUALITY), len(waveform))


def _codec(name: str) -> Change:
    def change(waveform: np.ndarray, rate_hz: int, kbit_s: float, rng: np.random.Generator) -> np.ndarray:
        return through_codec(waveform, rate_hz, name, round(1000 * kbit_s))

    return change


def reverberate(waveform: np.ndarray, rate_hz: int, rt60_s: float, rng: np.random.Generator) -> np.ndarray:
    """A room whose echo falls by 60 dB in `rt60_s` and is as strong as the direct sound.

    The direct sound keeps its place; the whole is brought back to the power that it had.
    """
    seconds = np.arange(1, round(rt60_s * rate_hz)) / rate_hz
    echo = rng.standard_normal(len(seconds)) * 10 ** (-3 * seconds / rt60_s)
    response = np.concatenate([[1.0], echo / np.sqrt(np.sum(echo**2))])
    wet = fftconvolve(waveform.astype(np.float64), response)[: len(waveform)]
    power = np.mean(wet**2)
    return _within_range(wet * math.sqrt(np.mean(waveform.astype(np.float64) ** 2) / power) if power else wet)


def shift_pitch(waveform: np.ndarray, rate_hz: int, semitones: float, rng: np.random.Generator) -> np.ndarray:
    """Another pitch at the same speed: stretched by a phase vocoder, then resampled back to its length."""
    import torch
    from torchaudio.functional import phase_vocoder

    factor = 2 ** (semitones / 12)
    window = torch.hann_window(PITCH_FFT)
    spectrum = torch.stft(
        torch.from_numpy(np.ascontiguousarray(waveform, np.float32)),
        PITCH_FFT, PITCH_HOP, window=window, return_complex=True,
    )  # fmt: skip
    advance = torch.linspace(0, math.pi * PITCH_HOP, PITCH_FFT // 2 + 1)[:, None]
    slowed = phase_vocoder(spectrum, 1 / factor, advance)
    stretched = torch.istft(
        slowed, PITCH_FFT, PITCH_HOP, window=window, length=round(len(waveform) * factor)
    ).numpy()
    shifted = soxr.resample(stretched, rate_hz * factor, rate_hz, quality=RESAMPLER_QUALITY)
    return _within_range(_fit(shifted, len(waveform)))


def change_gain(waveform: np.ndarray, rate_hz: int, gain_db: float, rng: np.random.Generator) -> np.ndarray:
    """Quieter by so many dB."""
    return (waveform * 10 ** (gain_db / 20)).astype(np.float32)


def clip_peaks(waveform: np.ndarray, rate_hz: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Cut off what is louder than all but the loudest `share` of the samples."""
    limit = np.quantile(np.abs(waveform), 1 - share)
    return np.clip(waveform, -limit, limit)


def delay(waveform: np.ndarray, rate_hz: int, late_s: float, rng: np.random.Generator) -> np.ndarray:
    """The sound later than the picture. The track's end fills its start: silence there would be a trace of
    its own, which some data sets' fakes have.
    """
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
