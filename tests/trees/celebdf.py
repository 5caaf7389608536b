"""Celeb-DF: silent videos, a test list whose labels mean the opposite, celebrities in both parts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media


def write_celebdf(root: Path, media: Media, *, num_celebrities: int = 6) -> RawTree:
    """Two recordings and two fakes per celebrity, and two videos from YouTube, one of them in the test part.

    The second fake of the first two celebrities is in the test part, too.
    """
    base = root / "Celeb-DF-v2"
    counts: Counter[tuple[str, str, str]] = Counter()
    lines = []

    def add(folder: str, name: str, person: int, tested: bool) -> None:
        fake = folder == "Celeb-synthesis"
        media.video(base / folder / f"{name}.mp4", person, fake_video=fake, silent=True)
        counts["test" if tested else "train", folder, "celeb-synthesis" if fake else "real"] += 1
        if tested:
            lines.append(f"{int(not fake)} {folder}/{name}.mp4")

    for index in range(num_celebrities):
        donor = (index + 1) % num_celebrities
        for recording in range(2):
            tested = index < 2 and recording == 1
            add("Celeb-real", f"id{index}_{recording:04d}", index, tested)
            add("Celeb-synthesis", f"id{index}_id{donor}_{recording:04d}", index, tested)
    add("YouTube-real", "00000", num_celebrities, False)
    add("YouTube-real", "00170", num_celebrities + 1, True)
    (base / "List_of_testing_videos.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return RawTree(
        dataset="celebdf",
        source=root,
        counts=counts,
        prepare_flags=("--allow_silent",),
        has_own_split=True,
    )
