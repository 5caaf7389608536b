"""Raw videos: small valid ones of nine kinds, and what may be wrong with them, through preprocess.prepare."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.fuzz.cases import PROCESSED, REFUSED, Recipe
from tests.fuzz.mutate import damage, flip_bits, pick, truncate

NUM_FRAMES, FPS, WIDTH, HEIGHT = 12, 25, 320, 240
# suffix -> codecs of picture and sound
CONTAINERS = {
    ".mp4": ("libx264", "aac"),
    ".avi": ("mpeg4", "libmp3lame"),
    ".mkv": ("libx264", "flac"),
    ".webm": ("libvpx", "libopus"),
    ".mov": ("libx264", "pcm_s16le"),
    ".3gp": ("mpeg4", "aac"),
    ".mpg": ("mpeg2video", "mp2"),
    ".ts": ("libx264", "mp2"),
    ".m2ts": ("libx264", "ac3"),
}
FORMATS = {".mkv": "matroska", ".mpg": "mpeg", ".ts": "mpegts", ".m2ts": "mpegts"}  # others: as the suffix
HUGE, LARGE = 16_384, 16_000  # FFmpeg itself refuses the former, and takes the latter
CANARY = "canary"  # a folder next to the raw videos: nobody may read from it or write to it
SECRET = "secret.mp4"


def build(base: Path) -> None:
    """The valid videos that cases start from, and the canary's."""
    base.mkdir(parents=True, exist_ok=True)
    for suffix in CONTAINERS:
        write(base / f"valid{suffix}")
    write(base / "one_frame.mp4", num_frames=1)


def write(
    path: Path,
    *,
    suffix: str | None = None,
    num_frames: int = NUM_FRAMES,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    codecs: tuple[str | None, str | None] | None = None,
    rate_hz: int = 48_000,
    num_sounds: int = 1,
    num_pictures: int = 1,
    times: Iterable[int] | None = None,
    time_base: Fraction | None = None,
    pixel_format: str = "yuv420p",
) -> Path:
    """Write a video of a moving face with noise for a sound; PyAV, not the project, encodes it."""
    import av

    from tests.moving_face import moving_face

    picture, sound = codecs or CONTAINERS[suffix or path.suffix]
    suffix = suffix or path.suffix
    options = {"fflags": "+bitexact"}  # Matroska would draw a number for each file
    options |= {"mpegts_m2ts_mode": "1"} if suffix == ".m2ts" else {}
    with av.open(str(path), "w", format=FORMATS.get(suffix, suffix[1:]), options=options) as container:
        pictures, sounds = [], []
        for _ in range(num_pictures if picture else 0):
            stream = container.add_stream(picture, rate=FPS)
            stream.width, stream.height, stream.pix_fmt = *size, pixel_format
            stream.codec_context.thread_count = 1
            if picture == "libx264":
                stream.options = {"preset": "ultrafast", "crf": "24"}
            if time_base:
                stream.codec_context.time_base = time_base
            pictures.append(stream)
        for _ in range(num_sounds if sound else 0):
            sounds.append(container.add_stream(sound, rate=rate_hz, layout="mono"))
        face_height = 90 if size == (WIDTH, HEIGHT) else 40
        frames = moving_face(
            num_frames, size=size, face_height=face_height, path=lambda i: (size[0] // 2 + i, size[1] // 2)
        )
        stamps = list(times) if times is not None else list(range(num_frames))
        for index, image in enumerate(frames):
            for stream in pictures:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = stamps[index], time_base or Fraction(1, FPS)
                container.mux(stream.encode(frame))
        for stream in pictures:
            container.mux(stream.encode(None))
        for stream in sounds:
            _write_noise(container, stream, rate_hz, num_frames / FPS)
    return path


def _write_noise(container: object, stream: object, rate_hz: int, seconds: float) -> None:
    import av

    noise = np.random.default_rng(0).normal(0, 0.05, max(1, round(seconds * rate_hz))).astype(np.float32)
    piece_size = stream.codec_context.frame_size or 1024
    layout = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=rate_hz)
    for start in range(0, len(noise), piece_size):
        piece = np.ascontiguousarray(noise[None, start : start + piece_size])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
        for converted in layout.resample(frame):
            container.mux(stream.encode(converted))
    container.mux(stream.encode(None))


def _name(folder: Path, suffix: str) -> Path:
    return folder / f"clip{suffix}"


def _valid(base: Path, suffix: str) -> bytes:
    return (base / f"valid{suffix}").read_bytes()


# --- damage


def untouched(suffix: str) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        _name(folder, suffix).write_bytes(_valid(base, suffix))

    return make


def cut(suffix: str, tenths: int) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        _name(folder, suffix).write_bytes(truncate(_valid(base, suffix), tenths))

    return make


def header_place(data: bytes) -> int:
    """Where a container's header begins: that of an mp4 stands at its end."""
    place = data.find(b"moov")
    return max(0, place - 4)


def flipped(suffix: str, where: str) -> Callable[..., str]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        data, count = _valid(base, suffix), int(2 ** rng.integers(0, 7))
        start, end = 0, len(data)
        if where == "header":
            start = header_place(data)
            end = start + min(1024, len(data) - start)
        _name(folder, suffix).write_bytes(flip_bits(rng, data, start, end, count))
        return f"{count} bits in {start}..{end}"

    return make


def damaged(suffix: str) -> Callable[..., str]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        data, what = damage(rng, _valid(base, suffix))
        _name(folder, suffix).write_bytes(data)
        return what

    return make


def misnamed(suffix: str, claimed: str) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        _name(folder, claimed).write_bytes(_valid(base, suffix))

    return make


# --- absurd headers

# box of an mp4 -> (bytes from its name to the value, bytes of the value, values)
BIG = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
BOXES: dict[str, tuple[bytes, int, int, tuple[int, ...]]] = {
    "mvhd time scale": (b"mvhd", 16, 4, BIG),
    "mvhd duration": (b"mvhd", 20, 4, BIG),
    "tkhd width": (b"tkhd", 80, 4, BIG),
    "mdhd time scale": (b"mdhd", 16, 4, BIG),
    "mdhd duration": (b"mdhd", 20, 4, BIG),
    "stts entries": (b"stts", 8, 4, BIG),
    "stts frames": (b"stts", 12, 4, BIG),
    "stts duration of a frame": (b"stts", 16, 4, BIG),
    "stsz size": (b"stsz", 8, 4, BIG),
    "stsz frames": (b"stsz", 12, 4, BIG),
    "stsc entries": (b"stsc", 8, 4, BIG),
    "stco entries": (b"stco", 8, 4, BIG),
    "stco place": (b"stco", 12, 4, BIG),
    "stsd entries": (b"stsd", 8, 4, BIG),
    "avc1 width and height": (b"avc1", 28, 4, (0, 0x00010001, 0x40004000, 0xFFFFFFFF)),
    "avcC": (b"avcC", 4, 4, BIG),
    "mp4a channels": (b"mp4a", 20, 2, (0, 64, 0xFFFF)),
    "mp4a sample rate": (b"mp4a", 28, 4, (0, 0x00010000, 0xFFFF0000)),
    "elst entries": (b"elst", 8, 4, BIG),
    "elst start": (b"elst", 16, 4, BIG),
    "moov size": (b"moov", -4, 4, BIG),
    "mdat size": (b"mdat", -4, 4, BIG),
    "trak size": (b"trak", -4, 4, BIG),
    "stsd size": (b"stsd", -4, 4, BIG),
}
AVI: dict[str, tuple[bytes, int, int, tuple[int, ...]]] = {
    "frames": (b"avih", 24, 4, BIG),
    "streams": (b"avih", 32, 4, BIG),
    "width": (b"avih", 40, 4, BIG),
    "scale": (b"strh", 28, 4, BIG),
    "rate": (b"strh", 32, 4, BIG),
    "length": (b"strh", 40, 4, BIG),
    "picture width": (b"strf", 12, 4, BIG),
    "picture height": (b"strf", 16, 4, BIG),
    "list size": (b"LIST", 4, 4, BIG),
    "index size": (b"idx1", 4, 4, BIG),
}


def patched(suffix: str, place: tuple[bytes, int, int, tuple[int, ...]], nth: int) -> Callable[..., str]:
    """A field of a header with an absurd value; numbers of an AVI have their smallest byte first."""

    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        name, offset, size, values = place
        data, value = bytearray(_valid(base, suffix)), values[nth % len(values)]
        found = [index for index in range(len(data)) if data.startswith(name, index)]
        if not found:
            _name(folder, suffix).write_bytes(data)
            return "not there"
        start = pick(rng, found) + offset
        data[start : start + size] = value.to_bytes(size, "little" if suffix == ".avi" else "big")
        _name(folder, suffix).write_bytes(data)
        return hex(value)

    return make


EBML = {
    "duration": b"\x44\x89",
    "time scale": b"\x2a\xd7\xb1",
    "width": b"\xb0",
    "height": b"\xba",
    "rate": b"\xb5",
    "default duration": b"\x23\xe3\x83",
    "codec": b"\x86",
    "cluster": b"\x1f\x43\xb6\x75",
    "segment": b"\x18\x53\x80\x67",
    "tracks": b"\x16\x54\xae\x6b",
    "cues": b"\x1c\x53\xbb\x6b",
}


def ebml(suffix: str, name: str) -> Callable[..., str]:
    """A Matroska element with another size or other content."""

    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        data = bytearray(_valid(base, suffix))
        place = data.find(EBML[name])
        if place < 0:
            _name(folder, suffix).write_bytes(data)
            return "not there"
        start = place + len(EBML[name])
        value = pick(
            rng,
            (
                b"\xff",
                b"\x80",
                b"\x01" + b"\xff" * 7,
                b"\x88" + b"\xff" * 8,
                b"\x88\x7f\xef" + b"\xff" * 6,
                b"\x84\x7f\xff\xff\xff",
                b"\x81\x00",
                b"\x88\xff\xf0" + bytes(6),
            ),
        )
        data[start : start + len(value)] = value
        _name(folder, suffix).write_bytes(data)
        return value.hex()

    return make


# --- odd, but whole


def encoded(suffix: str, **options: object) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        write(_name(folder, suffix), **options)

    return make


def _muxed(path: Path, codec: str, packets: list[bytes], claimed: int) -> None:
    """Packets that nobody encoded, in a container that says they are pictures of some size, with sound: it
    is looked at first."""
    import av

    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream(codec, rate=FPS)
        stream.width = stream.height = 320
        sound = file.add_stream(CONTAINERS[path.suffix][1], rate=48_000, layout="mono")
        stream.pix_fmt = {"png": "rgb24", "mjpeg": "yuvj420p"}[codec]
        for index, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base, packet.is_keyframe, packet.duration = Fraction(1, FPS), True, 1
            file.mux(packet)
        _write_noise(file, sound, 48_000, len(packets) / FPS)
    data = bytearray(path.read_bytes())
    if path.suffix == ".avi":
        for place in (data.find(b"avih") + 40, data.find(b"strf") + 12):
            data[place : place + 8] = struct.pack("<II", claimed, claimed)
    else:
        for place, kind, scale in (
            (data.find(b"png ") + 28, ">HH", 1),
            (data.find(b"tkhd") + 80, ">II", 1 << 16),
        ):
            data[place : place + struct.calcsize(kind)] = struct.pack(kind, claimed * scale, claimed * scale)
    path.write_bytes(data)


def png(width: int, height: int) -> bytes:
    """A black picture; little in the file, 3 bytes a pixel when it is decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(1)
    row = bytes(1 + 3 * width)
    data = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def huge_picture(side: int, claimed: int) -> Callable[..., None]:
    """Pictures of a quarter of a gigapixel, in a file that says so, or that says another size."""

    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        _muxed(_name(folder, ".mov"), "png", [png(side, side)] * 2, claimed)

    return make


def huge_jpeg(side: int, claimed: int) -> Callable[..., None]:
    """A JPEG of 16 x 16 whose own header says a quarter of a gigapixel: a small file, a large picture."""

    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        import cv2

        data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
        place = data.find(b"\xff\xc0")
        data[place + 5 : place + 9] = struct.pack(">HH", side, side)
        _muxed(_name(folder, ".avi"), "mjpeg", [bytes(data)] * NUM_FRAMES, claimed)

    return make


def no_frames(suffix: str) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        write(_name(folder, suffix), num_frames=0)

    return make


def times(values: list[int], time_base: Fraction) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        write(_name(folder, ".mkv"), num_frames=len(values), times=values, time_base=time_base)

    return make


# --- files that are not videos, or want to be another file

OTHER_FILES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "a byte": lambda: b"\x00",
    "zeros": lambda: bytes(100_000),
    "text": lambda: b"this is not a video\n" * 50,
    "a script": lambda: b"#!/bin/sh\ntouch SCRIPT_RAN\n",
    "a picture": lambda: png(64, 64),
    "an SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "a page": lambda: b"<!doctype html><script>alert(1)</script>",
    "a zip": lambda: b"PK\x03\x04" + bytes(1000),
    "a gzip bomb": lambda: zlib.compress(bytes(10_000_000), 9, 31),
    "a PDF": lambda: b"%PDF-1.7\n" + bytes(1000),
    "a GIF": lambda: b"GIF89a\xff\xff\xff\xff\x00\x00\x00;",
    "an ELF program": lambda: b"\x7fELF" + bytes(1000),
    "a tracker module": lambda: bytes(1080) + b"M.K." + bytes(2000),
    "a Flash file": lambda: b"FWS\x09" + struct.pack("<I", 10**9) + bytes(200),
    "subtitles": lambda: b"1\n00:00:00,000 --> 99:59:59,999\nhello\n",
    "a text animation": lambda: b"\x1b[2J\x1b[31mhello\r\n" * 200,
    "AV1's start": lambda: b"\x12\x00\x0a\x0a" + bytes(100),
    "a transport stream": lambda: (b"\x47\x40\x00\x10" + bytes(184)) * 50,
}
# {secret}: a video outside, {port}: where nobody may knock
PLAYLISTS = {
    "HLS of a file": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
    "HLS of a file by protocol": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
    "HLS of the network": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n"
    "#EXT-X-ENDLIST\n",
    "HLS with a key of the network": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n"
    '#EXT-X-KEY:METHOD=AES-128,URI="http://127.0.0.1:{port}/key"\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n',
    "HLS of concat": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nconcat:{secret}|{secret}\n"
    "#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{secret}'\n",
    "ffconcat of a neighbour": "ffconcat version 1.0\nfile 'neighbour.mp4'\n",
    "ffconcat of the network": "ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/a.mp4'\n",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>http://127.0.0.1:{port}/a.mp4</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "an IMF list": '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "http://127.0.0.1:{port}/x">]>'
    "<CompositionPlaylist>&x;</CompositionPlaylist>",
    "a RealMedia list": "rtsp://127.0.0.1:{port}/a.rm\n",
    "an ASX list": '<ASX version="3.0"><ENTRY><REF HREF="http://127.0.0.1:{port}/a.wmv"/></ENTRY></ASX>',
}
NAMES = (
    "-i.mp4",
    "--help.mp4",
    "$(touch NAME_RAN).mp4",
    "`touch NAME_RAN`.mp4",
    "; touch NAME_RAN;.mp4",
    "a|b.mp4",
    "&&.mp4",
    "%d.mp4",
    "%03d.mp4",
    "*.mp4",
    "?.mp4",
    "[a].mp4",
    "{a,b}.mp4",
    "~.mp4",
    "=1+1.mp4",
    "@x.mp4",
    "+x.mp4",
    "concat:a.mp4|b.mp4",
    "file:x.mp4",
    "http:x.mp4",
    "pipe:0.mp4",
    "subfile,,start,0,end,9,,:x.mp4",
    "data:,x.mp4",
    "lavfi:testsrc.mp4",
    "async:x.mp4",
    "a\nb.mp4",
    "a\tb.mp4",
    "\x1b[2Ja.mp4",
    "\u202egpj.mp4",
    "<script>alert(1)<.mp4",
    "\"'><img src=x onerror=alert(1)>.mp4",
    "a" * 240 + ".mp4",
    "원본.mp4",
    "원본_nfd_\u1112\u1161\u11ab.mp4",
    " leading.mp4",
    "trailing .mp4",
    "..x.mp4",
    "...mp4",
    "a..mp4",
    "CON.mp4",
    "a\\b.mp4",
    "C:\\x.mp4",
    "$x_$.mp4",
    "a,b.mp4",
    "a;b.mp4",
    "\ufeffa.mp4",
    "\u200b.mp4",
    "e\u0301.mp4",
    "cropped_video.avi.mp4",
)


def other_file(content: Callable[[], bytes]) -> Callable[..., str]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        suffix = pick(rng, list(CONTAINERS))
        _name(folder, suffix).write_bytes(content())
        return suffix

    return make


def playlist(text: str) -> Callable[..., str]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        suffix = pick(rng, (".mp4", ".m4v", ".avi", ".mkv"))
        secret, port = os.environ.get("FUZZ_SECRET", "/nowhere.mp4"), os.environ.get("FUZZ_PORT", "9")
        _name(folder, suffix).write_text(text.format(secret=secret, port=port))
        if "neighbour" in text:
            (folder / "neighbour.mp4.txt").write_bytes(_valid(base, ".mp4"))
        return suffix

    return make


def named(name: str) -> Callable[..., str]:
    """A good video with a name that somebody might take for more than a name."""

    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        (folder / name).write_bytes(_valid(base, ".mp4"))
        return repr(name)[:60]

    return make


def named_by_bytes(rng: np.random.Generator, base: Path, folder: Path) -> None:
    with open(os.path.join(os.fsencode(folder), b"\xff\xfe.mp4"), "wb") as file:  # noqa: PTH118, PTH123 (bytes)
        file.write(_valid(base, ".mp4"))


def special(kind: str) -> Callable[..., None]:
    """Something with a video's name that is not a file."""

    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        path = _name(folder, ".mp4")
        if kind == "a link out":
            path.symlink_to(os.environ.get("FUZZ_SECRET", "/nowhere.mp4"))
        elif kind == "a link to nothing":
            path.symlink_to("nothing.mp4")
        elif kind == "a link to itself":
            path.symlink_to(path.name)
        elif kind == "a link to a device":
            path.symlink_to("/dev/zero")
        elif kind == "a pipe":
            os.mkfifo(path)
        elif kind == "a folder":
            path.mkdir()
        elif kind == "a folder of links to itself":
            path.mkdir()
            (path / "a").symlink_to("..")
            (path / "b").symlink_to("..")

    return make


SPECIAL = (
    "a link out",
    "a link to nothing",
    "a link to itself",
    "a link to a device",
    "a pipe",
    "a folder",
    "a folder of links to itself",
)
RATES = (1, 7, 4000, 11_025, 22_050, 96_000, 192_000, 384_000)
TIMES = {
    "two frames, eleven days apart": ([0, 10**6], Fraction(1, 1)),
    "two frames, 30 years apart": ([0, 10**9], Fraction(1, 1)),
    "a million frames a second": (list(range(12)), Fraction(1, 10**6)),
    "all at one time": ([0] * 12, Fraction(1, 25)),
    "an hour's gap": ([0, 1, 2, 3, 4, 5, 90_000, 90_001, 90_002, 90_003, 90_004, 90_005], Fraction(1, 25)),
    "before time": (list(range(-6, 6)), Fraction(1, 25)),
}
RECIPES = [
    *(Recipe(f"{suffix}: untouched", untouched(suffix), PROCESSED) for suffix in CONTAINERS),
    *(Recipe(f"{suffix}: cut off at {n}/10", cut(suffix, n)) for suffix in CONTAINERS for n in range(1, 10)),
    *(
        Recipe(f"{suffix}: bits of the header flipped", flipped(suffix, "header"))
        for suffix in CONTAINERS
        for _ in range(5)
    ),
    *(
        Recipe(f"{suffix}: bits flipped", flipped(suffix, "payload"))
        for suffix in CONTAINERS
        for _ in range(3)
    ),
    *(Recipe(f"{suffix}: damaged", damaged(suffix)) for suffix in CONTAINERS for _ in range(3)),
    *(
        Recipe(f"{suffix} called {other}", misnamed(suffix, other))
        for suffix in CONTAINERS
        for other in (".mp4", ".avi")
        if suffix != other
    ),
    *(
        Recipe(f"mp4: {name}", patched(".mp4", place, nth))
        for nth in range(2)
        for name, place in BOXES.items()
    ),
    *(
        Recipe(f"avi: {name}", patched(".avi", place, nth + 1))
        for nth in range(2)
        for name, place in AVI.items()
    ),
    *(Recipe(f"{suffix}: {name}", ebml(suffix, name)) for suffix in (".mkv", ".webm") for name in EBML),
    *(Recipe(f"{suffix}: no frame", no_frames(suffix)) for suffix in CONTAINERS),
    *(Recipe(f"{suffix}: one frame", encoded(suffix, num_frames=1)) for suffix in (".mp4", ".avi", ".webm")),
    Recipe("1 x 1", encoded(".mkv", size=(1, 1), pixel_format="yuv444p"), REFUSED),
    Recipe("2 x 2", encoded(".mp4", size=(2, 2)), REFUSED),
    Recipe("16 x 4096", encoded(".mp4", size=(16, 4096)), REFUSED),
    *(
        Recipe(
            f"{name} of {side} x {side} in a file that says {claimed} x {claimed}",
            make(side, claimed),
            REFUSED,
        )
        for name, make in (("PNG", huge_picture), ("JPEG", huge_jpeg))
        for side, claimed in ((HUGE, HUGE), (HUGE, 320), (LARGE, LARGE), (LARGE, 320))
    ),
    *(
        Recipe(f"sound at {rate} Hz", encoded(".mkv", codecs=("libx264", "pcm_s16le"), rate_hz=rate))
        for rate in RATES
    ),
    Recipe("64 sounds", encoded(".mkv", num_sounds=64)),
    Recipe("64 pictures", encoded(".mkv", num_pictures=64)),
    Recipe("no sound", encoded(".mp4", num_sounds=0), REFUSED),
    Recipe("no picture", encoded(".mp4", num_pictures=0), REFUSED),
    *(Recipe(f"time stamps: {name}", times(*values)) for name, values in TIMES.items()),
    *(Recipe(f"no video: {name}", other_file(content), REFUSED) for name, content in OTHER_FILES.items()),
    *(Recipe(f"playlist: {name}", playlist(text), REFUSED) for name, text in PLAYLISTS.items()),
    *(Recipe("named", named(name)) for name in NAMES),
    Recipe("named by bytes that are no UTF-8", named_by_bytes),
    *(Recipe(f"no file: {kind}", special(kind)) for kind in SPECIAL),
]
