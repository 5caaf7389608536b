"""Frames of prepared crops by number: only the frames of a window are decoded.

A crop is usually `cropped_video.mp4` of preprocess.prepare (constant rate, no B-frames), but may come from
another tool: with any codec, with B-frames or a variable rate, frame i is the i-th frame that a player shows.
PyAV reads it, or OpenCV on machines without PyAV. A pack may hold decoded frames instead.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from utils.clip.frame_folders import FolderCrop
from utils.clip.packed import FRAMES_NAME, Member, Pack, find_clip
from utils.errors import ClipError
from utils.media.allowed import find_demuxer, require_codec
from utils.media.container import local_file, open_container, read_head

SEEK_BACK_FRAMES = 48  # how much earlier to start if the key frame before a window is of no use
SKIPPED_FRAMES = 4  # to seek takes less time than to decode more unwanted frames than these


class Crop(Protocol):
    """An open crop."""

    fps: Fraction
    num_frames: int  # 0 if the header does not say
    is_equalized: bool  # the luma of its frames is histogram-equalised already

    def read(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """(n, H, W, 3) uint8 RGB of `indices` (n,), in rising order. Raises ClipError if one is missing."""


@contextlib.contextmanager
def open_crop(path: Path, frames: Sequence[str] | None = None) -> Iterator[Crop]:
    """Open a crop; with `frames` (see Clip), those in its folder. Raises ClipError if it is missing, damaged,
    or not a video.
    """
    if frames is not None:
        yield FolderCrop(path.parent, frames)
        return
    packed = find_clip(path.parent)
    members = {} if packed is None else packed[0].members(packed[1])
    if packed is not None and (decoded := members.get(FRAMES_NAME)):
        yield _PackedCrop(decoded, *packed)
        return
    if importlib.util.find_spec("av") is None:
        yield _Cv2Crop(path)
        return
    member = members.get(path.name)
    with open_container(path, "video", None if member is None else member.open()) as (container, stream):
        if stream is None or not stream.average_rate or stream.codec_context is None:
            raise ClipError(path, "has no video stream of a known codec and with a frame rate")
        require_codec(path, stream)
        yield _AvCrop(path, container, stream)


def read_frames(
    path: Path, indices: npt.NDArray[np.int64], frames: Sequence[str] | None = None
) -> npt.NDArray[np.uint8]:
    """Frames of a prepared crop, (n, H, W, 3) uint8 RGB. `indices` (n,) must be in rising order."""
    with open_crop(path, frames) as crop:
        return crop.read(indices)


def read_video_header(path: Path, frames: Sequence[str] | None = None) -> tuple[Fraction, int]:
    """(frames per second, number of frames) of a prepared crop; 0 frames if its header does not say."""
    with open_crop(path, frames) as crop:
        return crop.fps, crop.num_frames


class _PackedCrop:
    """Decoded frames in a shard of a pack."""

    def __init__(self, member: Member, pack: Pack, folder: str) -> None:
        self._member = member
        fps, self.num_frames = pack.clip_header(folder)
        self.fps, self.is_equalized = Fraction(fps), pack.about.get("frames") == "equalized"

    def read(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        frames: npt.NDArray[Any] = self._member.array()
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            found = f"{frames.dtype} {frames.shape}"
            raise ClipError(self._member.path, f"holds {found}, no frames; pack the clips again")
        if indices[-1] >= min(len(frames), self.num_frames):
            raise ClipError(self._member.path, f"has no frame {indices[-1]}; pack the clips again")
        return frames[indices]


class _AvCrop:
    is_equalized = False

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        from av.video.reformatter import VideoReformatter

        self._path, self._container, self._stream = path, container, stream
        self.fps, self.num_frames = Fraction(stream.average_rate), stream.frames
        stream.codec_context.thread_count = 1
        self._stamps: npt.NDArray[np.int64] | None = None
        self._key_frames = np.zeros(0, np.int64)  # as far as the index tells
        self._reformatter = VideoReformatter()  # creating one per frame takes half as long as decoding

    def read(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        wanted = np.unique(indices)
        images = None
        if self._stamps is None:
            self._stamps = self._stamps_of_index()
        # AVI stores no presentation times: with B-frames they are guesses, other ones after every seek
        if "avi" not in self._container.format.name or not self._stream.codec_context.has_b_frames:
            images = self._read_runs(self._stamps, wanted)
            if images is None:
                self._stamps = self._stamps_of_packets()
                images = self._read_at(self._stamps, wanted)
        if images is None:
            images = self._read_in_order(wanted)
        if missing := [index for index in wanted.tolist() if index not in images]:
            raise ClipError(self._path, f"has no frame {missing[0]}: cut off; prepare the clip again")
        return np.stack([images[index] for index in indices.tolist()])

    def _rgb(self, frame: Any) -> npt.NDArray[np.uint8]:
        return np.asarray(self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)

    def _read_runs(
        self, stamps: npt.NDArray[np.int64] | None, wanted: npt.NDArray[np.int64]
    ) -> dict[int, npt.NDArray[np.uint8]] | None:
        """`_read_at`, without decoding what lies between frames that are far apart."""
        # the last key frame that is not after each of them, and how much a seek to it leaves out
        keys = np.append(0, self._key_frames)[np.searchsorted(self._key_frames, wanted, side="right")]
        far = np.flatnonzero(keys[1:] - wanted[:-1] > SKIPPED_FRAMES) + 1
        images: dict[int, npt.NDArray[np.uint8]] = {}
        for run in np.split(wanted, far):
            found = self._read_at(stamps, run)
            if found is None:
                return None
            images |= found
        return images

    def _read_at(
        self, stamps: npt.NDArray[np.int64] | None, wanted: npt.NDArray[np.int64]
    ) -> dict[int, npt.NDArray[np.uint8]] | None:
        """Number -> image of the frames `wanted` that the file has, found by the presentation times of all
        frames; None if the decoder gives other times.
        """
        if stamps is None or wanted[-1] >= len(stamps):
            return None
        first, back = int(wanted[0]), 0
        while True:
            start = max(0, first - back)
            # the first frame may be decoded before it is shown
            target = int(stamps[start]) if start else min(0, int(stamps[0]))
            self._container.seek(target, stream=self._stream, backward=True)
            images: dict[int, npt.NDArray[np.uint8]] = {}
            has_key = False
            for frame in self._container.decode(self._stream):
                if frame.pts is None:
                    return None
                if not has_key:
                    if not frame.key_frame:
                        continue  # it refers to frames before the seek target
                    if frame.pts > stamps[first] and start:
                        break
                    has_key = True
                index = int(np.searchsorted(stamps, frame.pts))
                if index == len(stamps) or stamps[index] != frame.pts:
                    return None
                if index in wanted:
                    images[index] = self._rgb(frame)
                if len(images) == len(wanted):
                    return images
            else:
                return images
            back = 2 * back + SEEK_BACK_FRAMES

    def _stamps_of_index(self) -> npt.NDArray[np.int64] | None:
        """(T,) presentation times of all frames in ticks, from the container's index; None if it lacks them.

        An index holds decoding times. Without B-frames these are the presentation times; with B-frames, a
        constant rate of the one is that of the other.
        """
        entries = self._stream.index_entries
        if not self.num_frames or len(entries) != self.num_frames:
            return None
        ticks = np.fromiter((entry.timestamp for entry in entries), np.int64, len(entries))
        steps = np.diff(ticks)
        self._key_frames = np.flatnonzero([entry.is_keyframe for entry in entries])
        if (steps <= 0).any() or any(entry.is_discard for entry in entries):
            return None
        if self._stream.codec_context.has_b_frames and len(steps) and steps.min() != steps.max():
            return None
        return ticks - ticks[0] + (self._stream.start_time or 0)

    def _stamps_of_packets(self) -> npt.NDArray[np.int64] | None:
        """The same from all packets, without decoding; None if one has no time stamp."""
        self._container.seek(0, stream=self._stream, backward=True, any_frame=False)
        stamps = []
        for packet in self._container.demux(self._stream):
            if packet.size and not packet.is_discard:
                if packet.pts is None:
                    return None
                stamps.append(packet.pts)
        return np.unique(np.asarray(stamps, np.int64))

    def _read_in_order(self, wanted: npt.NDArray[np.int64]) -> dict[int, npt.NDArray[np.uint8]]:
        """The slow way, for files without usable time stamps: decode from the start and count."""
        self._container.seek(0, stream=self._stream, backward=True)
        frames = itertools.islice(self._container.decode(self._stream), int(wanted[-1]) + 1)
        return {index: self._rgb(frame) for index, frame in enumerate(frames) if index in wanted}


class _Cv2Crop:
    is_equalized = False

    def __init__(self, path: Path) -> None:
        import cv2

        self._path, self._cv2 = path, cv2
        find_demuxer(path, read_head(path))  # no playlists; only FFmpeg may guess by the name
        capture = cv2.VideoCapture(local_file(path), cv2.CAP_FFMPEG)
        fps, num_frames = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        if not fps > 0:
            raise ClipError(path, "is not a readable video")
        self.fps, self.num_frames = Fraction(fps).limit_denominator(1001), max(num_frames, 0)

    def read(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """OpenCV cannot seek exactly: every frame before the last one wanted is read."""
        cv2 = self._cv2
        capture = cv2.VideoCapture(local_file(self._path), cv2.CAP_FFMPEG)
        images: dict[int, npt.NDArray[np.uint8]] = {}
        try:
            wanted = set(indices.tolist())
            for index in range(int(indices[-1]) + 1):
                if not capture.grab():
                    raise ClipError(self._path, f"has no frame {index}: cut off; prepare the clip again")
                if index in wanted:
                    image = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
                    images[index] = np.asarray(image, np.uint8)
        finally:
            capture.release()
        return np.stack([images[index] for index in indices.tolist()])
