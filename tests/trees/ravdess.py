"""RAVDESS: picture with sound (01), without (02), sound alone (03), all in one folder; 18 does not sing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media


def write_ravdess(
    root: Path, media: Media, *, actors: tuple[int, ...] = (1, 2, 5, 10, 11, 18), full: bool = False
) -> RawTree:
    """One spoken and one sung clip per actor, or all (`full`): 60 spoken and 44 sung of each."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for actor in actors:
        split = {5: "test", 10: "test", 16: "test", 19: "test"} | {11: "val", 13: "val", 18: "val", 22: "val"}
        for channel, kind in (("01", "speech"), ("02", "song")):
            if channel == "02" and actor == 18:
                continue
            fields = _fields(channel) if full else ["01-01-01-01"]
            for field in fields:
                name = f"{channel}-{field}-{actor:02d}"
                folder = root / f"Actor_{actor:02d}"
                media.video(folder / f"01-{name}.mp4", actor)
                counts[split.get(actor, "train"), kind, "real"] += 1
                if full or actor == 1:
                    (folder / f"02-{name}.mp4").touch()
                    (folder / f"03-{name}.wav").touch()
    return RawTree(dataset="ravdess", source=root, counts=counts, has_own_split=True, real_only=True)


def _fields(channel: str) -> list[str]:
    """<emotion>-<intensity>-<statement>-<repetition>: neutral has one intensity, songs have six emotions."""
    return [
        f"{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}"
        for emotion in range(1, 9 if channel == "01" else 7)
        for intensity in ((1,) if emotion == 1 else (1, 2))
        for statement in (1, 2)
        for repetition in (1, 2)
    ]
