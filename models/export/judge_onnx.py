"""python judge_onnx.py model.onnx CLIP_FOLDER: judge a prepared clip without this framework, to be copied."""

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
import soundfile


def cut(about: dict[str, Any], fps: float, num_frames: int) -> list[tuple[Any, float, float]]:
    """(numbers of the frames, start and end in seconds) of each window of a clip."""
    length, rate, count = about["num_frames"], about["video_fps"], about["per_clip"]
    if about["kind"] == "frames":  # single ones, evenly spread
        edges = np.linspace(0, num_frames, min(length, num_frames) + 1).astype(int)
        return [((edges[:-1] + edges[1:] - 1) // 2, 0.0, num_frames / fps)]
    last, windows = max(0, num_frames - int(np.ceil(about["window_s"] * fps - 1e-6))), []
    starts = np.linspace(0, last, count).round().astype(int) if count > 1 else [last // 2]
    for start in np.unique(starts):
        steps = np.arange(min(length, int((num_frames - start) / fps * rate + 1e-6)))
        frames = np.minimum(start + ((steps + 0.5) / rate * fps + 1e-6).astype(int), num_frames - 1)
        windows.append((frames, start / fps, start / fps + len(steps) / rate))
    return windows


def rows_of(path: Path, start_s: float, end_s: float) -> Any:
    """The rows of a backbone's features whose middle lies in a window, at least the nearest one."""
    rows, made = np.load(path), json.loads(path.with_suffix(".json").read_text())
    step_s, length_s = (float(Fraction(made[name])) for name in ("step_s", "length_s"))
    middles = np.arange(len(rows)) * step_s + length_s / 2
    inside = (middles >= start_s - 1e-8) & (middles < end_s - 1e-8)
    return rows[inside] if inside.any() else rows[[np.abs(middles - (start_s + end_s) / 2).argmin()]]


def judge(model: Path, folder: Path) -> float:
    """The logit of a clip, > 0 = fake. The network's card, model.json, says how it is cut into windows."""
    card, session = json.loads(model.with_suffix(".json").read_text()), onnxruntime.InferenceSession(model)
    if card["windows"]["kind"] == "released" or card["windows"]["trim_silence"]:
        raise ValueError("this example knows neither --window released nor --trim_silence")
    with av.open(folder / "cropped_video.mp4") as video:
        fps = float(video.streams.video[0].average_rate or 0)
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    sound, rate = soundfile.read(folder / "cropped_video.wav", dtype="float32")
    landmarks, logits = np.load(folder / "landmarks.npy"), []
    for frames, start_s, end_s in cut(card["windows"], fps, len(pictures)):
        given = {"video": pictures[frames].transpose(3, 0, 1, 2), "landmarks": landmarks[frames]}
        given["waveform"] = sound[round(start_s * rate) :][: round((end_s - start_s) * rate)]
        for name, features in card["features"].items():
            features_end_s = max(end_s, start_s + card["windows"]["features_s"])
            given[name] = rows_of(folder / f"features/{features}.npy", start_s, features_end_s)
        logits += session.run(["logits"], {name: given[name][None] for name in card["inputs"]})
    return float(np.max(logits) if card["windows"]["pooling"] == "max" else np.mean(logits))


if __name__ == "__main__":
    sys.stdout.write(f"{judge(Path(sys.argv[1]), Path(sys.argv[2])):.6f}\n")
