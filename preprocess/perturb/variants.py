"""Perturbed variants of a data set's clips: each is made once, from its raw video, and kept.

CACHE/<kind>_<level>/<path of the clip below its data root>/ is a clip folder like any other; its clip.json
names the perturbation. <path>.lost.json stands for a clip in which no face is found any more.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from preprocess.clip.make import (
    OLDER_SETTINGS,
    Change,
    ClipConfig,
    clip_settings,
    is_finished,
    prepare_clip,
)
from preprocess.perturb.kinds import KINDS, PICTURE, PICTURE_KINDS, SOUND, Perturbation, random_generator
from preprocess.work.batch import Batch, WorkConfig, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import PERTURBED, LimitConfig
from preprocess.work.raw_layouts import SOURCES, read_raw_dataset
from preprocess.work.stores import LocalStore
from utils.clip.files import INFO_NAME, LAYOUT_VERSION, SAMPLE_RATE_HZ, ClipInfo, read_clip_info
from utils.clip.generated import finder
from utils.clip.sound import read_waveform
from utils.clip_type import Clip
from utils.config import opt
from utils.errors import ClipError, DatasetError, NoFaceError
from utils.files import file_sha256, write_text
from utils.media.picture import Picture, PictureConverter
from utils.media.video import iterate_pictures
from utils.media.writer import VideoWriter

log = logging.getLogger(__name__)

DEFINITIONS = 1  # increase it when a definition changes: older variants are then made again


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig:
    """preprocess/perturb: test.py --robustness, evaluation on perturbed videos."""

    robustness: bool = opt(False, "evaluate perturbed variants of the clips, too; writes robustness.*")
    raw_root: tuple[Path, ...] = opt(
        (), "raw data sets from which --data_root was prepared, in the order of --dataset"
    )
    robustness_kinds: tuple[str, ...] = opt(
        PICTURE_KINDS,
        f"perturbations of picture or sound ({' '.join(KINDS)}), or one of each: blur+white_noise",
    )
    cache_dir: Path | None = opt(
        None, "folder that keeps the variants, for other checkpoints, too; default: <output_dir>/variants"
    )
    weights_dir: Path | None = opt(None, "for methods that read features: folder of the backbones' weights")

    def __post_init__(self) -> None:
        for kind in self.robustness_kinds:
            Perturbation(kind, 0)  # raises for an unknown one
        if len(set(self.robustness_kinds)) != len(self.robustness_kinds):
            raise ValueError("robustness_kinds names a kind twice")
        if self.robustness and not self.raw_root:
            raise ValueError("robustness needs --raw_root: raw videos are perturbed, not prepared clips")
        if not self.robustness:
            for field in dataclasses.fields(self):
                if getattr(self, field.name) != field.default:
                    raise ValueError(f"{field.name} has no effect without --robustness")


def change_of(perturbation: Perturbation, clip_name: str) -> Change:
    """The change that a perturbation makes to a video; none at level 0."""
    settings: dict[str, Any] = {}
    pictures = waveform = None
    if picture_part := perturbation.part(PICTURE):

        def pictures(frames: Iterator[Picture], fps: Fraction, scratch: Path) -> Iterator[Picture]:
            kind, value = picture_part
            if kind == "h264":
                return _reencoded(frames, fps, scratch, int(value))
            return _changed_frames(frames, kind, value, random_generator(clip_name, kind, perturbation.level))

    if sound_part := perturbation.part(SOUND):
        from preprocess.perturb.sound_changes import SOUND_CHANGES

        kind, value = sound_part
        rng = random_generator(clip_name, kind, perturbation.level)

        def waveform(samples: Any, rate_hz: int) -> Any:
            return SOUND_CHANGES[kind](samples, rate_hz, value, rng)

    if perturbation.level:
        about = dataclasses.asdict(perturbation) | {"value": perturbation.value, "definitions": DEFINITIONS}
        settings["perturbation"] = about
    return Change(settings=settings, pictures=pictures, waveform=waveform)


def _changed_frames(
    frames: Iterator[Picture], kind: str, value: float, rng: np.random.Generator
) -> Iterator[Picture]:
    from preprocess.perturb.frame_changes import FRAME_CHANGES

    converter = PictureConverter()
    for frame in frames:
        yield Picture.from_rgb(FRAME_CHANGES[kind](frame.rgb(), value, rng), converter)


def write_h264(
    path: Path, frames: Iterator[Picture], fps: Fraction, crf: int, sound: Path | None = None
) -> int:
    """Encode full frames as on the web, with x264's own preset and key frames, and a prepared `sound`.

    utils/media/writer.py turns off what would make the bytes depend on more than the frames. Returns T.
    Raises ClipError if there is no frame.
    """
    first = next(frames, None)
    if first is None:
        raise ClipError(path, "there is no frame to encode")
    x264: dict[str, Any] = {"crf": crf, "keyframe_interval": 250, "preset": "medium"}
    with VideoWriter(path, fps=fps, width=first.width, height=first.height, **x264) as writer:
        if sound is not None:
            writer.add_audio_stream(SAMPLE_RATE_HZ, bit_rate=192_000)
        for frame in itertools.chain([first], frames):
            writer.write_picture(frame)
        if sound is not None:
            writer.write_audio(read_waveform(sound, SAMPLE_RATE_HZ))
    return writer.num_frames


def _reencoded(frames: Iterator[Picture], fps: Fraction, scratch: Path, crf: int) -> Iterator[Picture]:
    """All frames after a real encode: the only kind that needs a temporary file and a second decode."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / "h264.mp4"
        count = write_h264(path, frames, fps, crf)
        for _, picture in iterate_pictures(path):
            count -= 1
            yield picture
    if count:
        raise ClipError(path, f"{count} frames were lost in the re-encode")


@dataclass(frozen=True, kw_only=True)
class VariantJob(Job):
    """One clip under one perturbation."""

    prepared: Path  # folder of the untouched clip
    perturbation: Perturbation

    @property
    def effort(self) -> float:
        return PERTURBED

    @property
    def lost_path(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.lost.json")


def variant_config(folder: Path, info: ClipInfo) -> ClipConfig:
    """The flags that a clip was prepared with, so that only the perturbation differs.

    The thresholds for usable clips do not apply to variants: lost faces are counted instead.
    """
    if "perturbation" in info.settings:
        raise ClipError(folder, "is a perturbed variant itself; --data_root must hold the untouched clips")
    thresholds: dict[str, Any] = {
        "min_face_fraction": 0.0,
        "max_missing_audio_s": float("inf"),
        "allow_silent": True,
    }
    try:
        return ClipConfig(**OLDER_SETTINGS | info.settings, **thresholds)
    except (TypeError, ValueError) as error:
        raise ClipError(folder, f"was prepared with other flags ({error}); prepare it again") from error


def variant_job(job: VariantJob) -> str:
    """Make one variant, or record that its face is lost: "done" or "already there"."""
    info = _info_of(job.prepared)
    clip_config, change = variant_config(job.prepared, info), change_of(job.perturbation, info.source)
    # a lost clip is recognised by this content of its .lost.json, so that it is not searched again
    record: dict[str, Any] = {
        "layout_version": LAYOUT_VERSION,
        "settings": clip_settings(clip_config, change),
        "source_sha256": info.source_sha256,
    }
    if job.lost_path.is_file():
        known = json.loads(job.lost_path.read_text(encoding="utf-8"))
        if {name: known.get(name) for name in record} == record:
            return "already there"
        job.lost_path.unlink()
    if is_finished(job.source, job.folder, clip_config, sound=job.sound, change=change):
        return "already there"
    job.remove_folder()
    for path, digest in ((job.source, info.source_sha256), (job.sound, info.sound_sha256)):
        if path is not None and file_sha256(path) != digest:
            raise ClipError(path, f"is not the file that {job.prepared} was prepared from")
    try:
        prepare_clip(job.source, job.scratch, clip_config, name=info.source, sound=job.sound, change=change)
    except NoFaceError as error:
        write_text(job.lost_path, json.dumps(record | {"reason": error.reason}, indent=1) + "\n")
        return "done"
    job.install_folder()
    return "done"


def _info_of(folder: Path) -> ClipInfo:
    info = read_clip_info(folder)
    if info is None:
        raise ClipError(folder, "has no clip.json, which names the raw video; use preprocess.prepare")
    return info


@dataclass(frozen=True, kw_only=True)
class Variants:
    """A data set's clips under one perturbation."""

    perturbation: Perturbation
    clips: list[Clip]  # their folders are the variants'
    lost: list[str]  # ids of clips in which no face was found
    face_share: float  # mean share of frames with a face, lost clips counted as 0


def make_variants(
    clips: Sequence[Clip],
    perturbations: Sequence[Perturbation],
    *,
    dataset: str,
    data_root: Path,
    raw_root: Path,
    cache_dir: Path,
    num_workers: int,
) -> list[Variants]:
    """Make the missing variants of `clips` in `cache_dir`, with one decode pass each, and return all.

    `raw_root` is what preprocess.prepare read; the variant of level 0 is the untouched clip itself. Raises
    DatasetError if a raw video is missing or a variant cannot be made for any reason but a lost face.
    """
    places = _raw_files(clips, dataset, raw_root)

    def folder_of(clip: Clip, perturbation: Perturbation) -> Path:
        if perturbation.level == 0:
            return clip.folder
        return cache_dir / perturbation.name / clip.folder.relative_to(data_root)

    jobs = [
        VariantJob(
            name=folder_of(clip, perturbation).relative_to(cache_dir).as_posix(),
            source=source,
            sound=sound,
            folder=folder_of(clip, perturbation),
            prepared=clip.folder,
            perturbation=perturbation,
        )
        for perturbation in perturbations
        for clip, (source, sound) in zip(clips, places, strict=True)
        if perturbation.level
    ]
    generated = any(map(finder(), {clip.folder.parent for clip in clips}))
    work = WorkConfig(num_workers=num_workers)
    batch = Batch(jobs=jobs, output=LocalStore(cache_dir), is_generated=generated)
    if jobs and run_batch(batch, variant_job, work, LimitConfig(), done="perturbed"):
        raise DatasetError(
            f"{cache_dir / 'failures.csv'} lists variants that could not be made, and why; call again after "
            "mending them (finished variants are kept)"
        )
    return [
        _collect(changed, clips, [folder_of(clip, changed) for clip in clips]) for changed in perturbations
    ]


def _raw_files(clips: Sequence[Clip], dataset: str, raw_root: Path) -> list[tuple[Path, Path | None]]:
    """(video, its separate sound file) of each clip."""
    root = raw_root
    sounds: dict[str, Path] = {}
    if dataset in SOURCES:
        raw = read_raw_dataset(dataset, raw_root)
        assert isinstance(raw.root, LocalStore)  # as raw_root is
        root, sounds = raw.root.path, {video.as_posix(): sound for video, sound in raw.sounds.items()}
    places: list[tuple[Path, Path | None]] = []
    missing: list[Path] = []
    for clip in clips:
        name = _info_of(clip.folder).source
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DatasetError(f"{clip.folder / INFO_NAME}: the video is outside the raw data set: {name}")
        places.append((root / name, root / sounds[name] if name in sounds else None))
        missing += [path for path in places[-1] if path is not None and not path.is_file()]
    if missing:
        raise DatasetError(
            f"--raw_root {raw_root}: {len(missing)} raw files of the {len(clips)} clips are missing, e.g. "
            f"{missing[0]}; give the folder that preprocess.prepare read"
        )
    return places


def _collect(perturbation: Perturbation, clips: Sequence[Clip], folders: Sequence[Path]) -> Variants:
    kept, lost, shares = [], [], []
    for clip, folder in zip(clips, folders, strict=True):
        info = read_clip_info(folder)
        if info is None:
            lost.append(clip.clip_id)
            shares.append(0.0)
        else:
            kept.append(dataclasses.replace(clip, place=str(folder)))
            shares.append(1 - len(info.frames_without_face) / info.num_frames)
    if lost:
        log.warning("%s: no face is found in %d of %d clips", perturbation.name, len(lost), len(clips))
    return Variants(
        perturbation=perturbation, clips=kept, lost=lost, face_share=sum(shares) / max(1, len(shares))
    )
