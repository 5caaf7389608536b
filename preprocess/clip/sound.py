"""The sound of a video as mono PCM16 wav, exactly as long as the picture."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from utils.clip.files import SAMPLE_RATE_HZ, ClipInfo
from utils.clip.sound import read_waveform
from utils.config import opt, require_at_least, require_between
from utils.errors import ClipError
from utils.media.sound import SILENCE, SoundReport, iterate_audio
from utils.media.times import VideoTimes

# ((N,) float32 mono, samples per second) -> the same number of samples
WaveformChange = Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class AudioConfig:
    """preprocess/clip/sound.py: how the sound is written, and when it is too short."""

    sample_rate_hz: int = opt(SAMPLE_RATE_HZ, "samples per second of the wav")
    max_missing_audio_s: float = opt(0.5, "seconds of sound that may be missing, start and end together")
    allow_silent: bool = opt(False, "keep videos without sound, with a silent wav, marked in clip.json")

    def __post_init__(self) -> None:
        require_between(self, 8000, 192_000, "sample_rate_hz")
        require_at_least(self, 0, "max_missing_audio_s")


@dataclass(frozen=True, kw_only=True)
class AudioReport:
    """How the sound of one video fits its picture: these fields of clip.json."""

    audio_start_s: float = 0.0  # of the sound's first sample, relative to the first frame
    audio_padded_s: float = 0.0  # silence added at the end
    silent: bool  # there was no sound at all
    silent_reason: str = ""
    sound_undecoded_s: list[list[float]] = field(default_factory=list)  # start and end, from the first frame


class WavWriter:
    """Writes a mono PCM16 wav of at most `total` samples; further ones are cut off."""

    def __init__(self, path: Path, sample_rate_hz: int, total: int) -> None:
        import soundfile

        path.write_bytes(bytes(44))  # on a full disk this says so, where libsndfile says "System error"
        self._file = soundfile.SoundFile(
            path, "w", samplerate=sample_rate_hz, channels=1, format="WAV", subtype="PCM_16"
        )
        self._total = total
        self.num_written = 0

    def write(self, samples: npt.NDArray[np.float32]) -> None:
        """Append (N,) samples in [-1, 1]. Raises OSError if the disk is full."""
        import soundfile

        samples = samples[: self._total - self.num_written]
        # times 32768, so that a PCM16 source at the same rate keeps its values
        try:
            self._file.write(np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16))
        except (soundfile.LibsndfileError, AssertionError) as error:  # without the system's reason
            reason = "cannot grow further: the disk is full, or --max_output_gb is reached"
            raise OSError(errno.EFBIG, reason, self._file.name) from error
        self.num_written += len(samples)

    def pad_to(self, position: int) -> int:
        """Append silence up to sample `position`; return the number of samples added."""
        start = self.num_written
        while (left := min(position, self._total) - self.num_written) > 0:
            self.write(np.zeros(min(left, 1 << 16), np.float32))
        return self.num_written - start

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def extract_audio(
    source: Path,
    path: Path,
    times: VideoTimes,
    config: AudioConfig,
    *,
    sound: Path | None = None,
    change: WaveformChange | None = None,
) -> AudioReport:
    """Write the sound of a video's frames as mono PCM16 wav, in constant memory unless there is a `change`.

    `times` are those of `read_video_times(source)`: sample 0 belongs to the first frame, and the length is
    that of all frames at the average rate. `sound` is a separate file with the sound, which begins with the
    first frame. `change` applies to the whole waveform. Raises ClipError if there is no sound (unless
    `allow_silent`), if it cannot be decoded, or if too much of it is missing.
    """
    rate = config.sample_rate_hz
    total = round(len(times.starts_s) / times.fps * rate)
    first: int | None = None  # sample at which the sound begins
    origin_s = times.starts_s[0] if sound is None else 0.0
    found, loudest = SoundReport(), 0.0
    with WavWriter(path, rate, total) as wav:
        for time_s, samples in iterate_audio(sound or source, rate, found):
            if first is None:
                first = round((time_s - origin_s) * rate)
                wav.pad_to(first)
                to_cut = max(0, -first)
            wav.write(samples[to_cut:])
            loudest = max(loudest, float(np.abs(samples).max(initial=0.0)))
            to_cut = max(0, to_cut - len(samples))
            if wav.num_written == total:
                break
        padded = wav.pad_to(total)
    if change is not None:
        _rewrite(path, rate, change)
    if first is None:
        report = AudioReport(silent=True, silent_reason="no sound track")
    elif loudest < SILENCE:
        report = AudioReport(silent=True, silent_reason="digital silence")
    else:
        found.require_whole(source, total / rate)
        report = AudioReport(
            audio_start_s=round(first / rate, 6),
            audio_padded_s=round(padded / rate, 6),
            silent=False,
            sound_undecoded_s=[[round(time_s - origin_s, 3) for time_s in span] for span in found.lost_s],
        )
    require_sound(source, report, config)
    return report


def _rewrite(path: Path, rate_hz: int, change: WaveformChange) -> None:
    waveform = read_waveform(path, rate_hz)
    changed = change(waveform, rate_hz)
    if changed.shape != waveform.shape:
        raise ValueError(f"a change of {len(waveform)} samples returned {changed.shape}")
    with WavWriter(path, rate_hz, len(waveform)) as wav:
        wav.write(changed)


def require_sound(path: Path, report: AudioReport | ClipInfo, config: AudioConfig) -> None:
    """Raise ClipError if the sound is too short for its picture, or silent where that is not allowed."""
    if report.silent and not config.allow_silent:
        what = "its sound is digital silence" if report.silent_reason == "digital silence" else "has no sound"
        raise ClipError(path, f"{what}; --allow_silent keeps such videos")
    late_s, padded_s = max(0.0, report.audio_start_s), report.audio_padded_s
    if late_s + padded_s > config.max_missing_audio_s:
        found = f"the sound starts {late_s:.2f} s after the picture and ends {padded_s:.2f} s before it"
        limit = f"--max_missing_audio_s {config.max_missing_audio_s:g}"
        raise ClipError(path, f"{found}: more than {limit} is missing")
