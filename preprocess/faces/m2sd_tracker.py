"""The faces of a video as M2SD's released script tracks them, cropped as tracker.py crops.

The script looks for faces in every frame with RetinaFace, and its rules (m2sd_rules.py) need the detections
of the whole video. Here MediaPipe detects them, in a first pass; its scores are lower, so that a track begins
with 0.6, below which it reports no face. A second pass crops: Face Mesh looks where a face was detected.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

from preprocess.faces.finder import Face, FaceDetector, distinct, is_same
from preprocess.faces.m2sd_rules import Detection, find_segments
from preprocess.faces.track import CropConfig, FaceTrack, Pose, distance, pose_of_detection
from utils.media.picture import Picture

MAX_FACES = 10  # of a frame, those with the best scores
MIN_SCORE = 0.6
# of RetinaFace's box, in sizes of MediaPipe's, which does not reach above the brow
WIDTH, ABOVE = 1.15, 0.35
SEARCH_S = 1.0  # a missed face is looked for that long, and smaller ones are searched for that often
AROUND = 4.0  # side of the surroundings of a missed face, in sizes of its detection
RULES = "faces are followed by M2SD's rules: one that comes later, or is missed in a frame, may be left out"
MAX_AWAY = 0.5  # of Face Mesh from the detection, in face heights: further away it follows another face


class M2sdTracker:
    """Follows the faces of one video in two passes over its frames: `search`, then `follow`.

    It keeps a few hundred bytes per face and frame, and the files of at most `max_tracks` faces.
    """

    def __init__(self, folder: Path, *, fps: Fraction, max_tracks: int, backend: str = "auto") -> None:
        self._folder, self._fps, self._max_tracks = folder, fps, max_tracks
        self._config = CropConfig(landmark_backend=backend)
        self._detector = FaceDetector(backend)
        self._faces: list[list[Face]] = []  # of each frame, the best score first
        self.width = self.height = 0  # of the displayed frames
        self.notes = [RULES]  # what a reader of the verdict must know

    def search(self, pictures: Iterable[Picture]) -> None:
        """Detect the faces of all frames.

        RetinaFace sees a frame at its full size, MediaPipe's detector does not: it is shown the surroundings
        of a face that it misses, for a while, and now and then parts of the frame, for smaller faces.
        """
        every = max(1, round(SEARCH_S * self._fps))
        known: dict[Face, int] = {}  # as last seen -> when
        for index, picture in enumerate(pictures):
            self.width, self.height = picture.width, picture.height
            faces = self._detector.in_frame(picture)
            if index % every == 0:
                faces += self._detector.in_tiles(picture, 2)
            for lost in (old for old in known if not any(is_same(old, face) for face in faces)):
                near = self._detector.around(picture, lost.x, lost.y, AROUND * lost.size)
                faces += [face for face in near if is_same(lost, face)]
            faces = sorted(distinct(faces), key=lambda face: -face.score)[:MAX_FACES]
            self._faces.append(faces)
            away = {
                old: seen
                for old, seen in known.items()
                if index - seen < every and not any(is_same(old, face) for face in faces)
            }
            known = dict.fromkeys(faces, index) | dict(list(away.items())[: MAX_FACES - len(faces)])

    def follow(self, pictures: Iterable[Picture]) -> list[FaceTrack]:
        """The tracks that are kept, the largest first, their files complete; `pictures` are all frames again.

        What the detector takes for a face, and Face Mesh in no frame, is left out.
        """
        paths = self._paths()
        tracks: dict[int, FaceTrack] = {}
        for index, picture in enumerate(pictures):
            for number, (start, poses) in enumerate(paths):
                place = index - start
                if not 0 <= place < len(poses):
                    continue
                if place == 0:
                    tracks[number] = self._begin(number, start, poses[0])
                _look(tracks[number], picture, poses[place])
                tracks[number].keep()
                if place == len(poses) - 1:
                    tracks[number].end()
        seen = []
        for _, track in sorted(tracks.items()):
            if track.num_seen:
                track.finish()
                seen.append(track)
            else:
                track.discard()
        return seen

    def _begin(self, number: int, first_frame: int, pose: Pose) -> FaceTrack:
        stem = self._folder / f"track_{number}"
        return FaceTrack(
            stem, first_frame=first_frame, fps=self._fps, pose=pose, config=self._config, pad_to=None
        )

    def _paths(self) -> list[tuple[int, list[Pose]]]:
        """(first frame, place in each frame) of the tracks that are kept, the largest first."""
        detections = [[Detection(_box(face), face.score) for face in faces] for faces in self._faces]
        paths = []
        for start, end, numbers in find_segments(detections, MIN_SCORE):
            shown = zip(self._faces[start:end], numbers, strict=True)
            paths.append((start, [pose_of_detection(faces[number]) for faces, number in shown]))
        paths.sort(key=lambda path: -sum(pose.height**2 for pose in path[1]))
        if num_left_out := max(0, len(paths) - self._max_tracks):
            self.notes.append(f"the {self._max_tracks} largest tracks are judged, {num_left_out} left out")
        return paths[: self._max_tracks]


def _box(face: Face) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of a face, from the forehead to the chin, as RetinaFace has them."""
    x, y, size, _ = face
    half = size / 2
    return x - WIDTH * half, y - half - ABOVE * size, x + WIDTH * half, y + half


def _look(track: FaceTrack, picture: Picture, detected: Pose) -> None:
    """Look where Face Mesh has followed the face to; if that is not where it was detected, look there."""
    if not track.look(picture) or distance(track.pose, detected) > MAX_AWAY * detected.height:
        track.look(picture, near=detected)
