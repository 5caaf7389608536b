"""Files that mean harm, made by hand: what they say of themselves and what is in them do not agree."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile


def write_small(
    path: Path,
    *,
    codec: str = "libx264",
    container: str = "mp4",
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    num_frames: int = 5,
    fps: Fraction = Fraction(25),
    num_streams: int = 1,
) -> Path:
    """A video of a few grey frames, the same in each of its streams."""
    with av.open(f"file:{path}", "w", format=container) as file:
        streams = [file.add_stream(codec, rate=fps) for _ in range(num_streams)]
        for stream in streams:
            stream.width, stream.height = size
            stream.pix_fmt = pixel_format
            if codec == "libx264":
                stream.options = {"preset": "ultrafast"}
        for index in range(num_frames):
            image = np.full((size[1], size[0], 3), 20 * index % 256, np.uint8)
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = index, 1 / fps
                file.mux(stream.encode(frame))
        for stream in streams:
            file.mux(stream.encode(None))
    return path


def write_jpeg_bomb(path: Path, width: int, height: int, *, honest_header: bool) -> Path:
    """Motion JPEG in AVI: a few kilobytes whose pictures claim `width` x `height`. The container's header
    says so, too, or claims 64x48.
    """
    write_small(path, codec="mjpeg", container="avi", pixel_format="yuvj420p")
    content = bytearray(path.read_bytes())
    place = -1
    while (place := content.find(b"\xff\xc0\x00\x11\x08", place + 1)) >= 0:
        content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    if honest_header:
        main, stream = content.index(b"avih") + 8, content.index(b"strf") + 8
        content[main + 32 : main + 40] = struct.pack("<II", width, height)
        content[stream + 4 : stream + 12] = struct.pack("<ii", width, height)
    path.write_bytes(content)
    return path


def write_growing(path: Path, first: tuple[int, int], later: tuple[int, int], num_frames: int = 5) -> Path:
    """Motion JPEG in AVI whose pictures are larger from the second on; header and first one are honest."""
    with av.open(f"file:{path}", "w", format="avi") as file:
        stream = file.add_stream("mjpeg", rate=25)
        stream.width, stream.height = first
        stream.pix_fmt = "yuvj420p"
        images = [
            cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8))[1].tobytes()
            for width, height in (first, later)
        ]
        for index in range(num_frames):
            packet = av.Packet(images[min(index, 1)])
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = index
            packet.is_keyframe = True
            file.mux(packet)
    return path


def write_external_reference(path: Path, target: Path) -> Path:
    """An mp4 without media data: its track says that its samples lie in the file `target`, a video that
    `write_small` has made.
    """
    content = target.read_bytes()
    start, size = _atom(content, b"moov")
    moov = bytearray(content[start : start + size])
    place = moov.index(b"url ") - 4  # the only entry of dref; its flag 1 says "in this file"
    # an alias record as QuickTime writes it: volume, folder and the path in tagged pieces
    record = bytearray(150)
    record[4:8] = struct.pack(">HH", 150, 2)
    path_text = str(target).encode()
    tail = struct.pack(">HH", 2, len(path_text)) + path_text + b"\0" * (len(path_text) % 2)
    tail += (
        struct.pack(">HH", 18, len(path_text)) + path_text + b"\0" * (len(path_text) % 2) + b"\xff\xff\0\0"
    )
    entry = struct.pack(">I4sI", 12 + len(record) + len(tail), b"alis", 0) + bytes(record) + tail
    growth = len(entry) - 12
    moov[place : place + 12] = entry
    for name in (b"dref", b"dinf", b"minf", b"mdia", b"trak"):
        at = moov.index(name) - 4
        moov[at : at + 4] = struct.pack(">I", struct.unpack(">I", moov[at : at + 4])[0] + growth)
    moov[:4] = struct.pack(">I", len(moov))
    begin, length = _atom(content, b"ftyp")
    path.write_bytes(content[begin : begin + length] + bytes(moov))
    return path


def _atom(content: bytes, name: bytes) -> tuple[int, int]:
    """(start, size) of an atom at the top of an mp4."""
    place = 0
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        if kind == name:
            return place, size
        place += size
    raise ValueError(name)


def claim_sample_rate(path: Path, rate_hz: int) -> Path:
    """A wav whose header claims a sample rate."""
    soundfile.write(path, np.zeros(4800, np.float32), 48_000, subtype="PCM_16", format="WAV")
    content = bytearray(path.read_bytes())
    content[24:32] = struct.pack("<II", rate_hz, 2 * rate_hz)
    path.write_bytes(content)
    return path


def write_png(path: Path) -> Path:
    """A picture under a video's name."""
    path.write_bytes(cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes())
    return path
