"""Make DeepfakeTIMIT's missing real videos from VidTIMIT: its numbered JPEG frames at 25 fps, and its sound.

    python -m preprocess.vidtimit --source VidTIMIT --output DeepfakeTIMIT

SOURCE/<subject>/video/<sentence>/<001, 002, ...> and SOURCE/<subject>/audio/<sentence>.wav become
OUTPUT/real/<subject>/<sentence>.mp4 and, unchanged, OUTPUT/real/<subject>/<sentence>.wav. The sound stays in
a separate file, as with the fakes, so that no encoder separates real from fake. Then prepare everything with
preprocess.prepare --dataset deepfaketimit.

Only subjects who have fakes in OUTPUT are taken; all of SOURCE if there are no fakes yet. Head rotations (no
sound) are left out. After an interruption, call it again: finished videos are kept. OUTPUT/real/failures.csv
lists failures.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from preprocess.work.batch import Batch, WorkConfig, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from preprocess.work.stores import LocalStore
from utils.config import opt, parse_groups
from utils.errors import ClipError, DatasetError, run_command
from utils.media.allowed import media_limits, report_length
from utils.media.writer import VideoWriter
from utils.names import is_litter

log = logging.getLogger(__name__)

FPS = Fraction(25)
FAKE_FOLDERS = ("higher_quality", "lower_quality", "low_quality")
SUBJECT = re.compile(r"[fm][a-z]{3}\d")
FRAME = re.compile(r"(\d+)(\.jpe?g)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class VidTimitConfig:
    """python -m preprocess.vidtimit"""

    source: Path = opt(dataclasses.MISSING, "folder that VidTIMIT's subjects were unpacked to")
    output: Path = opt(dataclasses.MISSING, "the DeepfakeTIMIT folder, or a new one")
    subjects: tuple[str, ...] = opt((), "only these, e.g. fadg0 fram1; default: those with fakes in OUTPUT")
    crf: int = opt(0, "H.264 quality; 0 is lossless, with the halved colour resolution of most JPEGs")
    overwrite: bool = opt(False, "make videos again that exist")

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf must be between 0 and 51, got {self.crf}")


def find_subjects(source: Path) -> dict[str, Path]:
    """subject -> its folder with `video` and `audio`, sorted. Raises DatasetError if there is none."""
    if not source.is_dir():
        raise DatasetError(f"{source}: no such folder; --source must be the folder of VidTIMIT")
    found: dict[str, Path] = {}
    # some archives contain a folder above the subject
    for place in sorted([*source.glob("*"), *source.glob("*/*")]):
        if SUBJECT.fullmatch(place.name) and (place / "video").is_dir() and (place / "audio").is_dir():
            found.setdefault(place.name, place)
    if not found:
        names = ", ".join(sorted(entry.name for entry in source.iterdir())[:8]) or "nothing"
        raise DatasetError(f"{source}: expected VidTIMIT's <subject>/video, e.g. fadg0/video; found {names}")
    return found


def chosen_subjects(config: VidTimitConfig, found: dict[str, Path]) -> list[str]:
    """The wanted subjects, sorted. Raises DatasetError if one of them is not in VidTIMIT."""
    faked = {
        place.name
        for folder in FAKE_FOLDERS
        for place in (config.output / folder).glob("*")
        if place.is_dir() and SUBJECT.fullmatch(place.name)
    }
    wanted = set(config.subjects) or faked or set(found)
    if absent := sorted(wanted - set(found)):
        there = f"Found {len(found)}: {', '.join(sorted(found))}"
        raise DatasetError(f"{config.source}: has no subject {', '.join(absent)}; unpack it there. {there}")
    return sorted(wanted)


def find_sentences(config: VidTimitConfig) -> Batch:
    """One job per sentence that has sound. Raises DatasetError if there is none."""
    found = find_subjects(config.source)
    jobs, num_silent = [], 0
    for subject in chosen_subjects(config, found):
        videos, folder = found[subject] / "video", config.output / "real" / subject
        places = (found[subject] / "audio").glob("*")
        sounds = {
            place.stem: place
            for place in places
            if place.suffix.lower() == ".wav" and not is_litter(place.name)
        }
        num_silent += sum(place.is_dir() and place.name not in sounds for place in videos.iterdir())
        jobs += [
            Job(name=f"{subject}/{sentence}", source=videos / sentence, folder=folder, sound=sound)
            for sentence, sound in sorted(sounds.items())
        ]
    if not jobs:
        raise DatasetError(f"{config.source}: the wanted subjects have no <subject>/audio/<sentence>.wav")
    log.info("%d sentences; %d sequences without sound (head rotations) left out", len(jobs), num_silent)
    return Batch(jobs=jobs, output=LocalStore(config.output / "real"))


def frame_files(folder: Path) -> list[Path]:
    """The frames of a sequence in order. Raises ClipError unless they are numbered from 1 without gaps."""
    numbered: dict[int, Path] = {}
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in (entry for entry in entries if not is_litter(entry.name)):
        match = FRAME.fullmatch(path.name)
        if match is None or int(match[1]) in numbered:
            raise ClipError(
                folder, f"{path.name} is not a frame, or is there twice: expected 001, 002.jpg, ..."
            )
        numbered[int(match[1])] = path
    if not numbered:
        raise ClipError(folder, "holds no frames 001, 002, ...")
    if absent := sorted(set(range(1, max(numbered) + 1)) - set(numbered)):
        raise ClipError(folder, f"{len(absent)} of {max(numbered)} frames are missing, e.g. {absent[0]:03d}")
    return [numbered[number] for number in range(1, max(numbered) + 1)]


def read_frame(path: Path) -> npt.NDArray[np.uint8]:
    """One picture, (H, W, 3) uint8 RGB. Raises ClipError if it is not a JPEG, too large or damaged."""
    import cv2
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        with JpegImageFile(path) as header:  # reads the header only
            media_limits().require_pixels(path, *header.size)
    except (OSError, SyntaxError) as error:  # a SyntaxError of the file's, by Pillow
        raise ClipError(path, f"is not a readable JPEG ({error}); get the archive again") from error
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ClipError(path, "is not a readable JPEG; get the archive again")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def sentence_job(job: Job, config: VidTimitConfig) -> str:
    """Make one sentence: "done" or "already there". The wav is installed first, so a video is never alone."""
    sentence = job.source.name
    video, sound = f"{sentence}.mp4", f"{sentence}.wav"
    if not config.overwrite and (job.folder / video).is_file() and (job.folder / sound).is_file():
        return "already there"
    frames = frame_files(job.source)
    media_limits().require_frames(job.source, len(frames))
    height, width = read_frame(frames[0]).shape[:2]
    report_length(len(frames), width * height, float(len(frames) / FPS))
    with VideoWriter(job.scratch / video, fps=FPS, width=width, height=height, crf=config.crf) as writer:
        for path in frames:
            image = read_frame(path)
            if image.shape[:2] != (height, width):
                found = f"{image.shape[1]}x{image.shape[0]}"
                raise ClipError(path, f"is {found}, the first frame {width}x{height}")
            writer.write(image)
    assert job.sound is not None  # find_sentences takes those with sound
    shutil.copyfile(job.sound, job.scratch / sound)
    job.install(sound)
    job.install(video)
    return "done"


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config, work, limits = parse_groups(__doc__, VidTimitConfig, WorkConfig, LimitConfig)
    do = functools.partial(sentence_job, config=config)
    return run_batch(find_sentences(config), do, work, limits, done="built")


if __name__ == "__main__":
    run_command(main)
