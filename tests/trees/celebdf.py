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


METHODS = {  # scenario -> methods, as far as they are here
    "FaceSwap": ("Celeb-DF", "BlendFace"),
    "FaceReenact": ("LIA",),
    "TalkingFace": ("SadTalker", "EDTalk"),
}


def write_celebdf_pp(root: Path, media: Media, *, num_celebrities: int = 4) -> RawTree:
    """Celeb-DF++: a fake of each celebrity and method, under the same name in each; those of id0 tested."""
    base = root / "Celeb-DF++"
    counts: Counter[tuple[str, str, str]] = Counter()
    lines = []
    for index in range(num_celebrities):
        donor, tested = (index + 1) % num_celebrities, index == 0
        names = {f"Celeb-real/id{index}_0000": ("Celeb-real", "real")}
        for scenario, methods in METHODS.items():
            stem = f"id{index}_0000_test_0003" if scenario == "TalkingFace" else f"id{index}_id{donor}_0000"
            names |= {f"Celeb-synthesis/{scenario}/{method}/{stem}": (scenario, method) for method in methods}
        for name, (category, method) in names.items():
            media.video(base / f"{name}.mp4", index, fake_video=method != "real", silent=True)
            counts["test" if tested else "train", category, method] += 1
            lines += [f"{int(method == 'real')} {name}.mp4"] * tested
    (base / "List_of_testing_videos.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return RawTree(
        dataset="celebdf",
        source=root,
        counts=counts,
        prepare_flags=("--allow_silent",),
        has_own_split=True,
    )
