"""One's own data, in the three forms that `loaders/datasets/manifest.py` reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media


def write_manifest(root: Path, media: Media, *, form: str = "table", num_identities: int = 8) -> RawTree:
    """Per person a real clip, one with a fake picture and one with a fake sound.

    `form`: "table" = manifest.csv as spreadsheets write it, "folders" = real/ and fake/, "lists" = text lists
    with the paths of another machine, parts given.
    """
    rows = ["path,label,video_label,audio_label,identity,method,video_fake_segments"]
    lists: dict[str, list[str]] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for index in range(num_identities):
        part = ("train", "train", "val", "test")[index % 4]
        suffix = ".MOV" if index == 0 else ".mp4"
        for video, audio, method in ((0, 0, ""), (1, 0, "swap v2"), (0, 1, "tts")):
            kind = "fake" if video or audio else "real"
            path = f"{kind}/person {index}/take.{method or 'x'}{suffix}"
            media.video(root / path, index, fake_video=bool(video), fake_audio=bool(audio))
            rows.append(f"{path},{kind},{video},{audio},{index}.0,{method},{'0.2-0.4;0.5-0.7' * video}")
            lists.setdefault(f"{part}_{kind}.txt", []).append(f"{int(kind == 'fake')}, /data/me/{path}, 20")
            if form == "table":
                category = {(0, 0): "real", (1, 0): "fake-video", (0, 1): "fake-audio"}[video, audio]
                counts["", category, method or "real"] += 1
            else:
                method_known = "real" if kind == "real" else "unknown"
                counts[part if form == "lists" else "", kind, method_known] += 1
    if form == "table":
        (root / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    if form == "lists":
        for name, lines in lists.items():
            (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return RawTree(dataset="manifest", source=root, counts=counts, has_own_split=form == "lists")
