"""AVLips: two folders with the same numbers, sound in files of its own for some videos, none for one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media


def write_avlips(root: Path, media: Media, *, per_class: int = 8) -> RawTree:
    """Clips 0, 1, ... of each class; every third has its sound in wav/ only, clip 1 has none."""
    top = root / "AVLips"
    counts: Counter[tuple[str, str, str]] = Counter()
    for folder in ("0_real", "1_fake"):
        fake = folder == "1_fake"
        for number in range(per_class):
            sound = top / "wav" / folder / f"{number}.wav" if number % 3 == 0 else None
            video = top / folder / f"{number}.mp4"
            media.video(video, number % 5, fake_video=fake, sound=sound, silent=number == 1)
            counts["test", "fake" if fake else "real", "unknown" if fake else "real"] += 1
    return RawTree(
        dataset="avlips", source=root, counts=counts, prepare_flags=("--allow_silent",), test_only=True
    )
