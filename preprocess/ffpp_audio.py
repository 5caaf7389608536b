"""Cut the sound of FaceForensics++, whose releases have none, out of the sequences' YouTube sources.

    python -m preprocess.ffpp_audio --source RAW
    python -m preprocess.ffpp_audio --source RAW --downloads folder_of_sounds --num_workers 8
    python -m preprocess.prepare --dataset ffpp --source RAW --output prepared --only '**/c23/**/*.mp4'

RAW is where the official download script put the data set. It must hold:

conversion_dict.json                                      "000": "<youtube id> <n>"; from the folder dataset/
                                                          of the FaceForensics++ repository
downloaded_videos_info/<youtube id>/<youtube id>.json     frame rate; script: -d original_youtube_videos_info
downloaded_videos_info/<youtube id>/extracted_sequences/<n>.json    the frames that became the sequence
downloaded_videos/<youtube id>.m4a                        the source or its sound, which you provide; also
                                                          .wav, .mp4 and others, or in a folder <youtube id>/

This command downloads nothing. Sequence NNN becomes RAW/sound/NNN.wav: mono, from the start of its first
frame to the end of its last, frames[0] / fps to (frames[-1] + 1) / fps. preprocess.prepare then finds it for
the original NNN and for the fakes whose target (first number) is NNN.

If RAW is on a read-only disk, make a folder of links to what is in it, and use that as RAW from here on.

No sound is made up. RAW/sound/missing_sound.csv lists the sequences whose source is missing, silent or too
short, with reasons, and the exit status is 1; training then needs --allow_missing and leaves out the original
together with its fakes. After an interruption, call it again: finished files are kept.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.clip.sound import WavWriter
from preprocess.work.jobs import PARTIAL_NAME, Job
from preprocess.work.limits import LimitConfig
from preprocess.work.progress import csv_text, with_progress
from preprocess.work.raw_layouts import FFPP_SOUNDS
from preprocess.work.workers import lock_partial, run_workers
from utils.clip.files import SAMPLE_RATE_HZ
from utils.config import opt, parse_groups, require_at_least
from utils.errors import ClipError, DatasetError, require_packages, run_command
from utils.files import WriteError, read_text, require_writable, write_text
from utils.media.sound import iterate_audio
from utils.media.times import read_picture_start_s
from utils.names import parse_json

log = logging.getLogger(__name__)

SOUND_SUFFIXES = (".wav", ".flac", ".m4a", ".aac", ".opus", ".ogg", ".mp3", ".mp4", ".webm", ".mkv")
INFO_FOLDERS = ("downloaded_videos_info", "downloaded_youtube_videos_info")
MISSING_NAME = "missing_sound.csv"


@dataclass(frozen=True, kw_only=True)
class FfppAudioConfig:
    """python -m preprocess.ffpp_audio"""

    source: Path = opt(dataclasses.MISSING, "the raw data set, as the official script downloads it")
    downloads: Path | None = opt(None, "the sources' sounds or videos; default: SOURCE/downloaded_videos")
    conversion: Path | None = opt(None, "videos of the sequences; default: SOURCE/conversion_dict.json")
    sample_rate_hz: int = opt(SAMPLE_RATE_HZ, "samples per second of the wav files")
    max_missing_audio_s: float = opt(0.5, "seconds of sound that may be missing, start and end together")
    num_workers: int = opt(0, "sequences at a time; 0: one per CPU core")
    overwrite: bool = opt(False, "cut again where a wav exists")

    def __post_init__(self) -> None:
        if not 8000 <= self.sample_rate_hz <= 192_000:
            raise ValueError(f"sample_rate_hz must be between 8000 and 192000, got {self.sample_rate_hz}")
        require_at_least(self, 0, "max_missing_audio_s", "num_workers")


@dataclass(frozen=True)
class Sequence:
    """One of the 1,000 sequences."""

    name: str  # "000"
    video: str  # YouTube id
    index: int  # which of the sequences of that video


def read_sequences(path: Path) -> list[Sequence]:
    """The sequences of conversion_dict.json, sorted by name. Raises DatasetError if it is not such a file."""
    if not path.is_file():
        raise DatasetError(
            f"{path}: no such file; conversion_dict.json is in the folder dataset/ of the FaceForensics++ "
            "repository (https://github.com/ondyari/FaceForensics)"
        )
    try:
        content = parse_json(read_text(path))
        sequences = []
        for name, text in sorted(content.items()):
            video, _, index = text.rpartition(" ")  # ids may begin with "-", but hold no space
            if not (len(name) == 3 and name.isdigit() and video and index.isdigit()):
                raise ValueError(f'{name!r}: {text!r} is not "000": "<youtube id> <n>"')
            if "/" in video or video.startswith("."):
                raise ValueError(f"{video!r} is not a YouTube id")
            sequences.append(Sequence(name, video, int(index)))
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"{path}: is not a conversion_dict.json ({error})") from error
    if not sequences:
        raise DatasetError(f"{path}: lists no sequence")
    return sequences


def read_span(info: Path, sequence: Sequence) -> tuple[Fraction, Fraction]:
    """Start and end of a sequence in its source, in s from the first frame; `info`: downloaded_videos_info.

    Raises ClipError if its two files do not say, or if frames between the first and the last were left out:
    no single cut of the sound fits them.
    """
    path = info / sequence.video / f"{sequence.video}.json"
    fps = _read_json(path, dict).get("fps")
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 1e-3 < fps < 1e6:
        raise ClipError(path, f"gives no frame rate (fps is {fps!r})")
    path = path.with_name("extracted_sequences") / f"{sequence.index}.json"
    frames = _read_json(path, list)
    if not frames or not all(type(frame) is int and frame >= 0 for frame in frames):
        raise ClipError(path, "is not a list of frame numbers")
    if frames[-1] - frames[0] + 1 != len(frames) or any(np.diff(frames) != 1):
        raise ClipError(path, "its frames are not consecutive")
    exact = Fraction(str(fps))  # 29.97 as written, never 29
    return frames[0] / exact, (frames[-1] + 1) / exact


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ClipError(path, "is missing") from None
    except ValueError as error:
        raise ClipError(path, f"is not JSON ({error})") from error
    if not isinstance(content, kind):
        raise ClipError(path, f"is not a JSON {kind.__name__}")
    return content


def find_source_sounds(downloads: Path, video: str) -> list[Path]:
    """Files that may hold the sound of a YouTube video, pure sound first."""
    folders = (downloads, downloads / video)
    suffixes = (form for suffix in SOUND_SUFFIXES for form in (suffix, suffix.upper()))
    places = (folder / f"{video}{suffix}" for suffix in suffixes for folder in folders)
    return [path for path in places if path.is_file()]


def cut_sound(source: Path, target: Path, span: tuple[Fraction, Fraction], config: FfppAudioConfig) -> None:
    """Write the samples of `span` as mono PCM16 wav, in constant memory.

    Sample 0 is at the time of the first frame. If the sound begins later, silence fills the gap; if it ends
    earlier, the file is shorter. Raises ClipError if the source cannot be decoded, or if more than
    `max_missing_audio_s` or everything is missing.
    """
    rate = config.sample_rate_hz
    origin_s = read_picture_start_s(source)
    start, end = (round(time_s * rate) for time_s in span)
    position: int | None = None  # of the next sample, counted from the first frame of the source
    late = 0
    with WavWriter(target, rate, end - start) as wav:
        for time_s, samples in iterate_audio(source, rate):
            if position is None:
                position = round((time_s - origin_s) * rate)
                late = wav.pad_to(position - start)
            wav.write(samples[max(0, start - position) :])
            position += len(samples)
            if wav.num_written == end - start:
                break
    written = wav.num_written - late
    if position is None:
        raise ClipError(source, "has no sound")
    missing_s = (end - start - written) / rate
    if missing_s > config.max_missing_audio_s or written == 0:
        raise ClipError(
            source,
            f"lacks {missing_s:.2f} of the {(end - start) / rate:.2f} s from {float(span[0]):.2f} s on: more "
            f"than --max_missing_audio_s {config.max_missing_audio_s:g}",
        )


@dataclass(frozen=True, kw_only=True)
class SoundJob(Job):
    """One sequence. `source` is the wav to be made."""

    sequence: Sequence


def sound_job(job: SoundJob, info: Path, downloads: Path, config: FfppAudioConfig) -> str:
    """Make the wav of one sequence. Raises ClipError with all reasons if that fails."""
    span = read_span(info, job.sequence)
    reasons = []
    for source in find_source_sounds(downloads, job.sequence.video):
        try:
            cut_sound(source, job.scratch / job.name, span, config)
            job.install(job.name)
            return "done"
        except ClipError as error:
            reasons.append(f"{source.name}: {error.reason}")
    nothing = f"no sound or video file of {job.sequence.video} in {downloads.name}"
    raise ClipError(job.source, "; ".join(reasons) or nothing)


def make_sounds(config: FfppAudioConfig, limits: LimitConfig | None = None) -> int:
    """Cut all sounds; return the exit status, 1 if a sequence has no sound."""
    root = _find_root(config.source)
    sequences = read_sequences(config.conversion or root / "conversion_dict.json")
    info, downloads = _find_inputs(config, root)
    folder = root / FFPP_SOUNDS
    try:
        require_writable(folder)
    except WriteError as error:
        links = f"a folder of links does: mkdir W; ln -s {root.resolve()}/* W; then --source W here and later"
        raise WriteError(f"{error}; where the raw data set is read-only, {links}") from error
    jobs = []
    for sequence in sequences:
        target = folder / f"{sequence.name}.wav"
        if config.overwrite or not target.is_file():
            target.unlink(missing_ok=True)  # if a new wav cannot be made, no old one may remain
            jobs.append(SoundJob(name=target.name, source=target, folder=folder, sequence=sequence))
    report = folder / MISSING_NAME
    do = functools.partial(sound_job, info=info, downloads=downloads, config=config)
    with lock_partial(folder / PARTIAL_NAME, "1_of_1") as partial:
        outcomes = run_workers(jobs, do, limits or LimitConfig(), partial, config.num_workers)
        with with_progress(outcomes, len(jobs), "sequence") as shown:
            failed = [(job.sequence, reason) for job, status, reason in shown if status == "failed"]
    report.unlink(missing_ok=True)
    if failed:
        rows = [(sequence.name, sequence.video, reason) for sequence, reason in failed]
        write_text(report, csv_text(("sequence", "youtube_id", "reason"), rows))
    num_made = len(sequences) - len(failed)
    where = f"; see {report} for the others" if failed else ""
    log.info("%d of %d sequences have sound in %s%s", num_made, len(sequences), folder, where)
    return 1 if failed else 0


def _find_inputs(config: FfppAudioConfig, root: Path) -> tuple[Path, Path]:
    """The folders of the frame numbers and of the sources. Raises DatasetError if one is missing."""
    info = next((root / name for name in INFO_FOLDERS if (root / name).is_dir()), None)
    if info is None:
        raise DatasetError(
            f"{root / INFO_FOLDERS[0]}: no such folder; the official script downloads it with "
            "-d original_youtube_videos_info"
        )
    downloads = config.downloads or root / "downloaded_videos"
    if not downloads.is_dir():
        raise DatasetError(f"{downloads}: no such folder; it must hold sounds or videos named by YouTube id")
    return info, downloads


def _find_root(source: Path) -> Path:
    for root in (source, source / "FaceForensics++", source / "FaceForensics"):
        if any((root / name).is_dir() for name in (*INFO_FOLDERS, "original_sequences")):
            return root
    if source.is_dir():
        return source
    raise DatasetError(f"{source}: no such folder; --source must be the folder of the raw ffpp")


def main() -> int:
    config, limits = parse_groups(__doc__, FfppAudioConfig, LimitConfig)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    require_packages(["av", "soxr", "soundfile"], "preprocess.ffpp_audio")
    return make_sounds(config, limits)


if __name__ == "__main__":
    run_command(main)
