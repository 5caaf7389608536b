"""Deepfake-Eval-2024: labels of a third value, clips without sound, comments of several lines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media

HEADER = "Filename,Date,Video Ground Truth,Audio Ground Truth,Public Comments,Finetuning Set,Media"
COMMENT = '"seen, and reported\nby many"'
# truth of picture and sound -> category; None: the clip is left out
TRUTHS = {
    ("Fake", "Real"): "video_fake",
    ("real", "FAKE"): "audio_fake",
    ("Fake", "Fake"): "both_fake",
    ("Fake", "Unknown"): "video_fake",
    ("Real", "Real"): "real",
    ("Real", ""): "real",
    ("Real", "Unknown"): None,
    ("Unknown", "Real"): None,
}


def write_deepfake_eval_2024(root: Path, media: Media, *, per_part: int = 2) -> RawTree:
    """Clips of each pair of labels in either part; the comment of each row has a comma and a line break."""
    top = root / "Deepfake-Eval-2024"
    lines = [HEADER]
    counts: Counter[tuple[str, str, str]] = Counter()
    number = 0
    for part in ("Train", "Test"):
        for (picture, sound), category in TRUTHS.items():
            for _ in range(per_part if category else 1):
                name = f"{number:04x}.mp4"
                fake_video, fake_audio = (word.lower() == "fake" for word in (picture, sound))
                path = top / "video-data" / name
                media.video(path, number % 5, fake_video=fake_video, fake_audio=fake_audio, silent=not sound)
                lines.append(f"{name},2024-03-01,{picture},{sound},{COMMENT},{part},https://x.y/{number}")
                if category:
                    counts[part.lower(), category, "real" if category == "real" else "unknown"] += 1
                number += 1
    (top / "audio-data").mkdir()
    (top / "audio-data" / "0000.mp3").touch()
    (top / "video-metadata-publish-with-links.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return RawTree(
        dataset="deepfake_eval_2024",
        source=root,
        counts=counts,
        prepare_flags=("--allow_silent",),
        has_own_split=True,
        test_only=True,
    )
