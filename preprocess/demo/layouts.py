"""The demo set under the names of a real data set: its folders, file names, metadata and kinds of forgery."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocess.demo.plan import FPS, DemoConfig, Forgery, PlannedClip, gender_of, generator


@dataclass(frozen=True)
class Layout:
    """How a data set names things; `donor` draws whose face or speech the fakes of an identity get."""

    genuine: str  # category of genuine clips
    forgeries: tuple[Forgery, ...]
    scenes_per_identity: int
    donor: Callable[[DemoConfig, int, np.random.Generator], int]
    place: Callable[[PlannedClip, int], dict[str, Any]]  # clip, its number -> path, sound, silent
    metadata: Callable[[DemoConfig, list[PlannedClip]], dict[str, bytes]]  # path -> content


def plan_clips(config: DemoConfig) -> list[PlannedClip]:
    """All clips of the set, identity by identity; fakes are spread evenly over the scenes."""
    layout = LAYOUTS[config.layout]
    clips = []
    for identity in range(config.num_identities):
        rng = generator(config, identity, 0)
        donor = layout.donor(config, identity, rng)
        count = layout.scenes_per_identity
        planned: list[tuple[Forgery | None, int]] = [(None, scene) for scene in range(count)]
        rounds = -(-len(layout.forgeries) // count)
        scenes = np.concatenate([rng.permutation(count) for _ in range(rounds)])
        planned += [(forgery, int(s)) for forgery, s in zip(layout.forgeries, scenes, strict=False)]
        for number, (forgery, scene) in enumerate(planned):
            clip = PlannedClip(
                identity=identity,
                scene=scene,
                category=forgery.category if forgery else layout.genuine,
                method=forgery.method if forgery else "real",
                forgery=forgery,
                donor=donor if forgery and forgery.needs_donor else None,
                path="",
            )
            clips.append(dataclasses.replace(clip, **layout.place(clip, number)))
    return clips


def _other_identity(config: DemoConfig, identity: int, rng: np.random.Generator) -> int:
    return (identity + 1 + int(rng.integers(config.num_identities - 1))) % config.num_identities


def _table(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


# --- FakeAVCeleb: <category>/<race>/<gender>/<id>/, ten values under nine names ---

FOLDER_PREFIX = "FakeAVCeleb"
HEADER = "source,target1,target2,method,category,type,race,gender,path,"
# FakeAVCeleb's own values; here they are names of folders that do not describe the faces
RACES = ("African", "Asian (East)", "Asian (South)", "Caucasian (American)", "Caucasian (European)")
CATEGORY_LETTERS = {
    "RealVideo-RealAudio": "A",
    "RealVideo-FakeAudio": "B",
    "FakeVideo-RealAudio": "C",
    "FakeVideo-FakeAudio": "D",
}
FAKEAVCELEB_ENDINGS = {
    ("RealVideo-FakeAudio", "rtvc"): "fake",
    ("FakeVideo-RealAudio", "wav2lip"): "0_{donor}_wavtolip",
    ("FakeVideo-RealAudio", "faceswap"): "{donor}",
    ("FakeVideo-FakeAudio", "wav2lip"): "fake_wavtolip",
    ("FakeVideo-FakeAudio", "faceswap-wav2lip"): "1_{donor}_wavtolip",
}


def identity_name(index: int) -> str:
    """FakeAVCeleb's spelling of a person: id00076."""
    return f"id{76 + 37 * index:05d}"


def _fakeavceleb_place(clip: PlannedClip, number: int) -> dict[str, Any]:
    race = RACES[(clip.identity * 7) % 5]
    name = f"{100 * (clip.identity + 1) + 9 * (clip.scene + 1):05d}"
    if clip.forgery:
        donor = "" if clip.donor is None else identity_name(clip.donor)
        name += "_" + FAKEAVCELEB_ENDINGS[clip.category, clip.method].format(donor=donor)
    gender, person = gender_of(clip.identity), identity_name(clip.identity)
    return {"path": f"{clip.category}/{race}/{gender}/{person}/{name}.mp4"}


def _fakeavceleb_metadata(config: DemoConfig, clips: list[PlannedClip]) -> dict[str, bytes]:
    lines = [HEADER]
    for clip in clips:
        category, race, gender, person, name = clip.path.split("/")
        donor = "-" if clip.donor is None else identity_name(clip.donor)
        folder = f"{FOLDER_PREFIX}/{clip.path.rpartition('/')[0]}"
        values = (person, donor, "-", clip.method, CATEGORY_LETTERS[category], category, race, gender, name)
        lines.append(",".join((*values, folder)))
    return {"meta_data.csv": ("\n".join(lines) + "\n").encode()}


# --- KoDF as AI-Hub ships it: Training and Validation, Korean folders and columns, two encodings ---

KODF_ROOT = "003.딥페이크"
KODF_PARTS = {"train": "1.Training", "validate": "2.Validation"}
KODF_CODES = {"dfl": 1, "dffs": 2, "fsgan": 3, "fo": 4, "audio-driven": 5}
VALIDATION_EVERY = 4  # every fourth person belongs to the Validation part


def _kodf_part(identity: int) -> str:
    return "validate" if identity % VALIDATION_EVERY == VALIDATION_EVERY - 1 else "train"


def _kodf_person(identity: int) -> str:
    return hashlib.sha256(f"demo person {identity}".encode()).hexdigest()[:20].upper()


def _kodf_donor(config: DemoConfig, identity: int, rng: np.random.Generator) -> int:
    """The neighbour in the same part: in pairs, so that a split of persons drops few fakes."""
    same_part = [i for i in range(config.num_identities) if _kodf_part(i) == _kodf_part(identity)]
    place = same_part.index(identity)
    if len(same_part) < 2:
        return _other_identity(config, identity, rng)
    return same_part[place ^ 1] if place ^ 1 < len(same_part) else same_part[place - 1]


def _kodf_place(clip: PlannedClip, number: int) -> dict[str, Any]:
    part, person = _kodf_part(clip.identity), _kodf_person(clip.identity)
    folder = f"{KODF_ROOT}/{KODF_PARTS[part]}/원천데이터/{part}_"
    if clip.forgery is None:
        return {"path": f"{folder}원본/원본1/{person}/{person}_{clip.scene + 1:03d}.mp4"}
    assert clip.donor is not None  # see LAYOUTS
    name = f"{person}_{_kodf_person(clip.donor)}_{KODF_CODES[clip.method]}_{number:04d}"
    return {"path": f"{folder}변조/{clip.method}1/{person}/{name}.mp4"}


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
            if clip.forgery is None:
                real.append((name, person, sex, "2020-10-01"))
            else:
                target = f"{person}_{clip.scene + 1:03d}.mp4"
                fake.append((name, target, person, clip.method, sex))
        ending = {"train": "training", "validate": "validation"}[part]
        place = f"{KODF_ROOT}/{folder}/라벨링데이터/{part}_meta_data"
        files[f"{place}/원본영상_{ending}_메타데이터.csv"] = _table(real).encode("utf-8-sig")
        files[f"{place}/변조영상_{ending}_메타데이터.csv"] = _table(fake).encode("cp949")
    return files


# --- FaceForensics++ as its script downloads it: silent sequences in pairs, sound in files of their own ---

FFPP_COMPRESSION = "c23"
LEAD_IN_FRAMES = 7  # of the downloaded video before the sequence begins
FFPP_SPLIT = {0: "train", 1: "train", 2: "train", 3: "val", 4: "test"}  # of every five pairs


def _ffpp_place(clip: PlannedClip, number: int) -> dict[str, Any]:
    if clip.forgery is None:
        path = f"original_sequences/youtube/{FFPP_COMPRESSION}/videos/{clip.identity:03d}.mp4"
        sound = f"downloaded_videos/{_youtube_id(clip.identity)}.wav"
        return {"path": path, "sound": sound, "silent": True}
    name = f"{clip.identity:03d}_{clip.donor:03d}.mp4"
    path = f"manipulated_sequences/{clip.method}/{FFPP_COMPRESSION}/videos/{name}"
    return {"path": path, "silent": True}


def _youtube_id(identity: int) -> str:
    return f"demo-{identity:06d}"


def _ffpp_partner(config: DemoConfig, identity: int, rng: np.random.Generator) -> int:
    if config.num_identities % 2:
        raise ValueError(f"num_identities must be even for ffpp's pairs, got {config.num_identities}")
    return identity ^ 1


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


LAYOUTS = {
    "fakeavceleb": Layout(
        "RealVideo-RealAudio",
        (
            Forgery("RealVideo-FakeAudio", "rtvc", changes_voice=True, needs_donor=False),
            Forgery("FakeVideo-RealAudio", "wav2lip", drives_lips=True),
            Forgery("FakeVideo-RealAudio", "faceswap", swaps_face=True),
            Forgery(
                "FakeVideo-FakeAudio", "wav2lip", drives_lips=True, changes_voice=True, needs_donor=False
            ),
            Forgery(
                "FakeVideo-FakeAudio",
                "faceswap-wav2lip",
                swaps_face=True,
                drives_lips=True,
                changes_voice=True,
            ),
        ),
        scenes_per_identity=3,
        donor=_other_identity,
        place=_fakeavceleb_place,
        metadata=_fakeavceleb_metadata,
    ),
    "kodf": Layout(
        "real",
        (
            Forgery("dfl", "dfl", swaps_face=True),
            Forgery("dffs", "dffs", swaps_face=True),
            Forgery("fsgan", "fsgan", swaps_face=True),
            Forgery("fo", "fo", drives_lips=True),
            Forgery("audio-driven", "audio-driven", drives_lips=True),
        ),
        scenes_per_identity=3,
        donor=_kodf_donor,
        place=_kodf_place,
        metadata=_kodf_metadata,
    ),
    "ffpp": Layout(
        "original",
        (
            Forgery("Deepfakes", "Deepfakes", swaps_face=True),
            Forgery("Face2Face", "Face2Face", drives_lips=True),
            Forgery("FaceSwap", "FaceSwap", swaps_face=True),
            Forgery("NeuralTextures", "NeuralTextures", drives_lips=True),
        ),
        scenes_per_identity=1,
        donor=_ffpp_partner,
        place=_ffpp_place,
        metadata=_ffpp_metadata,
    ),
}
