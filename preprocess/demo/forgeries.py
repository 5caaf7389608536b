"""Face swap and lip re-synthesis with known ground truth, for any video with Face Mesh landmarks.

Both take frames (T, H, W, 3) uint8 RGB and landmarks (T, 478, 2) in pixels (NaN where there is no face: such
frames stay as they are), and return new frames. They imitate the traces of real forgers: inner faces of low
resolution, blending seams, colours that do not quite match, jitter relative to the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.demo.geometry import (
    CHIN,
    CONTROL_POINTS,
    EYES,
    NOSE_BASE,
    Box,
    Floats,
    Floats32,
    Pixels,
    bounding_box,
    face_height,
    face_mask,
    lip_opening,
    read_at,
    spline_map,
    upright,
)
from preprocess.demo.mouth import MouthInterior, mouth_field, paint_interior
from utils.clip.face_regions import FACE_OVAL, NOSE
from utils.config import opt

JAW = FACE_OVAL[7:-6]
INNER_FACE = (*JAW, 105, 334, 70, 300)  # up to the brows
LOWER_FACE = (NOSE_BASE, 205, 425, 50, 280, *JAW[4:-4])
LIP_SMEAR = MouthInterior(cavity=(66, 30, 30), teeth=(186, 176, 168), tongue=(140, 74, 74), sharpness=0.1)


@dataclass(frozen=True, kw_only=True)
class ForgeryConfig:
    """preprocess/demo/forgeries.py: how strong the traces of a forgery are."""

    swap_resolution: int = opt(44, "resolution of a swapped face, in pixels from forehead to chin")
    swap_opacity: float = opt(
        0.92, "share of the donor in a swapped face; the rest shows the target's features twice"
    )
    swap_colour_error: float = opt(10.0, "colour mismatch left in a swapped face, in levels of 255")
    swap_jitter: float = opt(0.005, "jitter of a swapped face relative to the head, in face heights")
    mouth_resolution: int = opt(36, "resolution of a re-synthesised mouth, in pixels from forehead to chin")
    mouth_colour_error: float = opt(8.0, "brightness step at a re-synthesised mouth, in levels of 255")
    mouth_flicker: float = opt(
        3.0, "brightness change of a re-synthesised mouth from frame to frame, in levels of 255"
    )

    def __post_init__(self) -> None:
        if min(self.swap_resolution, self.mouth_resolution) < 16:
            raise ValueError("swap_resolution and mouth_resolution must be >= 16 pixels")
        if not 0 < self.swap_opacity <= 1:
            raise ValueError(f"swap_opacity must be in (0, 1], got {self.swap_opacity}")


def swap_faces(
    frames: Pixels,
    landmarks: Floats,
    donor_frames: Pixels,
    donor_landmarks: Floats,
    rng: np.random.Generator,
    config: ForgeryConfig | None = None,
) -> Pixels:
    """Frames (T, H, W, 3) with the donor's inner face on the target's head, expression by expression.

    donor_frames (S, h, w, 3) with donor_landmarks (S, 478, 2): any number of pictures of the donor. Each
    target frame takes the one with the most similar mouth and eyes, warped by a spline through the landmarks,
    with the target's mean colour and contrast, feathered inside the face oval. Pixels outside the oval do not
    change. Raises ValueError if no donor frame has landmarks.
    """
    config = config or ForgeryConfig()
    usable = np.isfinite(donor_landmarks).all((1, 2))
    donor_frames, donor_landmarks = donor_frames[usable], donor_landmarks[usable]
    if len(donor_frames) == 0:
        raise ValueError("no donor frame has landmarks")
    forged = frames.copy()
    donor_expression = _expression(donor_landmarks)
    blurred = [
        _at_resolution(image, points, config.swap_resolution)
        for image, points in zip(donor_frames, donor_landmarks, strict=True)
    ]
    jitter = np.zeros(2)
    tint = rng.choice([-1.0, 1.0], 3) * rng.uniform(0.6, 1.2, 3) * config.swap_colour_error
    for index, points in enumerate(landmarks):
        jitter = 0.5 * jitter + rng.normal(0, 1, 2)
        if not np.isfinite(points).all():
            continue
        distance = np.abs(donor_expression - _expression(points[None])) @ [3.0, 1.0]
        choice = int(distance.argmin())
        height = float(face_height(points))
        box = bounding_box(points[list(FACE_OVAL)], frames.shape[1:3], margin=2)
        control = list(CONTROL_POINTS)
        target = points[control] + config.swap_jitter * height * jitter
        positions = spline_map(target, donor_landmarks[choice][control], box, step=8)
        x, y, width, tall = box
        place = (slice(y, y + tall), slice(x, x + width))
        inner = read_at(blurred[choice], positions)
        original = frames[index][place].astype(np.float32)
        local = points - [x, y]
        core = face_mask(local, (tall, width), grow=0.75, feather=2, points=FACE_OVAL)
        matched = _match(inner, original, core) + tint
        mask = face_mask(local, (tall, width), grow=0.9, feather=0.014 * height, points=INNER_FACE)
        mask = (mask * config.swap_opacity)[..., None]
        forged[index][place] = (original + mask * (matched - original)).round().clip(0, 255)
    return forged


def _expression(landmarks: Floats) -> Floats:
    """Mouth and eye opening as shares of the face height: (T, 478, 2) -> (T, 2)."""
    lids = [
        np.linalg.norm(landmarks[:, upper[2:7]] - landmarks[:, lower[2:7]], axis=-1).mean(-1)
        for upper, lower in EYES
    ]
    return np.stack([lip_opening(landmarks), sum(lids) / 2 / face_height(landmarks)], -1)


def _at_resolution(image: Pixels, points: Floats, resolution: int) -> Pixels:
    """The picture as if the face had once been `resolution` pixels tall."""
    factor = resolution / float(face_height(points))
    if factor >= 1:
        return image
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    back = cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return back.astype(np.uint8, copy=False)


def _match(inner: Floats, original: Floats, weight: Floats) -> Floats:
    """`inner` with the mean and contrast of `original` under `weight`, channel by channel."""
    total = weight.sum() + 1e-6
    means = [(image * weight[..., None]).sum((0, 1)) / total for image in (inner, original)]
    spreads = [
        np.sqrt((((image - mean) ** 2) * weight[..., None]).sum((0, 1)) / total) + 1.0
        for image, mean in zip((inner, original), means, strict=True)
    ]
    return (inner - means[0]) * (spreads[1] / spreads[0]).clip(0.6, 1.6) + means[1]


def resynthesise_mouth(
    frames: Pixels,
    landmarks: Floats,
    openings: Floats,
    rng: np.random.Generator,
    config: ForgeryConfig | None = None,
) -> Pixels:
    """Frames (T, H, W, 3) whose mouth follows `openings` (T,), lip gaps as shares of the face height.

    The lower face is brought upright at `mouth_resolution`, its lips are parted or closed, the inside of the
    mouth is painted as a smear, and the patch is pasted back, feathered, with a slight and flickering
    brightness step. Pixels above the nose base or outside the jaw do not change. Raises ValueError if
    `openings` is not as long as `frames`.
    """
    config = config or ForgeryConfig()
    if len(openings) != len(frames):
        raise ValueError(f"{len(openings)} openings for {len(frames)} frames")
    forged = frames.copy()
    step = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.7, 1.2) * config.mouth_colour_error)
    for index, points in enumerate(landmarks):
        flicker = rng.normal(0, config.mouth_flicker)
        if not np.isfinite(points).all():
            continue
        height = float(face_height(points))
        box = bounding_box(points[list(LOWER_FACE)], frames.shape[1:3], margin=0.06 * height)
        x, y, width, tall = box
        place = (slice(y, y + tall), slice(x, x + width))
        patch = _mouth_patch(frames[index], points, float(openings[index]), config.mouth_resolution, box)
        original = frames[index][place].astype(np.float32)
        mask = face_mask(points - [x, y], (tall, width), grow=0.93, feather=0.012 * height, points=LOWER_FACE)
        change = mask[..., None] * (patch + step + flicker - original)
        forged[index][place] = (original + change).round().clip(0, 255)
    return forged


def _mouth_patch(frame: Pixels, points: Floats, opening: float, resolution: int, box: Box) -> Floats32:
    """The forged lower face in the pixels of `box`: (height, width, 3)."""
    side, tall = int(2.4 * resolution), 2.0 * resolution  # lips move at twice the resolution that is kept
    matrix, _ = upright(points, tall, points[[NOSE[6], CHIN]].mean(0), side / 2)
    face = cv2.warpAffine(
        frame, matrix, (side, side), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32)
    local = points @ matrix[:, :2].T + matrix[:, 2]
    gap = float(lip_opening(local)) * tall
    field = mouth_field(local, (0, 0, side, side))
    positions, share, depth, new_gap = field.warp(opening * tall - gap, opening * tall)
    moved = read_at(face, positions)
    colours = paint_interior(field, depth, new_gap, LIP_SMEAR, face_height=tall)
    moved += share[..., None] * (colours * (0.4 + 0.6 * face.mean() / 128) - moved)
    small = cv2.resize(moved, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
    soft = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    x, y, width, height = box
    back = matrix.copy()
    back[:, 2] += matrix[:, :2] @ [x, y]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(soft, back, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return patch.astype(np.float32, copy=False)
