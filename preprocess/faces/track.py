"""One continuous face: its place in every frame, the smoothed box around it, and the files it streams into.

Positions are in pixels of the displayed source frame. A frame is written about a second after it was seen,
because its box is smoothed over earlier and later frames.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from preprocess.faces.backends import backend_flag, new_face_mesh
from preprocess.faces.finder import Face
from preprocess.faces.person import Person
from preprocess.faces.solutions import Landmarks
from utils.clip.files import CROP_SIZE, LANDMARKS_NAME, NUM_LANDMARKS, VIDEO_NAME
from utils.config import opt, require_above, require_at_least, require_between
from utils.media.picture import Picture
from utils.media.planes import Planes, new_frame
from utils.media.writer import VideoWriter

FOREHEAD, UNDER_NOSE, RIGHT_CHEEK, LEFT_CHEEK = 10, 2, 234, 454
_POSE_LANDMARKS = np.array([FOREHEAD, UNDER_NOSE, RIGHT_CHEEK, LEFT_CHEEK])
# Distance from hairline to nose, and width between the cheeks, as shares of the height from hairline to chin:
# means over three talking people. Both stay the same when the mouth opens.
UPPER_FACE, FACE_WIDTH = 0.56, 0.82
MESH_SIDE = 1.8  # side of what Face Mesh sees, in face heights: all of the face, not its neighbour
# compared with "superfast": 1 dB less, 0.7 of the encoding time, half of the decoding time (which training
# waits for), and 1.6 to 1.8 times the size (1.1 times that of a whole clip folder)
ENCODER_PRESET = "ultrafast"
MAX_LAG = 0.2  # largest distance between smoothed box and face, in face heights
BURST = 32  # frames written in a row: code and tables then stay in the caches (see utils/media/video.py)
SAME_PLACE = 1.2  # largest distance at which a face comes back, in face heights
SAME_SIZE = 1.5  # and largest ratio of its sizes
KEPT_SIDE = 2.2  # side of the surroundings that wait for the smoothed box, in face heights: box and lag


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """preprocess/faces/track.py: how faces are followed and cropped."""

    crop_margin: float = opt(1.5, "side of the crop in face heights (hairline to chin)")
    smoothing_s: float = opt(0.35, "standard deviation, in s, of the Gaussian that smooths the crop box")
    detect_every_s: float = opt(
        1.0, "search for further faces every N seconds; half as often after two searches without a new face"
    )
    max_gap_s: float = opt(
        1.5, "hold the box for N seconds while a face is lost; then the crop is black until the face is back"
    )
    max_faces: int = opt(4, "follow at most this number of faces at a time, the largest ones")
    min_detection_score: float = opt(
        0.6, "accept a new face from this score of the detector on; it reports no face below 0.6"
    )
    landmark_backend: str = backend_flag()

    def __post_init__(self) -> None:
        require_between(self, 1, 2.2, "crop_margin")
        require_above(self, 0, "smoothing_s", "detect_every_s", "max_gap_s")
        require_between(self, 0, 10, "smoothing_s", "detect_every_s", "max_gap_s")
        require_at_least(self, 1, "max_faces")
        require_between(self, 0.6, 1, "min_detection_score")


class Pose(NamedTuple):
    """Centre and height (hairline to chin) of a face, in pixels of the displayed frame."""

    x: float
    y: float
    height: float


def pose_of(landmarks: Landmarks) -> Pose:
    """Place and size of a face from (478, 2) landmarks in pixels; the same for an open or a shut mouth."""
    (top_x, top_y), (nose_x, nose_y), right, left = landmarks[_POSE_LANDMARKS].tolist()
    down_x, down_y = nose_x - top_x, nose_y - top_y
    # a turned face is narrower and a bowed one shorter: the larger estimate is the undistorted one
    height = max(math.hypot(down_x, down_y) / UPPER_FACE, math.dist(left, right) / FACE_WIDTH)
    half = 0.5 / UPPER_FACE
    return Pose((top_x + down_x * half + (left[0] + right[0]) / 2) / 2, top_y + down_y * half, height)


def pose_of_detection(face: Face) -> Pose:
    """Place and size of a face from a detection, whose box is about 7 % smaller."""
    return Pose(face.x, face.y, face.size * 1.07)


def distance(one: Pose, other: Pose) -> float:
    """How far apart two faces are, in pixels, along the axis on which they are further apart."""
    return max(abs(one.x - other.x), abs(one.y - other.y))


class _Kept(NamedTuple):
    """A frame that waits for its box: the surroundings of the face and where they were cut."""

    planes: Planes
    left: float
    top: float
    shrink: float  # source pixels per pixel of `planes`
    landmarks: Landmarks | None  # source pixels


class Output:
    """The two files of a track, and the frame into which its crops are drawn."""

    def __init__(self, video: Path, landmarks: Path, fps: Fraction) -> None:
        self.video = VideoWriter(video, fps=fps, width=CROP_SIZE, height=CROP_SIZE, preset=ENCODER_PRESET)
        self.landmarks = landmarks.open("wb")
        self._write_header()
        self.crop = new_frame(CROP_SIZE, CROP_SIZE)  # the same for all: the encoder copies it
        self.planes = Planes.of_frame(self.crop)

    def _write_header(self) -> None:
        """Begin a .npy file (T, 478, 2); NumPy leaves room in it for any T, which is known at the end."""
        shape = (self.video.num_frames, NUM_LANDMARKS, 2)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.landmarks, header)

    def write_black(self, count: int) -> None:
        """Write frames without a face."""
        black = np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8)
        nothing = np.full((NUM_LANDMARKS, 2), np.nan, np.float32).tobytes()
        for _ in range(count):
            self.video.write(black)
            self.landmarks.write(nothing)

    def close(self) -> None:
        self.landmarks.seek(0)
        self._write_header()
        self.landmarks.close()
        self.video.close()


class FaceTrack:
    """One face from its first frame on, streamed into `<stem>.mp4` and `<stem>.npy`.

    With `pad_to`, the number of frames of the video, these are as long as the video: black before the face
    appears and after it has gone. `find_earlier` is asked before the first frame is written: it may hand over
    an ended track for this one to go on with, black in between.
    """

    burst = BURST

    def __init__(
        self,
        stem: Path,
        *,
        first_frame: int,
        fps: Fraction,
        pose: Pose,
        config: CropConfig,
        pad_to: int | None,
        find_earlier: Callable[[FaceTrack], FaceTrack | None] = lambda track: None,
    ) -> None:
        self.video_path, self.landmarks_path = stem.with_suffix(".mp4"), stem.with_suffix(".npy")
        self.first_frame, self.config = first_frame, config
        self.pose = self._window = self._first_pose = pose
        self._person, self._find_earlier = Person(), find_earlier
        self._mesh = new_face_mesh(config.landmark_backend)  # its own: it remembers the face's place
        self.missing = 0  # frames since Face Mesh or the detector last saw the face
        self.num_seen = 0  # frames with landmarks
        self.area = 0.0  # face area x frames, by which tracks are compared
        self.boxes: list[list[float]] = []  # x, y, side per frame from first_frame on, smoothed
        self.without_face: list[int] = []
        self._fps, self._pad_to = fps, pad_to
        self._output: Output | None = None
        self._sigma = config.smoothing_s * float(fps)
        self._radius = max(1, min(round(3 * self._sigma), 90))
        self._kept: collections.deque[_Kept] = collections.deque()
        # Poses of the frames around those that are written next: `radius` before the first of them, then that
        # one and all later ones; weight 0 where the face was lost, and before and after the track.
        length = 2 * self._radius + self.burst
        self._poses, self._known = np.zeros((length, 3)), np.zeros(length)
        offsets = np.arange(length) - self._radius - np.arange(self.burst)[:, None]
        self._gaussians = np.exp(-0.5 * (offsets / self._sigma) ** 2) * (np.abs(offsets) <= self._radius)
        self._look: _Kept  # set by `look`
        self._detected = False
        self._shrink = 1

    @property
    def sees(self) -> bool:
        """Whether the last `look` found landmarks."""
        return self._look.landmarks is not None

    def look(self, picture: Picture, near: Pose | None = None) -> bool:
        """Whether Face Mesh sees the face in this frame, where it was or `near` where the detector sees it.

        Call `keep` next.
        """
        self._detected = near is not None
        if near is not None:
            self.pose = self._window = near
        pose = self._follow()
        planes, left, top = self._cut(picture, pose)
        # what Face Mesh sees: with even edges, like the planes, and of a width that needs no padding
        side = max(16, 16 * round(MESH_SIDE * pose.height / self._shrink / 16))
        x0, y0 = (
            min(max(0, 2 * round(((centre - origin) / self._shrink - side / 2) / 2)), length - 2)
            for centre, origin, length in ((pose.x, left, planes.width), (pose.y, top, planes.height))
        )
        part = planes.part(x0, y0, x0 + side, y0 + side)
        seen = picture.to_rgb(part, alpha=self._mesh.takes_alpha)
        down, right = side - seen.shape[0], side - seen.shape[1]
        if down or right:  # at the frame's edge; Face Mesh is exact on square images only
            seen = np.asarray(cv2.copyMakeBorder(seen, 0, down, 0, right, cv2.BORDER_REPLICATE), np.uint8)
        landmarks = self._mesh(seen)
        if landmarks is not None:
            landmarks *= np.float32(side * self._shrink)
            landmarks += np.array([x0 * self._shrink + left, y0 * self._shrink + top], np.float32)
            found = pose_of(landmarks)
            grown = found.height / self.pose.height
            if distance(found, self.pose) > 0.6 * self.pose.height or not 0.5 < grown < 2:
                landmarks = None  # another face, or none: the next look starts afresh
                self._mesh.forget()
            else:
                self.pose = found
        self._look = _Kept(planes, left, top, self._shrink, landmarks)
        return self.sees

    def _follow(self) -> Pose:
        """Where to look next: it follows the face, but not every small move.

        Face Mesh expects the face where it was in the image before; its landmarks tremble half as much again
        (measured) when the image itself moves.
        """
        pose, window = self.pose, self._window
        away = distance(pose, window) / pose.height
        gain = min(1.0, 2 * max(0.0, away - 0.1))
        height = window.height if 0.87 < pose.height / window.height < 1.15 else pose.height
        self._window = Pose(
            window.x + gain * (pose.x - window.x), window.y + gain * (pose.y - window.y), height
        )
        return self._window

    def _cut(self, picture: Picture, pose: Pose) -> tuple[Planes, int, int]:
        """The face's surroundings, shrunk by an integer so that the box is about as large as the crop."""
        wanted = self.config.crop_margin * pose.height / CROP_SIZE
        if not 0.65 < wanted / self._shrink < 1.6:  # with some slack, so that the factor does not flicker
            self._shrink = max(1, round(wanted))
        half = max(KEPT_SIDE * pose.height / 2, 12)
        (x0, x1), (y0, y1) = (
            _even_span(centre - half, centre + half, length)
            for centre, length in ((pose.x, picture.width), (pose.y, picture.height))
        )
        return picture.cut(x0, y0, x1, y1, self._shrink), x0, y0

    def keep(self) -> None:
        """Keep what the last `look` saw, and write the frames whose later neighbours are now known."""
        if self.sees:
            self.num_seen += 1
            self.area += self.pose.height**2
            look, pose = self._look, self.pose
            x, y = (pose.x - look.left) / look.shrink, (pose.y - look.top) / look.shrink
            self._person.see(look.planes, x, y, pose.height / look.shrink)
        known = self.sees or self._detected
        self.missing = 0 if known else self.missing + 1
        place = self._radius + len(self._kept)
        self._poses[place], self._known[place] = self.pose, known
        self._kept.append(self._look)
        if len(self._kept) == self._radius + self.burst:
            self._write_burst()

    def _write_burst(self) -> None:
        """Write the next `burst` of the kept frames, or all that are left."""
        if self._output is None:
            self._begin()
            assert self._output is not None
        kept = [self._kept.popleft() for _ in range(min(self.burst, len(self._kept)))]
        boxes = self._smoothed_boxes(len(kept))
        landmarks = np.full((len(kept), NUM_LANDMARKS, 2), np.nan, np.float32)
        for number, (look, (x, y, side)) in enumerate(zip(kept, boxes, strict=True)):
            left, top = (x - look.left) / look.shrink, (y - look.top) / look.shrink
            look.planes.draw_square(left, top, side / look.shrink, self._output.planes)
            self._output.video.write_frame(self._output.crop)
            if look.landmarks is None:
                self.without_face.append(self.first_frame + len(self.boxes) + number)
            else:
                landmarks[number] = look.landmarks
        corners_and_sides = np.array(boxes, np.float32)[:, None]
        landmarks -= corners_and_sides[..., :2]
        landmarks /= corners_and_sides[..., 2:]
        self._output.landmarks.write(landmarks.tobytes())
        self.boxes += boxes

    def _new_output(self) -> Output:
        return Output(self.video_path, self.landmarks_path, self._fps)

    def _begin(self) -> None:
        """Open the files, or go on with those of an earlier track."""
        earlier = self._find_earlier(self)
        if earlier is None:
            self._output = self._new_output()
            self._output.write_black(self.first_frame if self._pad_to else 0)
            return
        assert earlier._output is not None
        self._output, self.video_path, self.landmarks_path = (
            earlier._output,
            earlier.video_path,
            earlier.landmarks_path,
        )
        gone = range(earlier.end_frame, self.first_frame)
        self._output.write_black(len(gone))
        self.boxes = earlier.boxes + [[] for _ in gone]
        self.without_face = [*earlier.without_face, *gone]
        self.first_frame = earlier.first_frame
        self.num_seen += earlier.num_seen
        self.area += earlier.area

    @property
    def end_frame(self) -> int:
        """The frame after the last one of an ended track."""
        return self.first_frame + len(self.boxes)

    def continues(self, earlier: FaceTrack) -> bool:
        """Whether an ended track showed the same person, as large and where this one begins."""
        place, last = self._first_pose, earlier.pose
        return (
            earlier.end_frame <= self.first_frame
            and distance(place, last) < SAME_PLACE * max(last.height, place.height)
            and 1 / SAME_SIZE < place.height / last.height < SAME_SIZE
            and self._person.is_like(earlier._person)
        )

    def _smoothed_boxes(self, count: int) -> list[list[float]]:
        """x, y (top left corner) and side of the next `count` frames' boxes; forgets their poses."""
        weights = self._gaussians[:count] * self._known
        totals = weights.sum(axis=1, keepdims=True)
        smooth = weights @ self._poses / np.maximum(totals, 1e-6)
        now = slice(self._radius, self._radius + count)
        poses, known = self._poses[now], self._known[now, None] > 0
        # the face may leave its usual place in the crop, but not the crop
        reach = MAX_LAG * poses[:, 2:]
        low = np.concatenate([poses[:, :2] - reach, 0.8 * poses[:, 2:]], axis=1)
        high = np.concatenate([poses[:, :2] + reach, 1.25 * poses[:, 2:]], axis=1)
        smooth = np.where(known, np.minimum(np.maximum(smooth, low), high), smooth)
        sides = self.config.crop_margin * smooth[:, 2:]
        boxes = np.concatenate([smooth[:, :2] - sides / 2, sides], axis=1).tolist()
        for number in np.flatnonzero(totals < 1e-6):  # lost for longer than the Gaussian is wide: held
            boxes[number] = boxes[number - 1] if number else self.boxes[-1]
        for row in self._poses, self._known:
            row[:-count] = row[count:]
        self._known[-count:] = 0
        return boxes

    def end(self) -> None:
        """Write the frames that still wait; no further `look`. The files stay open for `finish`."""
        while self._kept:
            self._write_burst()

    def finish(self) -> None:
        """Fill up with black to the length of the video (with `pad_to`) and close the files."""
        assert self._output is not None  # a track has a frame at least, and has ended
        if self._pad_to:
            self._output.write_black(self._pad_to - self.first_frame - len(self.boxes))
        self._output.close()

    def move_to(self, folder: Path) -> None:
        """Move the finished files into a clip folder."""
        self.video_path.rename(folder / VIDEO_NAME)
        self.landmarks_path.rename(folder / LANDMARKS_NAME)

    def discard(self) -> None:
        """Close and delete the files of an ended track."""
        assert self._output is not None
        self._output.close()
        self.delete_files()

    def delete_files(self) -> None:
        self.video_path.unlink()
        self.landmarks_path.unlink()


def _even_span(start: float, end: float, length: int) -> tuple[int, int]:
    """Even ends of about this span inside 0 to `length`, at least two apart."""
    low = min(max(2 * round(start / 2), 0), length // 2 * 2 - 2)
    return low, min(max(2 * round(end / 2), low + 2), length // 2 * 2)
