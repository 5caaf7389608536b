"""FaceForensics++: silent videos with separate sound, two compressions, masks, and the actors of
DeepFakeDetection, whose names are longer, who have no sound and no split.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media

PAIRS = {"train": [("071", "054"), ("000", "003")], "val": [("999", "960")], "test": [("033", "097")]}
METHODS = ("Deepfakes", "NeuralTextures")
ACTORS = ("01__walking_outside", "15__podium_speech_happy")
ACTOR_FAKES = ("01_15__walking_outside__YVGY8LOK", "15_01__podium_speech_happy__0A1B2C3D")


def published_pairs() -> dict[str, list[tuple[str, str]]]:
    """Pairs of the published number, of sequences 000 to 999."""
    pairs = [(f"{2 * index:03d}", f"{2 * index + 1:03d}") for index in range(500)]
    return {"train": pairs[:360], "val": pairs[360:430], "test": pairs[430:]}


def write_ffpp(
    root: Path,
    media: Media,
    *,
    pairs: dict[str, list[tuple[str, str]]] | None = None,
    methods: Sequence[str] = METHODS,
    compression: str = "c23",
) -> RawTree:
    """The originals and fakes of `pairs` (split -> pairs) in one compression, and one clip of another."""
    top = root / "FaceForensics++"
    pairs = pairs or PAIRS
    names = [name for members in pairs.values() for pair in members for name in pair]
    faces = {name: number for number, name in enumerate(names)}
    counts: Counter[tuple[str, str, str]] = Counter()
    (top / "splits").mkdir(parents=True)
    for split, members in pairs.items():
        (top / "splits" / f"{split}.json").write_text(json.dumps(members))
        for target, source in (order for pair in members for order in (pair, pair[::-1])):
            original = top / f"original_sequences/youtube/{compression}/videos/{target}.mp4"
            media.video(original, faces[target], sound=top / "sound" / f"{target}.wav")
            counts[split, "real", "real"] += 1
            for method in methods:
                fake = top / f"manipulated_sequences/{method}/{compression}/videos/{target}_{source}.mp4"
                media.video(fake, faces[target], fake_video=True, silent=True)
                counts[split, method, method] += 1
    for index, name in enumerate(ACTORS):
        path = top / f"original_sequences/actors/{compression}/videos/{name}.mp4"
        media.video(path, len(faces) + index, silent=True)
        counts["test", "real", "real"] += 1
    for index, name in enumerate(ACTOR_FAKES):
        path = top / f"manipulated_sequences/DeepFakeDetection/{compression}/videos/{name}.mp4"
        media.video(path, len(faces) + index, fake_video=True, silent=True)
        counts["test", "DeepFakeDetection", "DeepFakeDetection"] += 1
    # not for this run: another compression, and the masks of a forgery
    other = "c40" if compression != "c40" else "c23"
    (top / f"original_sequences/youtube/{other}/videos").mkdir(parents=True)
    (top / f"original_sequences/youtube/{other}/videos/{pairs['train'][0][0]}.mp4").touch()
    (top / f"manipulated_sequences/{methods[0]}/masks/videos").mkdir(parents=True)
    (top / f"manipulated_sequences/{methods[0]}/masks/videos/071_054.mp4").touch()
    return RawTree(
        dataset="ffpp",
        source=root,
        counts=counts,
        prepare_flags=("--only", f"**/{compression}/**/*.mp4", "--allow_silent"),
        has_own_split=True,
    )
