"""Containers opened with PyAV, which carries a current FFmpeg in its wheel, and the choice of a track."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from utils.errors import ClipError, UsageError
from utils.media.allowed import HEAD_BYTES, find_demuxer, open_options, require_allowed

if TYPE_CHECKING:
    import av

MAX_UNDECODED = 0.02  # share of a track that may be undecodable: pictures are repeated, sound is silent
# a cover, a still or a preview is not the video; a commentary is not the sound
NOT_THE_VIDEO = ("attached_pic", "still_image", "timed_thumbnails")
NOT_THE_SOUND = ("comment", "visual_impaired", "hearing_impaired", "non_diegetic", "descriptions")


def import_av(path: Path) -> Any:
    if importlib.util.find_spec("av") is None:
        raise UsageError(f"reading {path} needs the package av; install it with: pip install av")
    import av

    return av


@contextlib.contextmanager
def open_container(
    path: Path, kind: str, file: BinaryIO | None = None
) -> Iterator[tuple[av.container.InputContainer, Any]]:
    """The container and the track of `kind` ("video" or "audio") that players choose; None if it has none.

    Raises ClipError for FFmpeg's errors, and before anything is decoded for what utils/media/allowed.py does
    not allow.
    """
    av = import_av(path)
    if file is None:
        head = read_head(path)
    else:
        head = file.read(HEAD_BYTES)
        file.seek(0)
    demuxer = find_demuxer(path, head)
    options = open_options(demuxer, kind)
    with clip_errors(path), av.open(file or local_file(path), format=demuxer, **options) as container:
        require_allowed(path, container)
        yield container, next(iter(tracks_of(container, kind)), None)


@contextlib.contextmanager
def clip_errors(path: Path) -> Iterator[None]:
    """Raise FFmpeg's errors as ClipError."""
    av = import_av(path)
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise ClipError(path, "cannot be decoded: it takes more memory than there is for it") from error
        raise ClipError(
            path, f"cannot be decoded ({error.strerror or error}): cut off, damaged, or not a video"
        ) from error


def tracks_of(container: av.container.InputContainer, kind: str) -> list[Any]:
    """Tracks of `kind`, in the order in which players choose: default tracks first, commentaries last."""
    streams: list[Any] = list(getattr(container.streams, kind))
    if kind == "video":
        streams = [stream for stream in streams if not _is_any(stream, NOT_THE_VIDEO)]
    return sorted(streams, key=lambda s: (_is_any(s, NOT_THE_SOUND), not _is_any(s, ("default",))))


def _is_any(stream: Any, names: tuple[str, ...]) -> bool:
    return any(getattr(type(stream.disposition), name) & stream.disposition for name in names)


def decode_packets(
    path: Path, container: av.container.InputContainer, stream: Any
) -> Iterator[tuple[Any, list[Any] | None]]:
    """Yield (packet, its frames) of a stream or several; None if it cannot be decoded: players skip it.

    Raises ClipError at the end if more than MAX_UNDECODED of the packets cannot be decoded.
    """
    av = import_av(path)
    num_packets = num_failed = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            frames = None
        num_packets += packet.size > 0  # the last one only asks for what is left
        num_failed += frames is None
        yield packet, frames
    if num_failed > MAX_UNDECODED * num_packets + 1:
        reason = f"damaged: {num_failed} of {num_packets} packets cannot be decoded; get the file again"
        raise ClipError(path, reason)


def read_head(path: Path) -> bytes:
    """The first bytes of a file. Raises ClipError if it is missing or empty."""
    if not path.is_file():
        raise ClipError(path, "no such file")
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise ClipError(path, "the file is empty (0 bytes)")
    return head


def local_file(path: Path) -> str:
    """A path that FFmpeg takes for nothing else: a name may look like a protocol (concat:a|b.mp4)."""
    return f"file:{path}"
