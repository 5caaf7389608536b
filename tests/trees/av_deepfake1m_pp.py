"""AV-Deepfake1M++: archives that nest once more, three corpora with names of their own, persons in
both parts, parts of clips whose original is another clip, fakes without sound, test lists without labels."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.trees.base import RawTree
from tests.trees.media import DURATION_S, FPS, Media

SEGMENT = [0.3, 0.7]
# file name -> modify_type, video_model, audio_model
KINDS = {
    "real": ("real", None, None),
    "fake_video_real_audio": ("visual_modified", "Talklip", None),
    "real_video_fake_audio": ("audio_modified", None, "vits"),
    "fake_video_fake_audio_p1": ("both_modified", "Talklip", "yourtts"),
    "real_p1": ("real", None, "None"),
    "fake": ("visual_modified", "diff2lip", None),  # of silent_videos: no sound
}
VOX = ("real", "fake_video_real_audio", "real_video_fake_audio", "fake_video_fake_audio_p1")
LRS3 = ("real_p1", "fake_video_fake_audio_p1")
SILENT = ("real", "fake")
# part -> (folder, who is seen, kinds); the first of val shows a clip of train again, the last its subject
FOLDERS = {
    "train": (
        ("vox_celeb_2/id00012/21Uxsk56VDQ/00001", 0, VOX),
        ("vox_celeb_2/id00013/21Uxsk56VDQ/00001", 1, VOX),
        ("vox_celeb_2/id00014/_1nATum8x78/00030", 2, VOX),
        ("lrs3/ue2ZEmTJSXo/00013", 3, LRS3),
        ("lrs3/uhRhtFFhNzQ/00013", 4, LRS3),
        ("silent_videos/subject_17_ddvyjnjfad_vid_2_6", 5, SILENT),
    ),
    "val": (
        ("vox_celeb_2/id00012/21Uxsk56VDQ/00001", 0, VOX),
        ("lrs3/0akiEFwtkyA/00002", 6, LRS3),
        ("silent_videos/subject_17_ddvyjnjfad_vid_1_4", 5, SILENT),
    ),
}


def write_av_deepfake1m_pp(root: Path, media: Media) -> RawTree:
    """`train/` as it is, `val/val/` nested, and `testA/`."""
    top = root / "AV-Deepfake1M-PlusPlus"
    counts: Counter[tuple[str, str, str]] = Counter()
    for part, folders in FOLDERS.items():
        entries = []
        place = top / part / part if part == "val" else top / part
        for folder, person, kinds in folders:
            for name in kinds:
                kind, *models = KINDS[name]
                video, audio = kind in ("visual_modified", "both_modified"), kind[:4] in ("audi", "both")
                path, silent = place / folder / f"{name}.mp4", name == "fake"
                media.video(path, person, fake_video=video, fake_audio=audio, silent=silent)
                upstream = f"/data/VoxCeleb2/dev/mp4/{folder.partition('/')[2]}.mp4"
                entries.append(
                    {
                        "file": f"{folder}/{name}.mp4",
                        "original": upstream if name == "real" else f"{folder}/real.mp4",
                        "split": part,
                        "modify_type": kind,
                        "audio_model": models[1],
                        "video_model": models[0],
                        "fake_segments": [SEGMENT] * (video or audio),
                        "audio_fake_segments": [SEGMENT] * audio,
                        "visual_fake_segments": [SEGMENT] * video,
                        "video_frames": round(DURATION_S * FPS),
                        "audio_frames": 0 if name == "fake" else 12_800,
                    }
                )
                method = "+".join(model.lower() for model in models if model not in (None, "None"))
                counts["test" if part == "val" else part, kind, method or kind] += 1
        (top / f"{part}_metadata.json").write_text(json.dumps(entries), encoding="utf-8")
    media.video(top / "testA/000001.mp4", 7)
    (top / "testA_files.txt").write_text("000001.mp4\n", encoding="utf-8")
    return RawTree(
        dataset="av_deepfake1m_pp",
        source=root,
        counts=counts,
        prepare_flags=("--allow_silent",),
        has_own_split=True,
        overlap={"persons": (3, 2), "videos": (3, 1), "families": (3, 1)},
    )
