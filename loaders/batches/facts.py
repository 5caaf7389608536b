"""Plain facts of windows: how sharp, noisy, bright and coloured their pictures are, and how their sound is.

They depend on cameras, encoders and microphones, hardly on what is said: videos unlike the training data
differ in them whatever a detector makes of their faces.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.types import ClipBatch

PICTURE_FACTS = (
    "detail at 1 pixel",
    "detail at 2 pixels",
    "detail at 4 pixels",
    "detail at 8 pixels",
    "noise",
    "brightness",
    "contrast",
    "blue",
    "red",
    "colourfulness",
    "flicker",
)
SOUND_FACTS = (
    "level",
    "background level",
    "bandwidth",
    "share above 2 kHz",
    "share above 4 kHz",
    "spectral flatness",
)
PREPARATION = ("crop_size", "crop_margin", "sample_rate_hz")  # flags that move facts
NUM_FRAMES = 4  # of a window, evenly spaced, that are looked at
SOUND_FRAME = 512  # samples of a spectrum
FLOOR = 1e-4  # added before logarithms: what is below is nothing


def fact_names(inputs: frozenset[str]) -> tuple[str, ...]:
    """The facts of a method's inputs."""
    return (PICTURE_FACTS if "video" in inputs else ()) + (SOUND_FACTS if "sound" in inputs else ())


def file_facts(info: Mapping[str, Any]) -> list[float]:
    """Logarithms of the domain's FILE_FACTS by the values of clip.json, NaN where it does not say them."""
    sides = [box[2] for box in info.get("face_boxes", ()) if box]
    if not sides or "fps" not in info:
        return [math.nan, math.nan]
    height = statistics.median(sides) / float(info.get("settings", {}).get("crop_margin", 1.5))
    return [math.log(max(height, 1.0)), math.log(Fraction(info["fps"]))]


def preparation_of(info: Mapping[str, Any]) -> tuple[object, ...]:
    """What of a clip's recorded preparation its facts depend on; None for what clip.json does not say."""
    values = {**info.get("settings", {}), "sample_rate_hz": info.get("sample_rate_hz")}
    return tuple(values.get(name) for name in PREPARATION)


@torch.no_grad()
def window_facts(batch: ClipBatch) -> Tensor:
    """(B, F) float32, F as `fact_names`; logarithms where the fact is a size."""
    parts = []
    if batch.video.shape[-1]:
        parts.append(_picture_facts(batch))
    if batch.waveform.shape[1]:
        parts.append(_sound_facts(batch))
    return torch.cat(parts, dim=1)


def _picture_facts(batch: ClipBatch) -> Tensor:
    lengths = (~batch.video_padding_mask).sum(dim=1)
    rows = []
    for clip, length in zip(batch.video, lengths.tolist(), strict=True):
        if batch.spread_frames:  # each by itself, as a judged video shows them
            frames = clip[:, :length, None].float().transpose(0, 1).transpose(1, 2) / 255  # (T, 1, 3, H, W)
            rows.append(torch.stack([_facts_of_frames(frame, frame) for frame in frames]).mean(dim=0))
            continue
        places = torch.linspace(0, max(0, length - 2), NUM_FRAMES, device=clip.device).long()
        frames = clip[:, places].float().transpose(0, 1) / 255  # (4, 3, H, W)
        following = clip[:, places + min(1, length - 1)].float().transpose(0, 1) / 255
        rows.append(_facts_of_frames(frames, following))
    return torch.stack(rows)


def _facts_of_frames(frames: Tensor, following: Tensor) -> Tensor:
    """(len(PICTURE_FACTS),) of (N, 3, H, W) in [0, 1] and the frames after them."""
    red, green, blue = frames.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    details = []
    small = luma[:, None]
    for _ in range(4):
        steps = torch.cat([(small.diff(dim=axis) ** 2).flatten() for axis in (2, 3)])
        details.append(0.5 * torch.log(steps.mean() + FLOOR**2))
        small = F.avg_pool2d(small, 2)
    # Immerkaer's mask (1996), which leaves edges and planes out; the median is robust to what remains
    curvature = luma.diff(n=2, dim=1).diff(n=2, dim=2) / 6
    noise = torch.log(curvature[:, ::2, ::2].abs().median() + FLOOR)
    chroma_blue, chroma_red = blue - luma, red - luma
    later = 0.299 * following[:, 0] + 0.587 * following[:, 1] + 0.114 * following[:, 2]
    flicker = torch.log((later - luma)[:, ::2, ::2].abs().median() + FLOOR)
    contrast = torch.log(luma.std() + FLOOR)
    colourful = torch.log(chroma_blue.std() + chroma_red.std() + FLOOR)
    values = [
        *details,
        noise,
        luma.mean(),
        contrast,
        chroma_blue.mean(),
        chroma_red.mean(),
        colourful,
        flicker,
    ]
    return torch.stack(values)


def _sound_facts(batch: ClipBatch) -> Tensor:
    """(B, len(SOUND_FACTS)) of the unpadded sound."""
    window = torch.hann_window(SOUND_FRAME, device=batch.waveform.device)
    frequencies = torch.linspace(0, batch.sample_rate_hz / 2, SOUND_FRAME // 2 + 1, device=window.device)
    rows = []
    for waveform, mask in zip(batch.waveform, batch.audio_padding_mask, strict=True):
        sound = waveform[~mask].float()
        if len(sound) < SOUND_FRAME:
            sound = F.pad(sound, (0, SOUND_FRAME - len(sound)))
        spectra = (
            torch.fft.rfft(sound.unfold(0, SOUND_FRAME, SOUND_FRAME // 2) * window).abs() ** 2
        ) / SOUND_FRAME
        levels = torch.log(spectra.mean(dim=1) + FLOOR**2)
        spectrum = spectra.mean(dim=0) + FLOOR**2
        shares = spectrum.cumsum(0) / spectrum.sum()
        bandwidth = frequencies[(shares < 0.99).sum().clamp(max=len(frequencies) - 1)] / 1000
        above = [torch.log(1 - shares[(frequencies < hz).sum() - 1] + FLOOR) for hz in (2000, 4000)]
        flatness = torch.log(spectrum).mean() - torch.log(spectrum.mean())
        level = torch.log(spectra.mean() + FLOOR**2)
        rows.append(torch.stack([level, levels.quantile(0.1), bandwidth, *above, flatness]))
    return torch.stack(rows)
