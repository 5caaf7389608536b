"""The faces of a video that is still being shown: frames in, crops and landmarks out, as in a file.

What `track_video` writes into files comes piece by piece: boxes are smoothed over a second of later frames,
so a crop comes about a second after its frame.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.clip.all_faces import MAX_TRACKS
from preprocess.faces.track import ENCODER_PRESET, CropConfig, FaceTrack, Output
from preprocess.faces.tracker import FaceTracker
from utils.clip.files import CROP_SIZE, NUM_LANDMARKS
from utils.media.picture import Picture
from utils.media.planes import Planes, new_frame
from utils.media.writer import RoundTrip

MAX_WAITING = 16  # frames that wait for the tracker; then `write` waits


@dataclass(frozen=True, kw_only=True)
class FacePiece:
    """Some frames of a face, in order."""

    face: int  # its number, by which it is known
    first_frame: int  # of the video, the face's very first one
    video: npt.NDArray[np.uint8]  # (n, 224, 224, 3) RGB, as decoded from a clip's file
    landmarks: npt.NDArray[np.float32]  # (n, 478, 2) in units of the crop, NaN without a face
    boxes: npt.NDArray[np.float64]  # (n, 3) x, y, side in pixels of the displayed frame
    is_last: bool  # the face is gone; there may be no frame in it


class _LiveOutput(Output):
    """The frames of a track, taken out again by the track instead of being written."""

    def __init__(self, fps: Fraction) -> None:
        self.video: Any = RoundTrip(fps=fps, width=CROP_SIZE, height=CROP_SIZE, preset=ENCODER_PRESET)
        self.landmarks: Any = self
        self.crop = new_frame(CROP_SIZE, CROP_SIZE)
        self.planes = Planes.of_frame(self.crop)
        self.points: list[npt.NDArray[np.float32]] = []

    def write(self, landmarks: bytes) -> None:
        self.points.append(np.frombuffer(landmarks, np.float32).reshape(-1, NUM_LANDMARKS, 2))

    def close(self) -> None:
        self.video.close()


class _LiveTrack(FaceTrack):
    """A track that hands on its frames and keeps none of them."""

    burst = 1  # a frame waits for no other one's crop

    def __init__(self, *args: Any, pieces: queue.SimpleQueue[Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self._pieces, self._began = pieces, self.first_frame
        self.number = int(self.video_path.stem.split("_")[1])

    def _new_output(self) -> Output:
        return _LiveOutput(self._fps)

    def _write_burst(self) -> None:
        before = len(self.boxes)
        super()._write_burst()
        self._hand_on(self.boxes[before:], is_last=False)
        # the last box is needed where a face is lost; first_frame moves along, as others count from it
        self.first_frame += len(self.boxes) - 1
        del self.boxes[:-1], self.without_face[:]

    def _hand_on(self, boxes: list[list[float]], *, is_last: bool) -> None:
        output: Any = self._output
        nothing = np.zeros((0, NUM_LANDMARKS, 2), np.float32)
        video = np.array(output.video.decoded, np.uint8).reshape(-1, CROP_SIZE, CROP_SIZE, 3)
        piece = FacePiece(
            face=self.number,
            first_frame=self._began,
            video=video,
            landmarks=np.concatenate([nothing, *output.points]),
            boxes=np.array(boxes).reshape(-1, 3),
            is_last=is_last,
        )
        output.video.decoded, output.points = [], []
        self._pieces.put(piece)

    def end(self) -> None:
        super().end()
        assert self._output is not None
        self._output.close()
        self._hand_on([], is_last=True)

    def finish(self) -> None:
        """Nothing is left to do."""

    def delete_files(self) -> None:
        """There are no files."""

    def discard(self) -> None:
        """There are no files."""


class LiveFaces:
    """Follows faces in a thread: `write` frames, take what is ready with `pieces`, then `close`."""

    def __init__(self, fps: Fraction, backend: str = "auto") -> None:
        self._frames: queue.Queue[Picture | None] = queue.Queue(MAX_WAITING)
        self._ready: queue.SimpleQueue[FacePiece | BaseException] = queue.SimpleQueue()
        self._fps, self._config = fps, CropConfig(landmark_backend=backend)
        self._thread = threading.Thread(target=self._follow, name="faces", daemon=True)
        self._thread.start()

    def write(self, picture: Picture) -> None:
        """Hand over the next frame at the constant rate; waits while MAX_WAITING of them wait."""
        self._put(picture)

    def _put(self, picture: Picture | None) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._frames.put(picture, timeout=0.2)
                return

    def pieces(self) -> Iterator[FacePiece]:
        """What is ready by now. Raises what the tracker failed with."""
        while not self._ready.empty():
            piece = self._ready.get()
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self) -> None:
        """No further frames; afterwards `pieces` gives all the rest."""
        self._put(None)
        self._thread.join()

    def _follow(self) -> None:
        def new_track(*args: Any, **options: Any) -> _LiveTrack:
            return _LiveTrack(*args, pieces=self._ready, **options)

        try:
            tracker = FaceTracker(
                Path("live"),
                num_frames=0,
                fps=self._fps,
                config=self._config,
                max_tracks=MAX_TRACKS,
                track_type=new_track,
            )
            tracker.follow(self._pictures())
        except BaseException as error:  # noqa: BLE001  # handed to the thread that takes the pieces
            self._ready.put(error)

    def _pictures(self) -> Iterator[Picture]:
        while (picture := self._frames.get()) is not None:
            yield picture
