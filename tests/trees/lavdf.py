"""LAV-DF: JSON metadata in a short and a long form, the validation part called dev, forgeries in places."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import DURATION_S, FPS, Media

CATEGORIES = {
    (False, False): "real",
    (True, False): "visual_modified",
    (False, True): "audio_modified",
    (True, True): "both_modified",
}


def write_lavdf(
    root: Path,
    media: Media,
    *,
    families: tuple[tuple[str, int], ...] = (("train", 3), ("dev", 2), ("test", 2)),
    metadata: str = "metadata.min.json",
) -> RawTree:
    """Families of four: a real clip and its three forgeries."""
    entries = []
    counts: Counter[tuple[str, str, str]] = Counter()
    for part, num_families in families:
        for _ in range(num_families):
            original = None
            for (video, audio), category in CATEGORIES.items():
                name = f"{part}/{len(entries):06d}.mp4"
                media.video(root / "LAV-DF" / name, len(entries) // 4, fake_video=video, fake_audio=audio)
                periods = [[0.3, 0.7]] if video or audio else []
                entries.append(
                    {
                        "file": name,
                        "n_fakes": len(periods),
                        "fake_periods": periods,
                        "duration": DURATION_S,
                        "original": original,
                        "modify_video": video,
                        "modify_audio": audio,
                        "split": part,
                        "video_frames": round(DURATION_S * FPS),
                        "audio_channels": 1,
                        "audio_frames": round(DURATION_S * 16_000),
                    }
                )
                original = original or name
                counts["val" if part == "dev" else part, category, category] += 1
    (root / "LAV-DF" / metadata).write_text(json.dumps(entries), encoding="utf-8")
    return RawTree(dataset="lavdf", source=root, counts=counts, has_own_split=True)
