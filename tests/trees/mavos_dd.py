"""MAVOS-DD: two flags, languages and generators that only the test part has, files without sound."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media

HEADER = "video_path,label,split,open_set_model,open_set_language,language,generative_method"
# split, language, generator ("real": a genuine clip) -> number of clips
ROWS = {
    ("train", "english", "real"): 3,
    ("train", "english", "EchoMimic"): 2,
    ("train", "romanian", "Memo"): 2,
    ("validation", "romanian", "real"): 2,
    ("validation", "romanian", "LivePortrait"): 2,
    ("test", "english", "real"): 1,
    ("test", "english", "Inswapper"): 2,
    ("test", "romanian", "Sonic"): 1,
    ("test", "german", "real"): 2,
    ("test", "german", "EchoMimic"): 1,
    ("test", "german", "Roop"): 1,
}
OPEN = {"Sonic", "HifiFace", "Roop"}


def table_rows() -> list[tuple[str, str, str, bool, bool, str, str]]:
    """The rows of the table."""
    return [
        (
            f"{language}/{method}/{part}_ș_{number}.mp4",
            "real" if method == "real" else "fake",
            part,
            method in OPEN,
            language == "german",
            language,
            method,
        )
        for (part, language, method), count in ROWS.items()
        for number in range(count)
    ]


def write_mavos_dd(root: Path, media: Media) -> RawTree:
    """Every fifth file has no sound; the table is a CSV."""
    top = root / "MAVOS-DD"
    counts: Counter[tuple[str, str, str]] = Counter()
    lines = [HEADER]
    ending = {(0, 0): "", (1, 0): "_open_model", (0, 1): "_open_language", (1, 1): "_open_both"}
    for number, row in enumerate(table_rows()):
        path, label, part, *flags, _, method = row
        media.video(top / path, number % 5, fake_video=label == "fake", silent=number % 5 == 4)
        lines.append(",".join(map(str, row)))
        split = "val" if part == "validation" else part
        counts[split, label + ending[tuple(flags)], method.lower()] += 1
    (top / "mavos_dd.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return RawTree(
        dataset="mavos_dd", source=root, counts=counts, prepare_flags=("--allow_silent",), has_own_split=True
    )
