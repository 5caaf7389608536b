"""An identity in motion: head, eyes and mouth follow given curves in front of a still background.

The face moves on its canvas (lips, lids), the canvas is turned by a small three-dimensional rotation (depth
from the landmarks), and one interpolation brings it into the frame. `render` also returns the exact landmarks
in each frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.demo.geometry import (
    CHIN,
    EYES,
    FOREHEAD,
    NOSE_BASE,
    Floats,
    Floats32,
    Pixels,
    enlarge,
    line_rows,
    node_grid,
    read_at,
    smoothstep,
    turn,
)
from preprocess.demo.identities import CANVAS, FACE_CENTRE, FACE_HEIGHT, Identity
from preprocess.demo.mouth import MouthField, mouth_field, paint_interior
from utils.clip.face_regions import FACE_OVAL, LIPS

GRID_STEP = 8  # pixels between the nodes at which the head's turn is computed
MAX_OPENING = 0.14  # widest lip gap as a share of the face height


@dataclass(frozen=True)
class Motion:
    """What the head does in each of T frames. Angles in radians, shifts in pixels of the frame."""

    opening: Floats  # (T,) 0..1, share of MAX_OPENING
    rounding: Floats  # (T,) 0..1, how far the mouth corners come together
    blink: Floats  # (T,) 0..1, 1 = closed
    yaw: Floats
    pitch: Floats
    roll: Floats
    centre: Floats  # (T, 2) where the middle of the face lies
    scale: Floats  # (T,) size against the canvas


def smooth_noise(rng: np.random.Generator, count: int, width: float) -> Floats:
    """Noise with unit spread that changes over about `width` samples: (count,)."""
    radius = int(4 * width)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    noise = np.convolve(rng.standard_normal(count + 2 * radius), kernel, mode="valid")
    return noise / np.sqrt((kernel**2).sum())


def draw_motion(
    opening: Floats, rounding: Floats, rng: np.random.Generator, *, size: int, fps: float, scale: float
) -> Motion:
    """Head and eye movements for a mouth track (T,) in square frames of `size` pixels.

    `scale` is the size of the head relative to its canvas if `size` is 320.
    """
    count = len(opening)
    middle = size / 2 + np.array([rng.uniform(-0.08, 0.08), rng.uniform(-0.03, 0.06)]) * size
    drift = np.stack([smooth_noise(rng, count, 0.5 * fps) for _ in range(2)], -1) * 0.008 * size
    blink = np.zeros(count)
    times = np.arange(count)
    start = rng.uniform(0.1, 1.5) * fps
    while start < count:
        blink = np.maximum(blink, np.exp(-(((times - start) / (0.065 * fps)) ** 2)))
        start += rng.uniform(1.0, 3.5) * fps
    nod = np.convolve(opening, np.ones(5) / 5, mode="full")[2 : 2 + count]
    return Motion(
        opening=opening,
        rounding=rounding,
        blink=blink,
        yaw=rng.uniform(-0.1, 0.1) + 0.05 * smooth_noise(rng, count, 0.4 * fps),
        pitch=rng.uniform(-0.05, 0.05) + 0.03 * smooth_noise(rng, count, 0.4 * fps) - 0.03 * nod,
        roll=rng.uniform(-0.05, 0.05) + 0.02 * smooth_noise(rng, count, 0.5 * fps),
        centre=middle + drift,
        scale=scale * size / 320 * (1 + 0.01 * smooth_noise(rng, count, 0.8 * fps)),
    )


class _Lid:
    """An eye's lids per column of the canvas, and how far up the skin moves with them."""

    def __init__(self, points: Floats, upper: tuple[int, ...], lower: tuple[int, ...]) -> None:
        first, last = points[upper[0], 0], points[upper[-1], 0]
        self.columns = np.arange(int(np.ceil(first)), int(np.floor(last)))  # (w,)
        self.upper = line_rows(points, upper, self.columns)  # (w,) rows, as those below
        self.lower = np.maximum(line_rows(points, lower, self.columns), self.upper)
        self.top = self.upper - 1.2 * max(float((self.lower - self.upper).max()), 4.0)


class Puppet:
    """An identity prepared for rendering, which takes some tens of milliseconds."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        points = identity.landmarks[:, :2]
        reach = identity.landmarks[list(FACE_OVAL), :2]
        low = np.floor(reach.min(0)).astype(int) - 20
        high = np.ceil(reach.max(0)).astype(int) + [20, 60]
        self.box = (int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))
        self.mouth: MouthField = mouth_field(identity.landmarks, self.box)
        self.depth = _depth(identity.landmarks)
        self.lids = [_Lid(points, *eye) for eye in EYES]
        middle = points[list(LIPS)].mean(0) - low
        offset = (node_grid(*self.box[2:]) - middle) / [42, 30]
        self.near_mouth = np.exp(-(offset**2).sum(-1)).astype(np.float32)
        self.mouth_x = float(middle[0])

    def expression(self, motion: Motion, index: int) -> tuple[Floats32, Floats32]:
        """Shift map (h, w, 2) of the face box; mouth interior (h, w, 4) with its share in channel 3."""
        width, height = self.box[2:]
        change = float(motion.opening[index]) * MAX_OPENING * FACE_HEIGHT
        positions, share, depth, gap = self.mouth.warp(change, change)
        shift = np.zeros((height, width, 2), np.float32)
        shift[..., 1] = positions[..., 1] - np.arange(height, dtype=np.float32)[:, None]
        columns = np.arange(width, dtype=np.float32)
        shift[..., 0] = 0.22 * float(motion.rounding[index]) * (columns - self.mouth_x) * self.near_mouth
        colours = paint_interior(self.mouth, depth, gap, self.identity.interior, face_height=FACE_HEIGHT)
        for lid in self.lids:
            self._close_lid(shift, lid, float(motion.blink[index]))
        return shift, np.dstack([colours, share])

    def _close_lid(self, shift: Floats32, lid: _Lid, closed: float) -> None:
        """Stretch the skin between brow and lid over the eye."""
        if closed < 0.02:
            return
        x0, y0 = self.box[:2]
        first, last = int(lid.top.min()) - y0, int(np.ceil(lid.lower.max())) - y0 + 1
        columns = lid.columns - x0
        rows = np.arange(first, last, dtype=np.float32)[:, None] + y0
        edge = lid.upper + closed * 0.96 * (lid.lower - lid.upper)
        stretched = lid.top + (rows - lid.top) * (lid.upper - lid.top) / (edge - lid.top)
        moved = (rows >= lid.top) & (rows <= edge)
        part = shift[first:last, columns[0] : columns[-1] + 1, 1]
        part[moved] = (stretched - rows)[moved]

    def landmarks(self, motion: Motion, index: int) -> Floats:
        """The landmarks in the frame: (478, 2) pixels."""
        identity = self.identity
        x0, y0 = self.box[:2]
        change = float(motion.opening[index]) * MAX_OPENING * FACE_HEIGHT
        points = identity.landmarks[:, :2] - [x0, y0]
        points[:, 1] += self.mouth.displace(points, change)
        pull = read_at(self.near_mouth, points[None].astype(np.float32))[0]
        pull = 1 + 0.22 * float(motion.rounding[index]) * pull
        points[:, 0] = self.mouth_x + (points[:, 0] - self.mouth_x) / pull
        closed = 0.96 * float(motion.blink[index])
        for upper, lower in EYES:
            points[list(upper), 1] += closed * (points[list(lower), 1] - points[list(upper), 1])
        points += [x0, y0]
        depth = read_at(self.depth, points[None].astype(np.float32))[0]
        points = points + depth[:, None] * [motion.yaw[index], motion.pitch[index]]
        return (points - FACE_CENTRE) @ _turn(motion, index).T + motion.centre[index]

    def frame_map(self, motion: Motion, index: int, size: int) -> Floats32:
        """Where on the canvas each pixel of the frame lies: (size, size, 2)."""
        nodes = size // GRID_STEP + 2
        grid = node_grid(nodes, nodes, GRID_STEP)
        back = np.linalg.inv(_turn(motion, index))
        head = (grid - motion.centre[index]) @ back.T
        middle = motion.centre.mean(0)
        body = (grid - middle - 0.4 * (motion.centre[index] - middle)) / motion.scale.mean()
        # the shoulders follow the head less than halfway, and the neck bends in between
        chin = self.identity.landmarks[CHIN, 1] - FACE_CENTRE[1]
        share = smoothstep(head[..., 1:], chin + 8, chin + 80)
        turned = (head + share * (body - head) + FACE_CENTRE).astype(np.float32)
        angles = np.array([motion.yaw[index], motion.pitch[index]], np.float32)
        canvas = turned
        for _ in range(2):
            canvas = turned - read_at(self.depth, canvas)[..., None] * angles
        return enlarge(canvas.astype(np.float32), GRID_STEP)[:size, :size]


def render(puppet: Puppet, motion: Motion, background: Pixels) -> tuple[Pixels, Floats32]:
    """Frames (T, S, S, 3) of a clip before any camera, and landmarks (T, 478, 2) in pixels.

    `background` (S, S, 3) does not move.
    """
    size, count = background.shape[0], len(motion.opening)
    frames = np.empty((count, size, size, 3), np.uint8)
    landmarks = np.empty((count, puppet.identity.landmarks.shape[0], 2), np.float32)
    backdrop = background.astype(np.float32)
    x0, y0, width, height = puppet.box
    for index in range(count):
        positions = puppet.frame_map(motion, index, size)
        shift, interior = puppet.expression(motion, index)
        landmarks[index] = puppet.landmarks(motion, index)
        inside = _frame_box(landmarks[index], size)
        part = positions[inside]
        at_face = part - np.array([x0, y0], np.float32)
        part += read_at(shift, at_face, border=cv2.BORDER_CONSTANT)
        picture = read_at(puppet.identity.texture, positions)
        mouth = read_at(interior, at_face, border=cv2.BORDER_CONSTANT)
        face = picture[inside]
        face[..., :3] += mouth[..., 3:] * (mouth[..., :3] - face[..., :3])
        frame = backdrop + picture[..., 3:] * (1 / 255) * (picture[..., :3] - backdrop)
        frames[index] = frame.round().clip(0, 255)
    return frames, landmarks


def _frame_box(landmarks: Floats, size: int) -> tuple[slice, slice]:
    """The rows and columns of the frame that lips, jaw and lids can change."""
    tall = np.linalg.norm(landmarks[FOREHEAD] - landmarks[CHIN])
    low = np.clip(landmarks.min(0) - 0.1 * tall, 0, size - 1).astype(int)
    high = np.clip(landmarks.max(0) + [0.1 * tall, 0.4 * tall], 1, size).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _turn(motion: Motion, index: int) -> Floats:
    return turn(motion.roll[index], motion.scale[index])


def _depth(landmarks: Floats) -> Floats32:
    """Smooth height towards the camera in pixels, (CANVAS, CANVAS), from Face Mesh's z."""
    centre = landmarks[list(FACE_OVAL), :2].mean(0)
    step = 8
    nodes = CANVAS // step + 1
    grid = node_grid(nodes, nodes, step).reshape(-1, 2)
    points = np.vstack([landmarks[:468, :2], centre + (landmarks[list(FACE_OVAL), :2] - centre) * 1.8])
    rim = landmarks[list(FACE_OVAL), 2]
    height = -np.concatenate([landmarks[:468, 2], rim])
    squared = ((grid[:, None] - points[None]) ** 2).sum(-1)
    weights = np.exp(-squared / (2 * 14.0**2)) + 1e-9 / (1 + squared)
    depth = (weights @ height / weights.sum(1)).reshape(nodes, nodes)
    depth -= -landmarks[NOSE_BASE, 2] * 0.4
    return enlarge(depth.astype(np.float32), step)[:CANVAS, :CANVAS]


def draw_background(rng: np.random.Generator, size: int) -> Pixels:
    """A blurred room, (size, size, 3): gradient, boxes and lamps out of focus, wall grain."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / size
    base, lean = rng.uniform(50, 190) + rng.normal(0, 14, 3), rng.normal(0, 25, (2, 3))
    image = base + (rows[..., None] - 0.5) * lean[0] + (columns[..., None] - 0.5) * lean[1]
    for _ in range(int(rng.integers(4, 14))):
        x, y = rng.integers(0, size, 2)
        wide, tall = rng.integers(size // 12, size // 3, 2)
        image[y : y + tall, x : x + wide] += rng.normal(0, 30) + rng.normal(0, 12, 3)
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), float(rng.uniform(1.5, 6)))
    grain = cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), rng.uniform(1, 3))
    image += (rng.uniform(1, 7) * grain / grain.std())[..., None]
    return image.clip(0, 255).astype(np.uint8)
