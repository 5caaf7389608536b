"""Judge a prepared clip by an exported network, with NumPy, PyAV and ONNX Runtime alone.

    python models/export/judge_onnx.py model.onnx PREPARED/clip_folder

An example to copy: nothing of this framework is imported. The model card, model.json, says how clips are cut.
It reads loose clip folders, and windows in seconds or single frames (not the preset "released" of
beyond_masking, nor --trim_silence).
"""

from __future__ import annotations

import json
import math
import sys
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]


def cut(about: dict[str, Any], fps: Fraction, num_frames: int) -> list[tuple[Array, float, float]]:
    """(numbers of the frames, start and end in seconds) of each window of a clip."""
    length, count, rate = about["num_frames"], about["per_clip"], about["video_fps"]
    if about["kind"] == "frames":  # single ones, evenly spread
        edges = np.linspace(0, num_frames, min(length, num_frames) + 1).astype(int)
        return [((edges[:-1] + edges[1:] - 1) // 2, 0.0, num_frames / float(fps))]
    last = max(0, num_frames - math.ceil(about["window_s"] * fps - 1e-6))
    starts = {last // 2} if count == 1 else {round(place) for place in np.linspace(0, last, count)}
    windows = []
    for start in sorted(starts):
        steps = np.arange(min(length, int((num_frames - start) / fps * rate + 1e-6)))
        frames = start + np.floor((steps + 0.5) / rate * float(fps) + 1e-6).astype(int)
        frames, start_s = np.minimum(frames, num_frames - 1), start / float(fps)
        windows.append((frames, start_s, start_s + len(steps) / rate))
    return windows


def landmarks_of(folder: Path, frames: Array, kind: str) -> tuple[Array, Array]:
    """Landmarks (T, 478, 2) of some frames, and which of these show a face."""
    points = np.load(folder / "landmarks.npy")[frames]
    if kind == "face_box":
        low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
        points = (points - (low + high) / 2) / np.maximum(high - low, 1e-6)[..., :1]
    found = ~np.isnan(points).any(axis=(1, 2))
    return np.where(found[:, None, None], points, 0).astype(np.float32), found


def rows_of(path: Path, start_s: float, end_s: float) -> Array:
    """The rows of cached features whose middle lies in a window, at least the nearest one."""
    rows, about = np.load(path), json.loads(path.with_suffix(".json").read_text())
    step, half = float(Fraction(about["step_s"])), float(Fraction(about["length_s"])) / 2
    first, end = (min(max(math.ceil((t - half) / step - 1e-6), 0), len(rows)) for t in (start_s, end_s))
    if first >= end:
        first = min(max(round(((start_s + end_s) / 2 - half) / step), 0), len(rows) - 1)
    return rows[first : max(end, first + 1)]


def judge(model: Path, folder: Path) -> float:
    """The logit of a clip, > 0 = fake: the mean of its windows', or the largest."""
    card, session = json.loads(model.with_suffix(".json").read_text()), onnxruntime.InferenceSession(model)
    about, logits = card["windows"], []
    with av.open(folder / "cropped_video.mp4") as video:
        fps = Fraction(video.streams.video[0].average_rate or 0)  # a prepared clip has one
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    with wave.open(str(folder / "cropped_video.wav")) as file:
        rate, sound = file.getframerate(), np.frombuffer(file.readframes(-1), "<i2") / np.float32(32768)
    for frames, start_s, end_s in cut(about, fps, len(pictures)):
        points, found = landmarks_of(folder, frames, about["landmarks"])
        given = {"video": np.stack([pictures[i] for i in frames]).transpose(3, 0, 1, 2), "landmarks": points}
        first = round(start_s * rate)
        given |= {"waveform": sound[first : first + round((end_s - start_s) * rate)], "has_landmarks": found}
        for name, features in card["features"].items():
            given[name] = rows_of(folder / f"features/{features}.npy", start_s, end_s)
        logits += session.run(["logits"], {name: given[name][None] for name in card["inputs"]})
    return float(np.max(logits) if about["pooling"] == "max" else np.mean(logits))


if __name__ == "__main__":
    sys.stdout.write(f"{judge(Path(sys.argv[1]), Path(sys.argv[2])):.6f}\n")
