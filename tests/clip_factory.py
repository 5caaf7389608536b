"""Small synthetic clip folders, data-set trees and batches, real files all of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from loaders.splits.overlap import named_by_clip, overlaps
from utils.clip.features import FeatureInfo
from utils.clip.files import (
    AUDIO_NAME,
    LANDMARKS_NAME,
    LAYOUT_VERSION,
    NUM_LANDMARKS,
    SAMPLE_RATE_HZ,
    VIDEO_NAME,
)
from utils.clip_type import Clip
from utils.media.writer import VideoWriter
from utils.types import ClipBatch

NUM_BITS = 8  # the upper half of frame i of a synthetic video shows i in binary, dark and bright columns


def write_clip_folder(
    folder: Path, *, num_frames: int = 40, fps: Fraction = Fraction(25), size: int = 64, seed: int = 0,
    fake_video: bool = False, fake_audio: bool = False, audio_name: str = AUDIO_NAME,
    fake_span: tuple[float, float] = (0.0, math.inf),
) -> Path:  # fmt: skip
    """A prepared clip: frames that show their number in binary, a sound whose amplitude rises with
    time.

    A fake picture has a checkerboard in it and a fake sound a tone, so that a small model can tell them
    apart, from the first to the second of the seconds `fake_span`.
    """
    import soundfile  # not at the top: batches can be made without it

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with VideoWriter(folder / VIDEO_NAME, fps=fps, width=size, height=size) as writer:
        for index in range(num_frames):
            frame = np.full((size, size, 3), 90, np.uint8)
            bits = (index >> np.arange(NUM_BITS) & 1) * 160 + 40
            frame[: size // 2] = np.repeat(bits, size // NUM_BITS)[None, :, None]
            # at the bottom the seed, faintly: one picture in two parts would be a leak
            marks = 90 + 30 * (seed >> np.arange(NUM_BITS) & 1)
            frame[-size // NUM_BITS :] = np.repeat(marks, size // NUM_BITS)[None, :, None]
            if fake_video and fake_span[0] <= (index + 0.5) / fps < fake_span[1]:
                frame[size // 2 :: 4] += 60
            writer.write(frame)
    num_samples = round(num_frames / fps * SAMPLE_RATE_HZ)
    seconds = np.arange(num_samples) / SAMPLE_RATE_HZ
    waveform = seconds / 10 + 0.01 * rng.standard_normal(num_samples)
    if fake_audio:
        forged = (fake_span[0] <= seconds) & (seconds < fake_span[1])
        waveform += 0.2 * np.sin(2 * np.pi * 3000 * seconds) * forged
    soundfile.write(folder / audio_name, waveform.astype(np.float32), SAMPLE_RATE_HZ, subtype="PCM_16")
    face = rng.uniform(0.2, 0.8, (NUM_LANDMARKS, 2))
    landmarks = face + 0.02 * np.sin(np.arange(num_frames) / 3)[:, None, None]
    np.save(folder / LANDMARKS_NAME, landmarks.astype(np.float32))
    return folder


ROWS = (  # type, category, method, target1
    ("RealVideo-RealAudio", "A", "real", "-"),
    ("RealVideo-FakeAudio", "B", "rtvc", "-"),
    ("FakeVideo-RealAudio", "C", "faceswap", "donor"),
    ("FakeVideo-FakeAudio", "D", "wav2lip", "donor"),
)


def write_fakeavceleb_tree(
    root: Path, *, num_identities: int, num_frames: int = 40, clips: bool = True
) -> Path:
    """A prepared tree with one clip per identity and category, and the original form of meta_data.csv."""
    rows = []
    identities = [f"id{10_000 + 7 * i:05d}" for i in range(num_identities)]
    for i, identity in enumerate(identities):
        race, gender = ("African", "Caucasian (European)")[i % 2], ("men", "women")[i // 2 % 2]
        for kind, letter, method, donor in ROWS:
            donor = identities[(i + 1) % num_identities] if donor == "donor" else donor
            name = f"00{i:03d}{'' if kind == 'RealVideo-RealAudio' else '_' + letter}.mp4"
            folder = f"{kind}/{race}/{gender}/{identity}"
            rows.append(
                (identity, donor, "-", method, letter, kind, race, gender, name, f"FakeAVCeleb/{folder}")
            )
            if clips:
                write_clip_folder(
                    root / folder / name.removesuffix(".mp4"), num_frames=num_frames, seed=i,
                    fake_video=kind.startswith("FakeVideo"), fake_audio=kind.endswith("FakeAudio"),
                )  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    write_metadata(root / "meta_data.csv", rows)
    return root


def write_metadata(path: Path, rows: list[tuple[str, ...]]) -> None:
    """The original meta_data.csv: nine names and a trailing comma over ten values."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("source,target1,target2,method,category,type,race,gender,path,\n")
        csv.writer(file, lineterminator="\n").writerows(rows)


def clip_info(**changes: object) -> dict[str, object]:
    """The content of a clip.json, with changes."""
    values = {
        "layout_version": LAYOUT_VERSION, "source": "clip.mp4", "source_sha256": "", "source_bytes": 1,
        "source_codecs": "h264/aac", "sound_sha256": "", "source_width": 64, "source_height": 64,
        "source_fps": "25", "variable_frame_rate": False, "fps": "25", "num_frames": 20, "face_boxes": [],
        "frames_without_face": [], "num_face_tracks": 1, "sample_rate_hz": SAMPLE_RATE_HZ,
        "audio_start_s": 0.0, "audio_padded_s": 0.0, "silent": False, "settings": {}, "tools": {},
        "files": {},
    }  # fmt: skip
    return values | changes


def feature_info(step_s: str) -> FeatureInfo:
    """Of rows that follow each other without gaps."""
    names = ("backbone", "weights", "weights_sha256", "source", "source_sha256", "rows_sha256")
    values = dict.fromkeys(names, "")
    return FeatureInfo(**values, settings={}, step_s=step_s, length_s=step_s, tools={})


def make_clip(folder: Path, **changes: object) -> Clip:
    """A Clip record of a folder, real unless `changes` say otherwise."""
    values = {
        "clip_id": f"test/{folder.name}", "place": str(folder), "label": 0, "video_label": 0,
        "audio_label": 0,
        "category": "RealVideo-RealAudio", "method": "real", "identity": "test/id1", "source_ids": (),
        "target_id": "test/id1", "pair_key": "test/id1", "stratum": "a", "dataset": "test",
    }  # fmt: skip
    return Clip(**(values | changes))


def shared_with_training(trained: Iterable[Clip], tested: Iterable[Clip]) -> dict[str, tuple[int, int]]:
    """Kind of loaders/splits/overlap.py -> (how many `tested` has, how many of these `trained` has, too)."""
    found = overlaps({"train": map(named_by_clip, trained), "test": map(named_by_clip, tested)})
    return {
        kind: (row["numbers"]["test"], row["shared"][0]["number"])
        for kind, row in found.items()
        if "shared" in row
    }


def make_batch(
    num_clips: int = 3, num_frames: int = 10, *, size: int = 32, seconds: float = 0.6, seed: int = 0
) -> ClipBatch:
    """A random batch, fake and real in turn, without padding."""
    generator = torch.Generator().manual_seed(seed)
    num_samples = round(seconds * SAMPLE_RATE_HZ)
    labels = torch.arange(num_clips) % 2
    return ClipBatch(
        video=torch.randint(
            0, 256, (num_clips, 3, num_frames, size, size), dtype=torch.uint8, generator=generator
        ),
        waveform=0.1 * torch.randn(num_clips, num_samples, generator=generator),
        landmarks=torch.rand(num_clips, num_frames, NUM_LANDMARKS, 2, generator=generator) - 0.5,
        video_padding_mask=torch.zeros(num_clips, num_frames, dtype=torch.bool),
        audio_padding_mask=torch.zeros(num_clips, num_samples, dtype=torch.bool),
        landmark_padding_mask=torch.zeros(num_clips, num_frames, dtype=torch.bool),
        frame_labels=labels.float()[:, None].expand(num_clips, num_frames).contiguous(),
        forged_frames=labels.float()[:, None].expand(num_clips, num_frames).contiguous(),
        video_labels=labels.float(),
        audio_labels=labels.float(),
        labels=labels.float(),
        clip_ids=tuple(f"clip{i}" for i in range(num_clips)),
        video_fps=num_frames / seconds,
        sample_rate_hz=SAMPLE_RATE_HZ,
    )
