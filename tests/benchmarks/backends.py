"""How far the landmarks of a backend are from those of solutions, and what the distance consists of.

    python -m tests.benchmarks.backends --video a.mp4 b.mp4 [--num_frames 60] [--backend landmarker]

Both backends follow the first, largest face through the same part of the first frames, which stands still.
All distances are means in % of the face's width (landmarks 234 to 454), prints JSON per video:

- distance; without_shift, without_similarity: after the best shift, or shift, turn and scale, of each frame;
- offset: of each landmark, constant over time, in the face's own axes; without_offset: what is left, also
  with the backend's frames taken later or earlier by some frames (without_offset_at_lag);
- jitter: mean second difference over time of either backend's landmarks;
- regions: distance by region.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.faces.backends import new_detection, new_face_mesh
from preprocess.faces.solutions import Image, import_mediapipe
from preprocess.faces.track import LEFT_CHEEK, MESH_SIDE, RIGHT_CHEEK
from utils.config import opt, parse_command
from utils.errors import run_command
from utils.media.video import iterate_frames

Points = npt.NDArray[np.complex128]  # (T, 478) x + iy, in pixels
REGIONS = ("LIPS", "LEFT_EYE", "RIGHT_EYE", "LEFT_EYEBROW", "RIGHT_EYEBROW", "NOSE", "FACE_OVAL", "IRISES")
LAGS = (-2, -1, 0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class BackendsConfig:
    """tests/benchmarks/backends.py"""

    video: tuple[Path, ...] = opt(dataclasses.MISSING, "videos of a face")
    num_frames: int = opt(60, "frames of each that are looked at")
    backend: str = opt("mesh", "what is compared with solutions", choices=("mesh", "landmarker"))


def face_images(video: Path, num_frames: int) -> Iterable[Image]:
    """The square around the largest face of the first frame that shows one, of that and later frames."""
    detect, place = new_detection("mesh"), None
    for _, frame in itertools.islice(iterate_frames(video), num_frames):
        height, width = frame.shape[:2]
        if place is None:
            faces = detect(frame)
            if not faces:
                continue
            face = max(faces, key=lambda face: face.width)
            # a detection's box is 7 % smaller than a face; a width that needs no padding, as in preparing
            side = int(MESH_SIDE * 1.07 * max(face.width * width, face.height * height)) // 16 * 16
            centre = (face.left + face.width / 2) * width, (face.top + face.height / 2) * height
            place = [int(value - side / 2) // 2 * 2 for value in centre]
        padded = cv2.copyMakeBorder(frame, side, side, side, side, cv2.BORDER_REPLICATE)
        left, top = (value + side for value in place)
        yield np.ascontiguousarray(padded[top : top + side, left : left + side], np.uint8)


def follow(images: Iterable[Image], backend: str) -> tuple[Points, Points]:
    """Landmarks of solutions and a backend, in the frames in which both see the face."""
    meshes = [new_face_mesh(name) for name in ("solutions", backend)]
    pairs = []
    for image in images:
        found = [mesh(image) for mesh in meshes]
        if all(points is not None for points in found):
            pairs.append([(points * len(image)) @ (1, 1j) for points in found])
    solutions, other = np.swapaxes(np.array(pairs), 0, 1)
    return solutions, other


def compare(solutions: Points, other: Points) -> dict[str, Any]:
    """The figures of one video."""
    axis = solutions[:, [LEFT_CHEEK]] - solutions[:, [RIGHT_CHEEK]]  # across the face, as long as it is wide
    width = abs(axis)

    def percent(apart: Points) -> float:
        return round(100 * float((abs(apart) / width[: len(apart)]).mean()), 2)

    centre = solutions.mean(axis=1, keepdims=True)
    own = other - other.mean(axis=1, keepdims=True)
    turned = (own.conj() * (solutions - centre)).sum(axis=1) / (abs(own) ** 2).sum(axis=1)
    difference = (other - solutions) / axis
    offset = difference.mean(axis=0)

    def left_at(lag: int) -> float:
        first, second = (slice(max(0, by), len(axis) + min(0, by)) for by in (lag, -lag))
        moved = (other[first] - solutions[second]) / axis[second]
        return round(100 * float(abs(moved - moved.mean(axis=0)).mean()), 2)

    return {
        "frames": len(solutions),
        "width_px": round(float(width.mean())),
        "distance": percent(other - solutions),
        "without_shift": percent(own + centre - solutions),
        "without_similarity": percent(turned[:, None] * own + centre - solutions),
        "shift": [round(100 * float(value), 2) for value in (difference.mean().real, difference.mean().imag)],
        "scale": round(float(abs(turned).mean()), 4),
        "offset": round(100 * float(abs(offset).mean()), 2),
        "without_offset_at_lag": {lag: left_at(lag) for lag in LAGS},
        "jitter": {
            "solutions": percent(np.diff(solutions, 2, axis=0)),
            "backend": percent(np.diff(other, 2, axis=0)),
        },
        "regions": {
            name.lower(): round(100 * float(abs(difference[:, places_of(name)]).mean()), 2)
            for name in REGIONS
        },
    }


def places_of(region: str) -> list[int]:
    """The landmarks of a region, as MediaPipe draws it."""
    connections = import_mediapipe().solutions.face_mesh
    return sorted({place for pair in getattr(connections, f"FACEMESH_{region}") for place in pair})


def main() -> None:
    config = parse_command(BackendsConfig, __doc__)
    for video in config.video:
        figures = {
            "video": video.name,
            **compare(*follow(face_images(video, config.num_frames), config.backend)),
        }
        sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    run_command(main)
