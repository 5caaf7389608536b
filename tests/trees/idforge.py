"""IDForge: lists without a header, one name in several types, stems with a dot, a reference set aside."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media

# type -> endings of the file names of a shot
TYPES = {
    "pristine": ("",),
    "face_tts": ("_0_roop",),
    "lip_audiomismatch_textmismatch": ("-3",),
    "rvc_textmismatch": ("",),  # the name of the pristine shot
    "tts_textgen": (".mp3",),
}
PERSONS = {"train": ("id01", "id02"), "val": ("id00",), "test": ("id06",)}


def write_idforge(root: Path, media: Media) -> RawTree:
    """A shot of each type and person, below main/, and a reference clip that no list names."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for part, persons in PERSONS.items():
        lines = []
        for person in persons:
            for kind, endings in TYPES.items():
                for ending in endings:
                    name = f"{kind}/{person}/{person}_02/{person}_scene_0085{ending}.mp4"
                    fake_video, fake_audio = kind[:4] in ("face", "lip_"), "tts" in kind or "rvc" in kind
                    number = int(person[2:])
                    media.video(root / "main" / name, number, fake_video=fake_video, fake_audio=fake_audio)
                    lines.append(name)
                    counts[part, kind, "real" if kind == "pristine" else kind] += 1
        (root / "IDForge_v1").mkdir(parents=True, exist_ok=True)
        (root / "IDForge_v1" / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    media.video(root / "ref/id01/id01_00/id01_scene_0001.mp4", 1)
    return RawTree(dataset="idforge", source=root, counts=counts, has_own_split=True)
