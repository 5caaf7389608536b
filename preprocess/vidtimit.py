"""VidTIMIT to DeepfakeTIMIT's missing half: real videos from numbered JPEG frames at 25 fps, and their sound.

    python -m preprocess.vidtimit --source VidTIMIT --output DeepfakeTIMIT

SOURCE/<subject>/video/<sentence>/<001, 002, ...> and SOURCE/<subject>/audio/<sentence>.wav become
OUTPUT/real/<subject>/<sentence>.mp4 and, byte for byte, OUTPUT/real/<subject>/<sentence>.wav: in a file of
its own as beside the fakes, so that no encoder tells the one from the other. Then prepare the whole with
preprocess.prepare --dataset deepfaketimit.

Subjects are those who have fakes in OUTPUT; all of SOURCE if there are no fakes yet. Head rotations (no
sound) are left out. Call it again after an interruption: finished videos stay. Failures are listed in
OUTPUT/real/failures.csv.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from preprocess.work.batch import Batch, WorkConfig, run_batch
from preprocess.work.jobs import Job
from preprocess.work.stores import LocalStore
from utils.config import opt, parse_command
from utils.errors import ClipError, DatasetError, run_command
from utils.media.allowed import media_limits, report_length
from utils.media.writer import VideoWriter

log = logging.getLogger(__name__)

FPS = Fraction(25)
FAKE_FOLDERS = ("higher_quality", "lower_quality", "low_quality")
SUBJECT = re.compile(r"[fm][a-z]{3}\d")
FRAME = re.compile(r"(\d+)(\.jpe?g)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class VidTimitConfig(WorkConfig):
    """python -m preprocess.vidtimit"""

    source: Path = opt(dataclasses.MISSING, "where VidTIMIT's subjects were unpacked to")
    output: Path = opt(dataclasses.MISSING, "the DeepfakeTIMIT folder, or a new one")
    subjects: tuple[str, ...] = opt((), "only these, e.g. fadg0 fram1; none = those who have fakes in OUTPUT")
    crf: int = opt(
        0, "H.264 quality: 0 loses nothing but half of the colours' resolution, as JPEG usually has before"
    )
    overwrite: bool = opt(False, "make videos anew that are there already")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf must be between 0 and 51, got {self.crf}")


def find_subjects(source: Path) -> dict[str, Path]:
    """subject -> its folder with `video` and `audio`, sorted. Raises DatasetError if there is none."""
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder; --source is where VidTIMIT lies")
    found = {}
    for place in sorted([*source.glob("*"), *source.glob("*/*")]):  # some archives have a folder of their own
        if SUBJECT.fullmatch(place.name) and (place / "video").is_dir() and (place / "audio").is_dir():
            found.setdefault(place.name, place)
    if not found:
        names = sorted(entry.name for entry in source.iterdir())
        raise DatasetError(
            f"{source}: expected VidTIMIT's <subject>/video and <subject>/audio, e.g. fadg0/video; found "
            f"{', '.join(names[:8]) or 'nothing'}"
        )
    return found


def chosen_subjects(config: VidTimitConfig, found: dict[str, Path]) -> list[str]:
    """Who is wanted, sorted. Raises DatasetError if one of them is not in VidTIMIT."""
    faked = {
        place.name
        for folder in FAKE_FOLDERS
        for place in (config.output / folder).glob("*")
        if place.is_dir() and SUBJECT.fullmatch(place.name)
    }
    wanted = set(config.subjects) or faked or set(found)
    if absent := sorted(wanted - set(found)):
        raise DatasetError(
            f"{config.source}: has no subject {', '.join(absent)}; unpack their archives there. Found "
            f"{len(found)}: {', '.join(sorted(found))}"
        )
    return sorted(wanted)


def find_sentences(config: VidTimitConfig) -> Batch:
    """One job per sentence that has sound. Raises DatasetError if there is none."""
    found = find_subjects(config.source)
    jobs, num_silent = [], 0
    for subject in chosen_subjects(config, found):
        videos = {place.name for place in (found[subject] / "video").iterdir() if place.is_dir()}
        sounds = {place.stem: place for place in (found[subject] / "audio").glob("*.wav")}
        num_silent += len(videos - set(sounds))
        jobs += [
            Job(
                name=f"{subject}/{sentence}",
                source=found[subject] / "video" / sentence,
                folder=config.output / "real" / subject,
                sound=sound,
            )
            for sentence, sound in sorted(sounds.items())
        ]
    if not jobs:
        raise DatasetError(f"{config.source}: no <subject>/audio/<sentence>.wav of the wanted subjects")
    log.info("%d sentences; %d sequences without sound (head rotations) left out", len(jobs), num_silent)
    k, n = config.shard_numbers()
    return Batch(jobs=jobs[k - 1 :: n], output=LocalStore(config.output / "real"))


def frame_files(folder: Path) -> list[Path]:
    """The frames of a sequence in order. Raises ClipError unless they are numbered from 1 without a gap."""
    numbered: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = FRAME.fullmatch(path.name)
        if match is None:
            raise ClipError(folder, f"{path.name} is no frame: expected 001, 002, ..., with or without .jpg")
        if int(match[1]) in numbered:
            raise ClipError(folder, f"{path.name} and {numbered[int(match[1])].name} are the same frame")
        numbered[int(match[1])] = path
    if not numbered:
        raise ClipError(folder, "holds no frame 001, 002, ...")
    if absent := sorted(set(range(1, max(numbered) + 1)) - set(numbered)):
        raise ClipError(
            folder, f"{len(absent)} of {max(numbered)} frames are not there, e.g. {absent[0]:03d}"
        )
    return [numbered[number] for number in range(1, max(numbered) + 1)]


def read_frame(path: Path) -> np.ndarray:
    """One picture, (H, W, 3) uint8 RGB. Raises ClipError if it is no JPEG, too large or damaged."""
    import cv2

    data = np.fromfile(path, np.uint8)
    width, height = jpeg_size(data.tobytes())
    media_limits().require_pixels(path, width, height)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if width * height else None
    if image is None:
        raise ClipError(path, "is not a readable picture; get the archive again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) by the header of a JPEG; (0, 0) if it is none."""
    position = 2
    while data.startswith(b"\xff\xd8") and data[position : position + 1] == b"\xff":
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the start of a frame
            return int.from_bytes(data[position + 7 : position + 9]), int.from_bytes(
                data[position + 5 : position + 7]
            )
        position += 2 + length
    return 0, 0


def sentence_job(job: Job, config: VidTimitConfig) -> str:
    """One sentence: "done" or "already there". The wav is installed first, so that a video is a finished
    pair.
    """
    sentence = job.source.name
    video, sound = f"{sentence}.mp4", f"{sentence}.wav"
    if not config.overwrite and (job.folder / video).is_file() and (job.folder / sound).is_file():
        return "already there"
    frames = frame_files(job.source)
    media_limits().require_frames(job.source, len(frames))
    height, width = read_frame(frames[0]).shape[:2]
    report_length(len(frames), width * height, len(frames) / FPS)
    with VideoWriter(job.scratch / video, fps=FPS, width=width, height=height, crf=config.crf) as writer:
        for path in frames:
            image = read_frame(path)
            if image.shape[:2] != (height, width):
                raise ClipError(path, f"is {image.shape[1]}x{image.shape[0]}, the first one {width}x{height}")
            writer.write(image)
    shutil.copyfile(job.sound, job.scratch / sound)
    job.install(sound)
    job.install(video)
    return "done"


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = parse_command(VidTimitConfig, __doc__)
    return run_batch(find_sentences(config), sentence_job, config, done="built")


if __name__ == "__main__":
    run_command(main)
