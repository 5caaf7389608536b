"""Videos whose frames show their own number, so that order, times, turns and colours can be read off them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, BITS = 128, 96, 6
FPS = 25
DARK, BRIGHT = 70, 180
CORNER = (200, 60, 60)  # RGB at the top left
VOP = b"\x00\x00\x01\xb6"  # begins an MPEG-4 picture; its kind is in the next two bits
NOT_CODED = VOP + b"\x50\x4f"  # a P-frame that says only that nothing changes
ONE = 1 << 16  # of a display matrix
TURNED = {  # the stored picture is turned back by these
    "90": (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30),
    "180": (-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30),
    "270": (0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30),
    "mirrored": (-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30),
    "upside down": (ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30),
    "90 mirrored": (0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30),
    "270 mirrored": (0, -ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30),
}


def numbered_frame(number: int) -> np.ndarray:
    """(96, 128, 3) uint8: its number in bars, most significant first, and a red corner at the top left."""
    image = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    for bit in range(BITS):
        left = 8 + bit * 18
        image[56:88, left : left + 18] = BRIGHT if number >> (BITS - 1 - bit) & 1 else DARK
    image[8:40, 8:56] = CORNER
    return image


def read_number(image: np.ndarray) -> int:
    """The number that a frame shows."""
    bars = [image[60:84, 12 + bit * 18 : 22 + bit * 18].mean() for bit in range(BITS)]
    middle = (DARK + BRIGHT) / 2
    return sum(int(bar > middle) << (BITS - 1 - bit) for bit, bar in enumerate(bars))


def write_numbered(
    path: Path,
    *,
    container: str,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    count: int = 40,
    times_s: Sequence[float] | None = None,
    start_s: float = 0.0,
    images: Iterable[np.ndarray] | None = None,
    matrix: Sequence[int] | None = None,
    container_options: dict[str, str] | None = None,
    sounds: Sequence[np.ndarray] = (),
    sound_codec: str = "aac",
    layout: str = "mono",
    rate_hz: int = 48_000,
    sample_aspect: int | None = None,
) -> Path:
    """Write `count` numbered frames, or `images`; each of `sounds` is (channels, N) float32 in a track.

    `sample_aspect` is the width of a pixel over its height.
    """
    ticks = Fraction(1, 90_000)
    images = list(images or map(numbered_frame, range(count)))
    with av.open(f"file:{path}", "w", format=container, options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=FPS, options=options or {})
        (stream.height, stream.width), stream.pix_fmt = images[0].shape[:2], pix_fmt
        stream.codec_context.thread_count = 1
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = Fraction(sample_aspect)
        if times_s is not None or start_s:
            stream.codec_context.time_base = ticks
        if matrix is not None:
            stream.set_display_matrix(matrix)
        tracks = [out.add_stream(sound_codec, rate=rate_hz, layout=layout) for _ in sounds]
        packets = []
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if times_s is not None or start_s:
                time_s = start_s + (number / FPS if times_s is None else times_s[number])
                frame.pts, frame.time_base = round(time_s / ticks), ticks
            else:
                frame.pts, frame.time_base = number, Fraction(1, FPS)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for track, sound in zip(tracks, sounds, strict=True):
            packets += _encode(track, sound, layout, rate_hz, start_s)
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            out.mux(packet)
    return path


def _encode(track, sound: np.ndarray, layout: str, rate_hz: int, start_s: float) -> list[av.Packet]:
    context = track.codec_context
    kind = context.format.name if context.format is not None else "fltp"
    resampler = av.AudioResampler(
        format=kind, layout=layout, rate=rate_hz, frame_size=context.frame_size or 1024
    )
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, np.float32), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = rate_hz, round(start_s * rate_hz)
    frame.time_base = Fraction(1, rate_hz)
    parts = [*resampler.resample(frame), *resampler.resample(None)]
    return [packet for part in [*parts, None] for packet in track.encode(part)]


def write_packed(path: Path) -> Path:
    """Write 40 numbered frames as DivX does: an AVI chunk holds a P-frame and the B-frame before it, the next
    chunk says only that nothing changes.
    """
    options = {"qscale": "2", "bf": "1", "b_strategy": "0", "sc_threshold": "1000000000"}
    write_numbered(path, container="avi", codec="mpeg4", options=options)
    with av.open(f"file:{path}") as source:
        frames = [bytes(packet) for packet in source.demux(video=0) if packet.size]
    chunks: list[bytes] = []
    for frame in frames:
        if frame[frame.index(VOP) + 4] >> 6 == 2:  # the kind: B
            chunks[-1] += frame
            chunks.append(NOT_CODED)
        else:
            chunks.append(frame)
    place = min(position for mark in (VOP, b"\x00\x00\x01\xb3") if (position := chunks[0].find(mark)) >= 0)
    chunks[0] = chunks[0][:place] + b"\x00\x00\x01\xb2DivX503b1393p\x00" + chunks[0][place:]
    return write_chunks(path, chunks)


def write_chunks(path: Path, chunks: Sequence[bytes]) -> Path:
    """Write coded MPEG-4 frames as the chunks of an AVI."""
    with av.open(f"file:{path}", "w", format="avi") as out:
        stream = out.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.codec_tag = "DX50"
        for number, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, FPS), stream, number == 0
            out.mux(packet)
    return path


def damage(
    path: Path, numbers: Iterable[int], *, kind: str = "video", part: float = 0.0, size: int = 0
) -> None:
    """Overwrite the n-th packets by noise, from `part` of their bytes on, `size` bytes (0: to their end)."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(**{kind: 0}) if packet.size]
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    for number in numbers:
        position, length = places[number]
        begin = position + int(part * length)
        end = min(position + length, begin + size if size else position + length)
        data[begin:end] = rng.integers(0, 256, end - begin, dtype=np.uint8).tobytes()
    path.write_bytes(data)


def copy_from(source: Path, target: Path, start_s: float) -> Path:
    """Cut by copying packets: those before `start_s` are hidden by an edit list, as trimmers do."""
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as whole, av.open(str(target), "w", container_options=options) as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in whole.streams}
        whole.seek(round(start_s * av.time_base))
        for packet in whole.demux():
            if packet.dts is None:
                continue
            shift = round(start_s / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = streams[packet.stream_index]
            out.mux(packet)
    return target
