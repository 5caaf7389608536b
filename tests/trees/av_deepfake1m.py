"""AV-Deepfake1M: two JSON lists that share speakers, upstream paths as originals of real clips, two spellings
of both-modified, misplaced segments, a test part without labels."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import DURATION_S, FPS, Media

KINDS = {  # file name -> modify_type
    "real": "real",
    "fake_video_real_audio": "visual_modified",
    "real_video_fake_audio": "audio_modified",
    "fake_video_fake_audio": "both_modified",
}
SEGMENT = [0.3, 0.7]
UPSTREAM = (
    None,
    "id00013/21Uxsk56VDQ/00001.mp4",
    "/data/VoxCeleb2/mp4/x.mp4",
    "dev/mp4/id00015/x.mp4",
    "",
)


def write_av_deepfake1m(root: Path, media: Media, *, num_train: int = 4, num_val: int = 2) -> RawTree:
    """A real clip and its three forgeries of each speaker of the train part, and again in the val part.

    The first family of the val part is also in train; the others show the next speakers in another video.
    """
    top = root / "AV-Deepfake1M"
    counts: Counter[tuple[str, str, str]] = Counter()
    index = 0
    for part, num_speakers in (("train", num_train), ("val", num_val)):
        entries = []
        for person in range(num_speakers):
            source = "s7xWGCAHkJ0" if part == "val" and person else "21Uxsk56VDQ"
            folder = f"id{12 + person:05d}/{source}/00001"
            for name, kind in KINDS.items():
                video, audio = name.startswith("fake_video"), name.endswith("fake_audio")
                media.video(top / part / folder / f"{name}.mp4", person, fake_video=video, fake_audio=audio)
                entry = {
                    "file": f"{folder}/{name}.mp4",
                    "original": UPSTREAM[index % 5] if kind == "real" else f"{folder}/real.mp4",
                    "split": part,
                    "modify_type": kind,
                    "audio_model": "yourtts" if audio else None,
                    "fake_segments": [SEGMENT] * (video or audio),
                    "audio_fake_segments": [SEGMENT] * audio,
                    "visual_fake_segments": [SEGMENT] * video,
                    "video_frames": round(DURATION_S * FPS),
                    "audio_frames": 12_800,
                }
                if kind == "both_modified" and index % 2:
                    entry["modify_type"] = "both-modified"
                if kind == "audio_modified" and index == 0:  # a fault of the release
                    entry["visual_fake_segments"] = [SEGMENT]
                entries.append(entry)
                counts["test" if part == "val" else part, kind, kind] += 1
            index += 1
        (top / f"{part}_metadata.json").write_text(json.dumps(entries), encoding="utf-8")
    media.video(top / "test/000000.mp4", index)
    (top / "test_files.txt").write_text("000000.mp4\n", encoding="utf-8")
    overlap = {"persons": (num_val, num_val), "videos": (num_val, 1), "families": (num_val, 1)}
    return RawTree(dataset="av_deepfake1m", source=root, counts=counts, has_own_split=True, overlap=overlap)
