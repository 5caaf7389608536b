"""Pseudo-identities: faces that nobody has, made from two public-domain portraits inside installed packages.

Rear Admiral Grace Hopper (US Navy, in matplotlib's sample data) and astronaut Eileen Collins (NASA, in
skimage.data) are aligned by their Face Mesh landmarks, morphed, reshaped, and given other skin, hair and
clothes. The faces show neither person and are for testing software only.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from preprocess.demo.geometry import (
    CHIN,
    CONTROL_POINTS,
    FOREHEAD,
    LIDS,
    Floats,
    Floats32,
    Pixels,
    face_height,
    face_mask,
    lip_opening,
    read_at,
    smoothstep,
    spline_map,
    upright,
)
from preprocess.demo.mouth import MouthInterior, mouth_field
from utils.clip.face_regions import FACE_OVAL, LEFT_BROW, LIPS, NOSE, RIGHT_BROW
from utils.errors import UsageError

# of the photos: landmarks by Face Mesh, (4, 478, 3) shares of width and height (z: of width), and the persons
# on the canvas by MediaPipe's selfie segmentation, (4, CANVAS, CANVAS). So the demo set is the same
# whatever finds faces here; tests/unit/preprocess/demo/test_demo.py measures them again.
MEASURED = Path(__file__).with_name("portraits.npz")
CANVAS = 480  # pixels of the square on which a face is defined, before the head moves
FACE_HEIGHT = 170.0  # forehead to chin on the canvas
FACE_CENTRE = np.array([240.0, 232.0])
# mean skin colours in CIE Lab (L 0..100), fair to dark
SKIN_TONES = (
    (77.0, 11.0, 14.0),
    (71.0, 14.0, 18.0),
    (64.0, 15.0, 22.0),
    (56.0, 16.0, 24.0),
    (48.0, 15.0, 21.0),
    (39.0, 12.0, 16.0),
)


@dataclass(frozen=True)
class Portrait:
    """A closed-mouthed face on the canvas."""

    image: Floats32  # (CANVAS, CANVAS, 3) RGB 0..255
    alpha: Floats32  # (CANVAS, CANVAS), 1 = person
    landmarks: Floats  # (478, 3) float64 pixels


@dataclass(frozen=True)
class Identity:
    """A pseudo-identity at rest, looking ahead with closed lips."""

    texture: Pixels  # (CANVAS, CANVAS, 4) RGB and person mask
    landmarks: Floats  # (478, 3) float64 pixels; z as Face Mesh gives it, negative towards the camera
    interior: MouthInterior


def placing(points: Floats) -> tuple[Floats, float]:
    """Matrix (2, 3) and scale that bring a photo's landmarks, in pixels, to their places on the canvas."""
    return upright(points, FACE_HEIGHT, points[[CHIN, FOREHEAD], :2].mean(0), FACE_CENTRE)


def photos() -> list[Pixels]:
    """Both portraits, and their mirror images. Raises UsageError if a package is missing."""
    try:
        import matplotlib.cbook
        import skimage.data
    except ImportError as error:
        raise UsageError(f"the demo set needs {error.name}: pip install matplotlib scikit-image") from error
    hopper = cv2.imread(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    assert hopper is not None  # matplotlib ships it
    found = [np.ascontiguousarray(photo, np.uint8) for photo in (hopper[..., ::-1], skimage.data.astronaut())]
    return found + [np.ascontiguousarray(photo[:, ::-1]) for photo in found]


@functools.cache
def load_portraits() -> tuple[Portrait, ...]:
    """The `photos`, cut out and aligned by their landmarks."""
    with np.load(MEASURED) as measured:
        all_landmarks, alphas = measured["landmarks"], measured["alpha"]
    portraits = []
    for photo, landmarks, alpha in zip(photos(), all_landmarks, alphas, strict=True):
        height, width = photo.shape[:2]
        points = landmarks.astype(np.float64) * (width, height, width)
        portraits.append(_align(photo, alpha, points))
    return tuple(portraits)


def _align(photo: Pixels, alpha: Floats32, points: Floats) -> Portrait:
    """Turn and scale a photo so that forehead and chin lie at fixed places of the canvas; close the mouth."""
    matrix, scale = placing(points)
    size = (CANVAS, CANVAS)
    image = cv2.warpAffine(photo, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    landmarks = np.hstack([points[:, :2] @ matrix[:, :2].T + matrix[:, 2], points[:, 2:] * scale])
    gap = float(lip_opening(landmarks) * face_height(landmarks))
    field = mouth_field(landmarks, (0, 0, CANVAS, CANVAS))
    positions, _, _, _ = field.warp(-1.15 * gap, 0.0)
    closed = landmarks.copy()
    closed[:, 1] += field.displace(landmarks[:, :2], -gap)
    return Portrait(read_at(image.astype(np.float32), positions), alpha, closed)


def make_identity(rng: np.random.Generator) -> Identity:
    """Draw one pseudo-identity; the same generator state gives the same face."""
    portraits = load_portraits()
    outer = int(rng.integers(4))
    inner = int(rng.integers(4))
    share = float(rng.uniform(0.15, 0.85)) if inner % 2 != outer % 2 else float(rng.uniform(0.5, 1.0))
    shape = (1 - share) * portraits[outer].landmarks + share * portraits[inner].landmarks
    landmarks = _reshape(shape, rng)
    outer_image, outer_alpha = _fit(portraits[outer], landmarks)
    inner_image, _ = _fit(portraits[inner], landmarks)
    size = (CANVAS, CANVAS)
    core = face_mask(landmarks, size, grow=0.86, feather=2, points=FACE_OVAL)
    blend = face_mask(landmarks, size, grow=0.84, feather=7, points=FACE_OVAL) * share
    # the forehead keeps the hair that falls on it
    rows = np.arange(CANVAS)[:, None]
    brow_row = landmarks[list(LEFT_BROW + RIGHT_BROW), 1].min()
    blend = (blend * smoothstep(rows, brow_row - 22, brow_row - 4)).astype(np.float32)
    lab = _to_lab(outer_image)
    lab = lab + blend[..., None] * (_match_colours(_to_lab(inner_image), lab, core) - lab)
    lab = _recolour(lab, landmarks, outer_alpha, core, rng)
    lab = _add_skin_detail(lab, landmarks, core, rng)
    texture = np.dstack([_to_rgb(lab), outer_alpha * 255]).clip(0, 255).round().astype(np.uint8)
    teeth = np.array([208.0, 200.0, 186.0]) * rng.uniform(0.78, 1.08) * [1, 1, rng.uniform(0.9, 1.0)]
    interior = MouthInterior(teeth=tuple(teeth.clip(0, 245)))
    return Identity(np.ascontiguousarray(texture), landmarks, interior)


def _reshape(landmarks: Floats, rng: np.random.Generator) -> Floats:
    """Other proportions: jaw and cheek width, chin, eyes, brows, nose, mouth. (478, 3) -> (478, 3)."""
    points = landmarks.copy()
    centre_x = points[[FOREHEAD, CHIN], 0].mean()
    mouth_row, eye_row = points[list(LIPS), 1].mean(), points[list(LIDS), 1].mean()
    rows = points[:, 1]
    jaw = smoothstep(rows, eye_row, points[CHIN, 1])
    points[:, 0] += (points[:, 0] - centre_x) * (rng.uniform(-0.15, 0.13) * jaw + rng.uniform(-0.07, 0.07))
    points[:, 1] += rng.uniform(-7, 9) * smoothstep(rows, mouth_row, points[CHIN, 1])
    off_middle = np.abs(points[:, 0] - centre_x) - 32
    around = np.exp(-(((rows - eye_row) / 26) ** 2)) * np.exp(-((off_middle / 24) ** 2))
    points[:, 0] += rng.uniform(-4, 4) * around * np.sign(points[:, 0] - centre_x)
    for lids in (LIDS[:18], LIDS[18:]):
        middle = points[list(lids), :2].mean(0)
        near = np.exp(-(((points[:, :2] - middle) / [22, 13]) ** 2).sum(1))[:, None]
        near[468:] *= 0.3  # irises keep their size
        points[:, :2] += (points[:, :2] - middle) * near * (rng.uniform(-0.12, 0.2) * np.array([0.5, 1.0]))
    brows = list(LEFT_BROW + RIGHT_BROW)
    points[brows, 1] += rng.uniform(-5, 3)
    nose_tip = points[list(NOSE), :2].mean(0)
    near = np.exp(-(((points[:, :2] - nose_tip - [0, 8]) / [20, 26]) ** 2).sum(1))
    points[:, 0] += (points[:, 0] - centre_x) * near * rng.uniform(-0.22, 0.3)
    points[:, 1] += near * rng.uniform(-5, 5)
    middle = points[list(LIPS), :2].mean(0)
    near = np.exp(-(((points[:, :2] - middle) / [34, 16]) ** 2).sum(1))[:, None]
    points[:, :2] += (points[:, :2] - middle) * near * [rng.uniform(-0.16, 0.16), rng.uniform(-0.15, 0.4)]
    return points


def _fit(portrait: Portrait, landmarks: Floats) -> tuple[Floats32, Floats32]:
    """Warp a portrait to `landmarks`: image (H, W, 3) and person mask (H, W), float32."""
    points = list(CONTROL_POINTS)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = FACE_CENTRE + np.stack([np.sin(angles), np.cos(angles)], -1) * 225  # hair and shoulders stay
    target = np.vstack([landmarks[points, :2], ring])
    source = np.vstack([portrait.landmarks[points, :2], ring])
    positions = spline_map(target, source, (0, 0, CANVAS, CANVAS))
    return read_at(portrait.image, positions), read_at(portrait.alpha, positions)


def _to_lab(image: Floats) -> Floats32:
    lab = cv2.cvtColor((image / 255).clip(0, 1).astype(np.float32), cv2.COLOR_RGB2LAB)
    return lab.astype(np.float32, copy=False)


def _to_rgb(lab: Floats) -> Floats32:
    image = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
    return image.astype(np.float32, copy=False) * np.float32(255)


def _moments(lab: Floats, weight: Floats) -> tuple[Floats32, Floats32]:
    mean = np.average(lab.reshape(-1, 3), axis=0, weights=weight.ravel())
    deviation = np.sqrt(np.average((lab.reshape(-1, 3) - mean) ** 2, axis=0, weights=weight.ravel()))
    return mean.astype(np.float32), deviation.astype(np.float32)


def _match_colours(lab: Floats, reference: Floats, weight: Floats) -> Floats:
    """Give `lab` the mean and spread that `reference` has under `weight`."""
    mean, deviation = _moments(lab, weight)
    wanted_mean, wanted_deviation = _moments(reference, weight)
    return (lab - mean) * (wanted_deviation / deviation).clip(0.7, 1.4) + wanted_mean


def _recolour(
    lab: Floats, landmarks: Floats, alpha: Floats, core: Floats, rng: np.random.Generator
) -> Floats:
    """Another skin tone, hair and clothes colour, and light from one side."""
    mean, _ = _moments(lab, core)
    chroma = ((lab[..., 1:] - mean[1:]) ** 2).sum(-1) / (2 * 10.0**2)
    lightness = ((lab[..., 0] - mean[0]) / 30) ** 2
    skin = np.exp(-chroma - lightness**2) * alpha
    skin = cv2.GaussianBlur(np.maximum(skin, core).astype(np.float32), (0, 0), 1.2)[..., None]
    tone = np.array(SKIN_TONES[int(rng.integers(len(SKIN_TONES)))]) + rng.normal(0, [2.5, 1.2, 1.8])
    toned = (lab - mean) * np.array([rng.uniform(0.8, 1.0), 0.85, 0.85])
    toned = toned * [max(tone[0] / 72, 0.7), 1, 1] + tone
    rows = np.arange(CANVAS)[:, None]
    collar = smoothstep(rows, landmarks[CHIN, 1] + 8, landmarks[CHIN, 1] + 30)[..., None]
    other = lab.copy()
    for weight, spread in ((1 - collar, 14.0), (collar, 26.0)):
        gain, tint = rng.uniform(0.45, 1.3), rng.normal(0, spread, 2)
        changed = np.dstack([lab[..., :1] * gain, lab[..., 1:] * rng.uniform(0.2, 1.0) + tint])
        other = other + weight * (changed - lab)
    result = other + skin * (toned - other)
    columns = np.arange(CANVAS)[None]
    side, top = rng.uniform(-1, 1), rng.uniform(-0.5, 1)
    light = side * (columns - CANVAS / 2) / 90 - top * (rows - CANVAS / 2) / 120
    result[..., 0] += 7 * np.tanh(light)
    return result


def _add_skin_detail(lab: Floats, landmarks: Floats, core: Floats, rng: np.random.Generator) -> Floats:
    """Add pores, moles, lips, beard: fine texture that genuine faces have and forgers lose."""
    lab = lab.copy()
    size = (CANVAS, CANVAS)
    strength = rng.uniform(1.8, 2.8)
    for scale, weight in ((1.1, 1.0), (2.2, 0.8)):
        noise = cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), scale)
        lab[..., 0] += strength * weight * core * noise / noise.std()
    for _ in range(int(rng.integers(0, 6))):
        oval, inner = landmarks[int(rng.choice(FACE_OVAL)), :2], landmarks[int(rng.integers(468)), :2]
        spot = np.zeros(size, np.float32)
        centre = (0.45 * oval + 0.55 * inner).astype(int).tolist()
        cv2.circle(spot, centre, int(rng.integers(1, 3)), (1.0,), -1)
        lab[..., 0] -= rng.uniform(8, 22) * cv2.GaussianBlur(spot, (0, 0), 0.9)
    lips = face_mask(landmarks, size, grow=1.0, feather=1.2, points=LIPS)
    lab += lips[..., None] * rng.uniform([-12, 0, -4], [4, 16, 3]).astype(np.float32)
    if rng.random() < 0.35:  # stubble or beard
        rows = np.arange(CANVAS)[:, None]
        nose = landmarks[2, 1]
        jaw = core * smoothstep(rows, nose - 4, nose + 10) * (1 - lips)
        grain = cv2.GaussianBlur(rng.random(size).astype(np.float32), (0, 0), 0.8)
        lab[..., 0] -= rng.uniform(10, 26) * jaw * (0.55 + 0.9 * grain)
    brows = sum(face_mask(landmarks, size, grow=1.0, feather=2, points=b) for b in (LEFT_BROW, RIGHT_BROW))
    lab[..., 0] -= rng.uniform(0, 16) * brows
    return lab.astype(np.float32)
