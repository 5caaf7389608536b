"""The demo set under the names of a real data set: its folders, file names, metadata and kinds of forgery."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from preprocess.demo.plan import (
    FPS,
    ClipKind,
    DemoConfig,
    PlannedClip,
    draw_segment,
    gender_of,
    generator,
)
from preprocess.demo.speech import SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Layout:
    """How a data set names things; `donor` draws whose face or speech the fakes of an identity get."""

    kinds: tuple[ClipKind, ...]  # the genuine one first
    scenes_per_identity: int
    donor: Callable[[DemoConfig, int, np.random.Generator], int]
    place: Callable[[PlannedClip], PlannedClip]  # adds the names of its files
    metadata: Callable[[DemoConfig, list[PlannedClip]], dict[str, bytes]]  # path -> content
    forges_parts: bool = False  # fakes are forged in one segment each


def plan_clips(config: DemoConfig) -> list[PlannedClip]:
    """All clips of the set, identity by identity; fakes are spread evenly over the scenes."""
    layout = LAYOUTS[config.layout]
    count = layout.scenes_per_identity
    kinds = [*layout.kinds[:1] * count, *layout.kinds[1:]]
    clips = []
    for identity in range(config.num_identities):
        rng = generator(config, identity, 0)
        donor = layout.donor(config, identity, rng)
        scenes = list(range(count))
        while len(scenes) < len(kinds):
            scenes += rng.permutation(count).tolist()
        for number, (kind, scene) in enumerate(zip(kinds, scenes, strict=False)):
            clip = PlannedClip(identity, number, scene, kind, donor if kind.needs_donor else None)
            if layout.forges_parts and kind.is_fake:
                clip = replace(clip, segment=draw_segment(config, identity, number))
            clips.append(layout.place(clip))
    return clips


def _other_identity(config: DemoConfig, identity: int, rng: np.random.Generator) -> int:
    return (identity + 1 + int(rng.integers(config.num_identities - 1))) % config.num_identities


def _table(rows: Iterable[Iterable[str]]) -> str:
    return "".join(f"{','.join(row)}\n" for row in rows)


# --- FakeAVCeleb: <category>/<race>/<gender>/<id>/, ten values under nine names ---

FOLDER_PREFIX = "FakeAVCeleb"
HEADER = ("source", "target1", "target2", "method", "category", "type", "race", "gender", "path", "")
# FakeAVCeleb's own values; here they are names of folders that do not describe the faces
RACES = ("African", "Asian (East)", "Asian (South)", "Caucasian (American)", "Caucasian (European)")
CATEGORIES = ("RealVideo-RealAudio", "RealVideo-FakeAudio", "FakeVideo-RealAudio", "FakeVideo-FakeAudio")


def identity_name(index: int) -> str:
    """FakeAVCeleb's spelling of a person: id00076."""
    return f"id{76 + 37 * index:05d}"


def _fakeavceleb_place(clip: PlannedClip) -> PlannedClip:
    race = RACES[(clip.identity * 7) % 5]
    gender, person = gender_of(clip.identity), identity_name(clip.identity)
    name = f"{100 * (clip.identity + 1) + 9 * (clip.scene + 1):05d}"
    mark = clip.kind.mark if clip.donor is None else clip.kind.mark.format(donor=identity_name(clip.donor))
    return replace(clip, path=f"{clip.kind.category}/{race}/{gender}/{person}/{name}{mark}.mp4")


def _fakeavceleb_metadata(config: DemoConfig, clips: list[PlannedClip]) -> dict[str, bytes]:
    rows = [HEADER]
    for clip in clips:
        folder, _, name = clip.path.rpartition("/")
        category, race, gender, person = folder.split("/")
        donor = "-" if clip.donor is None else identity_name(clip.donor)
        letter = "ABCD"[CATEGORIES.index(category)]
        values = (person, donor, "-", clip.kind.method, letter, category, race, gender, name)
        rows.append((*values, f"{FOLDER_PREFIX}/{folder}"))
    return {"meta_data.csv": _table(rows).encode()}


# --- KoDF as AI-Hub ships it: Training and Validation, Korean folders and columns, two encodings ---

KODF_ROOT = "003.딥페이크"
KODF_PARTS = {"train": "1.Training", "validate": "2.Validation"}
VALIDATION_EVERY = 4  # every fourth person belongs to the Validation part


def _is_validation(identity: int) -> bool:
    return identity % VALIDATION_EVERY == VALIDATION_EVERY - 1


def _kodf_part(identity: int) -> str:
    return "validate" if _is_validation(identity) else "train"


def _kodf_person(identity: int) -> str:
    return hashlib.sha256(f"demo person {identity}".encode()).hexdigest()[:20].upper()


def _kodf_donor(config: DemoConfig, identity: int, rng: np.random.Generator) -> int:
    """The neighbour in the same part: in pairs, so that a split of persons drops few fakes."""
    same_part = [i for i in range(config.num_identities) if _kodf_part(i) == _kodf_part(identity)]
    place = same_part.index(identity)
    if len(same_part) < 2:
        return _other_identity(config, identity, rng)
    return same_part[place ^ 1] if place ^ 1 < len(same_part) else same_part[place - 1]


def _kodf_place(clip: PlannedClip) -> PlannedClip:
    part, person = _kodf_part(clip.identity), _kodf_person(clip.identity)
    folder = f"{KODF_ROOT}/{KODF_PARTS[part]}/원천데이터/{part}_"
    if clip.donor is None:
        return replace(clip, path=f"{folder}원본/원본1/{person}/{person}_{clip.scene + 1:03d}.mp4")
    name = f"{person}_{_kodf_person(clip.donor)}_{clip.kind.mark}_{clip.number:04d}"
    return replace(clip, path=f"{folder}변조/{clip.kind.method}1/{person}/{name}.mp4")


def _kodf_metadata(config: DemoConfig, clips: list[PlannedClip]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    sexes = {"men": "남", "women": "여"}
    for part, folder in KODF_PARTS.items():
        real = [("영상ID", "UUID", "인물성별", "촬영일자")]
        fake = [("영상ID", "타겟영상", "타겟UUID", "변조모델", "인물성별")]
        for clip in clips:
            if _kodf_part(clip.identity) != part:
                continue
            name, person = clip.path.rpartition("/")[2], _kodf_person(clip.identity)
            sex = sexes[gender_of(clip.identity)]
            if clip.kind.is_fake:
                target = f"{person}_{clip.scene + 1:03d}.mp4"
                fake.append((name, target, person, clip.kind.method, sex))
            else:
                real.append((name, person, sex, "2020-10-01"))
        ending = folder[2:].lower()
        place = f"{KODF_ROOT}/{folder}/라벨링데이터/{part}_meta_data"
        files[f"{place}/원본영상_{ending}_메타데이터.csv"] = _table(real).encode("utf-8-sig")
        files[f"{place}/변조영상_{ending}_메타데이터.csv"] = _table(fake).encode("cp949")
    return files


# --- FaceForensics++ as its script downloads it: silent sequences in pairs, sound in files of their own ---

FFPP_COMPRESSION = "c23"
LEAD_IN_FRAMES = 7  # of the downloaded video before the sequence begins
FFPP_SPLIT = {0: "train", 1: "train", 2: "train", 3: "val", 4: "test"}  # of every five pairs


def _ffpp_place(clip: PlannedClip) -> PlannedClip:
    if clip.donor is None:
        path = f"original_sequences/youtube/{FFPP_COMPRESSION}/videos/{clip.identity:03d}.mp4"
        sound = f"downloaded_videos/{_youtube_id(clip.identity)}.wav"
        return replace(clip, path=path, sound=sound, silent=True)
    name = f"{clip.identity:03d}_{clip.donor:03d}.mp4"
    path = f"manipulated_sequences/{clip.kind.method}/{FFPP_COMPRESSION}/videos/{name}"
    return replace(clip, path=path, silent=True)


def _youtube_id(identity: int) -> str:
    return f"demo-{identity:06d}"


def _ffpp_partner(config: DemoConfig, identity: int, rng: np.random.Generator) -> int:
    return identity ^ 1  # 0 and 1, 2 and 3, ...


def _ffpp_metadata(config: DemoConfig, clips: list[PlannedClip]) -> dict[str, bytes]:
    pairs: dict[str, list[list[str]]] = {"train": [], "val": [], "test": []}
    sequences: dict[str, str] = {}
    files: dict[str, bytes] = {}
    frames = list(range(LEAD_IN_FRAMES, LEAD_IN_FRAMES + round(config.duration_s * FPS)))
    for identity in range(config.num_identities):
        if identity % 2 == 0:
            pairs[FFPP_SPLIT[identity // 2 % 5]].append([f"{identity:03d}", f"{identity + 1:03d}"])
        video = _youtube_id(identity)
        sequences[f"{identity:03d}"] = f"{video} 0"
        place = f"downloaded_videos_info/{video}"
        files[f"{place}/{video}.json"] = json.dumps({"fps": float(FPS), "display_id": video}).encode()
        files[f"{place}/extracted_sequences/0.json"] = json.dumps(frames).encode()
    files |= {f"splits/{part}.json": json.dumps(of_part).encode() for part, of_part in pairs.items()}
    return files | {"conversion_dict.json": json.dumps(sequences).encode()}


# --- AV-Deepfake1M: <part>/<speaker>/<video>/<clip>/<kind>.mp4, where each fake is forged in JSON lists ---


FIRST_DONOR = 1_000_000  # beyond the persons of any set


def _av_deepfake1m_part(identity: int) -> str:
    return "val" if _is_validation(identity) else "train"


def _nobody_else(config: DemoConfig, identity: int, rng: np.random.Generator) -> int:
    """A donor who has no clips, since the data set's lists name no donors that splits could keep apart."""
    return FIRST_DONOR + identity


def _av_deepfake1m_place(clip: PlannedClip) -> PlannedClip:
    take = f"id{12 + clip.identity:05d}/demo-{clip.scene:06d}/00001"
    return replace(clip, path=f"{_av_deepfake1m_part(clip.identity)}/{take}/{clip.kind.category}.mp4")


def _av_deepfake1m_metadata(config: DemoConfig, clips: list[PlannedClip]) -> dict[str, bytes]:
    entries: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for clip in clips:
        part, _, file = clip.path.partition("/")
        video, audio = clip.kind.changes != ("voice",) and clip.kind.is_fake, "voice" in clip.kind.changes
        spans = [[frame / FPS for frame in clip.segment]] if clip.segment else []
        entries[part].append(
            {
                "file": file,
                "original": f"{file.rpartition('/')[0]}/real.mp4" if clip.kind.is_fake else None,
                "split": part,
                "modify_type": clip.kind.method,
                "audio_model": "demo" if audio else None,
                "fake_segments": spans,
                "audio_fake_segments": spans * audio,
                "visual_fake_segments": spans * video,
                "video_frames": round(config.duration_s * FPS),
                "audio_frames": round(config.duration_s * SAMPLE_RATE_HZ),
            }
        )
    return {f"{part}_metadata.json": json.dumps(rows, indent=1).encode() for part, rows in entries.items()}


LAYOUTS = {
    "av_deepfake1m": Layout(
        # each three are spread over the three scenes, where a kind has one file name
        kinds=(
            ClipKind("real", "real"),
            *(
                ClipKind("visual_modified", "fake_video_real_audio", changes=changes)
                for changes in (("lips",), ("face",), ("lips",))
            ),
            *[ClipKind("audio_modified", "real_video_fake_audio", changes=("voice",))] * 3,
            *(
                ClipKind("both_modified", "fake_video_fake_audio", changes=changes)
                for changes in (("lips", "voice"), ("face", "voice"), ("lips", "voice"))
            ),
        ),
        scenes_per_identity=3,
        donor=_nobody_else,
        place=_av_deepfake1m_place,
        metadata=_av_deepfake1m_metadata,
        forges_parts=True,
    ),
    "fakeavceleb": Layout(
        kinds=(
            ClipKind("real", "RealVideo-RealAudio"),
            ClipKind("rtvc", "RealVideo-FakeAudio", "_fake", ("voice",)),
            ClipKind("wav2lip", "FakeVideo-RealAudio", "_0_{donor}_wavtolip", ("lips",)),
            ClipKind("faceswap", "FakeVideo-RealAudio", "_{donor}", ("face",)),
            ClipKind("wav2lip", "FakeVideo-FakeAudio", "_fake_wavtolip", ("lips", "voice")),
            ClipKind(
                "faceswap-wav2lip", "FakeVideo-FakeAudio", "_1_{donor}_wavtolip", ("face", "lips", "voice")
            ),
        ),
        scenes_per_identity=3,
        donor=_other_identity,
        place=_fakeavceleb_place,
        metadata=_fakeavceleb_metadata,
    ),
    "kodf": Layout(
        kinds=(
            ClipKind("real"),
            ClipKind("dfl", mark="1", changes=("face",)),
            ClipKind("dffs", mark="2", changes=("face",)),
            ClipKind("fsgan", mark="3", changes=("face",)),
            ClipKind("fo", mark="4", changes=("lips",)),
            ClipKind("audio-driven", mark="5", changes=("lips",)),
        ),
        scenes_per_identity=3,
        donor=_kodf_donor,
        place=_kodf_place,
        metadata=_kodf_metadata,
    ),
    "ffpp": Layout(
        kinds=(
            ClipKind("real"),
            ClipKind("Deepfakes", changes=("face",)),
            ClipKind("Face2Face", changes=("lips",)),
            ClipKind("FaceSwap", changes=("face",)),
            ClipKind("NeuralTextures", changes=("lips",)),
        ),
        scenes_per_identity=1,
        donor=_ffpp_partner,
        place=_ffpp_place,
        metadata=_ffpp_metadata,
    ),
}
