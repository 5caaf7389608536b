"""DeepfakeTIMIT and its reals: sound next to silent videos, and low quality, both under both names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media


def subjects(num_pairs: int) -> list[tuple[str, str]]:
    """Pairs of look-alikes, women and men in turn."""
    pairs = []
    for index in range(num_pairs):
        letter = "fm"[index % 2]
        number = index // 2
        pairs.append(tuple(f"{letter}{chr(97 + number)}{chr(97 + number)}{side}0" for side in "gs"))
    return pairs


def write_deepfaketimit(
    root: Path,
    media: Media,
    *,
    num_pairs: int = 4,
    sentences: tuple[str, ...] = ("sa1",),
    low_quality: str = "lower_quality",
) -> RawTree:
    """Per subject and sentence a real clip and two fakes with the other's face."""
    base = root / "DeepfakeTIMIT"
    counts: Counter[tuple[str, str, str]] = Counter()
    for pair, (one, other) in enumerate(subjects(num_pairs)):
        for place, (subject, donor) in enumerate(((one, other), (other, one))):
            person = 2 * (2 * (pair // 2) + place) + pair % 2  # odd ones have women's voices
            for sentence in sentences:
                real = base / "real" / subject / f"{sentence}.mp4"
                media.video(real, person, sound=real.with_suffix(".wav"))
                counts["", "real", "real"] += 1
                for quality in ("higher_quality", low_quality):
                    video = base / quality / subject / f"{sentence}-video-{donor}.avi"
                    by_sentence = quality == "higher_quality"  # sources disagree on the wav's name
                    sound = video.with_name(f"{sentence}.wav") if by_sentence else video.with_suffix(".wav")
                    media.video(video, person, fake_video=True, sound=sound)
                    category = "higher_quality" if by_sentence else "lower_quality"
                    counts["", category, "faceswap-gan"] += 1
    (base / f"{subjects(1)[0][0]}-original.mov").touch()  # lies at the top of the release
    return RawTree(dataset="deepfaketimit", source=root, counts=counts)
