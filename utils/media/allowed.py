"""Which media files are opened: decided from their first bytes and headers, before a decoder sees them.

Only listed containers and codecs are opened; no playlist, picture or protocol. FFmpeg is told the container,
so that it neither guesses nor follows what a file or its name says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config import opt
from utils.errors import ClipError

if TYPE_CHECKING:
    import av

HEAD_BYTES = 512  # two packets of a transport stream
# names of FFmpeg's decoders
PICTURE_CODECS = (
    *("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v2"),
    *("msmpeg4", "h263", "mjpeg", "theora", "prores", "dnxhd"),
)
SOUND_CODECS = (
    *("aac", "mp3", "mp3float", "mp2", "mp2float", "ac3", "eac3", "opus", "libopus", "vorbis", "flac"),
    *("alac", "amrnb", "amrwb", "pcm_u8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le"),
    *("pcm_s32be", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_alaw", "pcm_mulaw"),
)
CODECS = {"video": PICTURE_CODECS, "audio": SOUND_CODECS}
MAX_STREAMS = 32
MAX_CHANNELS = 64
SAMPLE_RATES_HZ = (4000, 384_000)

_MOV_ATOMS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"jp2 ")
# (place of the first sync byte, distance to the next): transport streams, plain and with time codes
_TS_PACKETS = ((0, 188), (4, 192))
_NOT_MEDIA = {  # files that often have a video's name, and what the message calls them
    b"#EXTM3U": "a playlist, which names other files",
    b"ffconcat": "a list of other files",
    b"[playlist": "a playlist, which names other files",
    b"<?xml": "XML text",
    b"<MPD": "a playlist, which names other files",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"BM": "a picture",
    b"PK\x03\x04": "an archive; unpack it",
    b"\x1f\x8b": "an archive; unpack it",
}


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """utils/media/allowed.py: which videos are opened."""

    max_pixels: int = opt(40_000_000, "refuse videos with more pixels per frame; 0 = no limit")
    max_frames: int = opt(1_000_000, "refuse videos with more frames; 0 = no limit")
    max_duration_s: float = opt(4 * 3600.0, "refuse files that last longer, in s; 0 = no limit")

    def __post_init__(self) -> None:
        if min(self.max_pixels, self.max_frames, self.max_duration_s) < 0:
            raise ValueError("max_pixels, max_frames and max_duration_s must not be negative")

    def require_frames(self, path: Path, num_frames: int) -> None:
        """Raise ClipError for too many frames."""
        if 0 < self.max_frames < num_frames:
            raise ClipError(path, f"has more than --max_frames {self.max_frames} frames")

    def require_pixels(self, path: Path, width: int, height: int) -> None:
        """Raise ClipError for frames that are too large."""
        if 0 < self.max_pixels < width * height:
            raise ClipError(path, f"{width}x{height} are more pixels than --max_pixels {self.max_pixels}")

    def require_duration(self, path: Path, seconds: float | Fraction) -> None:
        """Raise ClipError for a file that is too long."""
        if 0 < self.max_duration_s < seconds:
            raise ClipError(
                path, f"lasts {float(seconds):.0f} s, longer than --max_duration_s {self.max_duration_s:g}"
            )


# called with (frames, pixels per frame, seconds) of a file that is about to be decoded
LengthListener = Callable[[int, int, float], None]


@dataclass
class _InForce:
    limits: MediaLimits
    listener: LengthListener


_in_force = _InForce(MediaLimits(), lambda num_frames, pixels, seconds: None)


def media_limits() -> MediaLimits:
    """The limits in force in this process."""
    return _in_force.limits


@contextlib.contextmanager
def limit_media(limits: MediaLimits, listener: LengthListener) -> Iterator[None]:
    """Apply `limits` in this process, and tell `listener` the length of each file once it is known."""
    before = _in_force.limits, _in_force.listener
    _in_force.limits, _in_force.listener = limits, listener
    try:
        yield
    finally:
        _in_force.limits, _in_force.listener = before


def report_length(num_frames: int, pixels: int, seconds: float) -> None:
    """Tell the listener the length of a file that is about to be decoded."""
    _in_force.listener(num_frames, pixels, seconds)


def find_demuxer(path: Path, head: bytes) -> str:
    """FFmpeg's name of the container that begins with `head`. Raises ClipError if it is not on the list."""
    is_frame = len(head) > 1 and head[0] == 0xFF  # a stream without a container
    is_picture = head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS
    for kind, matches in (
        ("mov", head[4:8] in _MOV_ATOMS and not is_picture),
        ("matroska", head.startswith(b"\x1aE\xdf\xa3")),
        ("avi", head.startswith(b"RIFF") and head[8:12] == b"AVI "),
        ("wav", head.startswith((b"RIFF", b"RF64")) and head[8:12] == b"WAVE"),
        ("flac", head.startswith(b"fLaC")),
        ("ogg", head.startswith(b"OggS")),
        ("mpegts", any(head[i : i + 1] == b"\x47" == head[i + n : i + n + 1] for i, n in _TS_PACKETS)),
        ("mpeg", head.startswith(b"\x00\x00\x01\xba")),
        ("aac", is_frame and head[1] & 0xF6 == 0xF0),
        ("mp3", head.startswith(b"ID3") or (is_frame and head[1] & 0xE6 in (0xE2, 0xE4))),
    ):
        if matches:
            return kind
    found = next((f": it is {what}" for start, what in _NOT_MEDIA.items() if head.startswith(start)), "")
    raise ClipError(
        path,
        "cannot be decoded, not a video or sound in a supported container (mp4, mov, 3gp, mkv, webm, avi, "
        f"mpg, ts; wav, flac, ogg, mp3, aac){found}",
    )


def open_options(demuxer: str, kind: str) -> dict[str, Any]:
    """Further keywords of av.open, with which no reference in a file is followed.

    `kind` ("video" or "audio") is what will be read. Streams of the other kind are not probed, which would
    take several times as long as the rest of opening a file for its sound.
    """
    options = {
        "protocol_whitelist": "file",
        "codec_whitelist": ",".join(CODECS[kind]),
        "max_streams": str(2 * MAX_STREAMS),
    }
    if demuxer == "mov":
        options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    # for decoders that probe a dozen frames: they need not paint them
    probing = {
        "max_pixels": str(media_limits().max_pixels or 2**31 - 1),
        "skip_idct": "all",
        "skip_loop_filter": "all",
    }
    return {
        "container_options": options,
        "options": probing,
        "metadata_errors": "replace",
    }


def announced_duration_s(container: av.container.InputContainer) -> Fraction:
    """How long a file says that it lasts, from its start on, whatever its clock says; 0 if unknown."""
    duration, start = container.duration or 0, max(0, container.start_time or 0)
    return Fraction(duration - start if duration > start else duration, 1_000_000)


def require_allowed(path: Path, container: av.container.InputContainer) -> None:
    """Raise ClipError if the headers exceed the limits."""
    if len(container.streams) > MAX_STREAMS:
        raise ClipError(path, f"has more than {MAX_STREAMS} streams")
    limits = media_limits()
    limits.require_duration(path, announced_duration_s(container))
    for stream in container.streams.video:
        if stream.codec_context is not None:
            limits.require_pixels(path, stream.codec_context.width, stream.codec_context.height)
        limits.require_frames(path, stream.frames)


def require_codec(path: Path, stream: Any) -> None:
    """Raise ClipError if a stream's codec is not listed, or its sample rate is absurd.

    Its decoder is set up to refuse what the headers did not say.
    """
    context, allowed = stream.codec_context, CODECS[stream.type]
    if stream.type == "video" and context is not None and not context.width * context.height:
        raise ClipError(
            path,
            "cannot be decoded: its frames have no size, or more pixels than --max_pixels "
            f"{media_limits().max_pixels}",
        )
    name = "an unknown codec" if context is None else context.name
    if name not in allowed:
        what = "picture" if stream.type == "video" else "sound"
        raise ClipError(
            path, f"cannot be decoded, its {what} is in {name}, which is not supported; encode it again"
        )
    if stream.type == "audio":
        lowest, highest = SAMPLE_RATES_HZ
        if not lowest <= context.sample_rate <= highest:
            raise ClipError(path, f"its sound has {context.sample_rate} samples per second")
        if context.channels > MAX_CHANNELS:
            raise ClipError(path, f"its sound has {context.channels} channels")
    if not context.is_open:
        limit = {"max_pixels": str(media_limits().max_pixels or 2**31 - 1)} if stream.type == "video" else {}
        context.options = {**context.options, "codec_whitelist": ",".join(allowed), **limit}
