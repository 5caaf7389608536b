"""PolyGlotFake: lists under two keys, several clips of one recording, a list that repeats the others."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import Media

VOICES = {"Xtts": "Wav2Lip", "MicroTts": "video_retalking"}


def write_polyglotfake(root: Path, media: Media, *, per_language: int = 4) -> RawTree:
    """Two languages; clips 1 and 2, 3 and 4, ... of a language are cut from one recording."""
    top = root / "PolyGlotFake"
    counts: Counter[tuple[str, str, str]] = Counter()
    reals: dict[str, list[dict[str, str]]] = {"en": [], "ru": []}
    fakes: dict[str, list[dict[str, str]]] = {"en": [], "ru": []}
    for index, (language, other) in enumerate((("en", "ru"), ("ru", "en"))):
        for number in range(1, per_language + 1):
            person = 10 * index + (number - 1) // 2
            name = f"{language}_{number}.mp4"
            media.video(top / "real" / language / name, person)
            source = f"Clips from interviews URL:https://video.example/{language}{(number - 1) // 2}/"
            reals[language].append({"filename": name, "duration": "00:00:10", "source": source})
            counts["", "real", "real"] += 1
            for voice, lips in VOICES.items():
                fake = f"{language}_{number}_to_{other}_{voice}.mp4"
                media.video(top / "fake" / f"to_{other}" / fake, person, fake_video=True, fake_audio=True)
                row = {"name": fake, "raw_video_name": name, "tts_technique": voice, "sync_tech": lips}
                fakes[other].append(row)
                counts["", f"to_{other}", f"{voice}+{lips}".lower()] += 1
    lists = {
        **{f"real_json_file/{name}": {"videos": rows} for name, rows in reals.items()},
        **{f"fake_Json_file/to_{name}": {"video": rows} for name, rows in fakes.items()},
        "real_json_file/all_real_video": {"videos": [row for rows in reals.values() for row in rows]},
    }
    for name, content in lists.items():
        path = top / "json_file" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return RawTree(dataset="polyglotfake", source=root, counts=counts)
