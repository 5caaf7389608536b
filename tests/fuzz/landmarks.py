"""Prepared clips: landmarks.npy, clip.json, sound and crop of a clip folder, and the index of a pack."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import sqlite3
import struct
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.cases import PROCESSED, REFUSED, BrokenPromiseError, Recipe
from tests.fuzz.mutate import damage, flip_bits, mutate_json, nasty_text, pick, truncate

NUM_FRAMES, SIZE = 20, 64
CLIP = "clip"  # folder of the clip, in a case's and in the base's


class Bomb:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch PICKLE_RAN",)


def build(base: Path) -> None:
    """A sound clip with a clip.json, and a pack of two such clips."""
    from preprocess.pack import PackConfig, copy_metadata, plan_shards, read_tree, write_index, write_shard
    from preprocess.work.jobs import PARTIAL_NAME
    from tests.clip_factory import write_clip_folder
    from utils.clip.files import (
        AUDIO_NAME,
        LANDMARKS_NAME,
        LAYOUT_VERSION,
        VIDEO_NAME,
        ClipInfo,
        write_clip_info,
    )
    from utils.files import file_sha256

    for folder in (base / CLIP, base / "tree" / "a" / CLIP, base / "tree" / "b" / CLIP):
        write_clip_folder(folder, num_frames=NUM_FRAMES, size=SIZE)
        info = ClipInfo(
            layout_version=LAYOUT_VERSION,
            source="clip.mp4",
            source_sha256="0" * 64,
            source_bytes=1000,
            source_codecs="h264/aac",
            sound_sha256="",
            source_width=SIZE,
            source_height=SIZE,
            source_fps="25",
            variable_frame_rate=False,
            fps="25",
            num_frames=NUM_FRAMES,
            face_boxes=[[1.0, 2.0, 30.0]] * NUM_FRAMES,
            frames_without_face=[],
            num_face_tracks=1,
            sample_rate_hz=48_000,
            audio_start_s=0.0,
            audio_padded_s=0.0,
            silent=False,
            settings={"a": 1},
            tools={"av": "1"},
            files={name: file_sha256(folder / name) for name in (VIDEO_NAME, AUDIO_NAME, LANDMARKS_NAME)},
        )
        write_clip_info(folder, info)
    config = PackConfig(data_root=base / "tree", output=base / "pack", frames="rgb", num_workers=1)
    tree = read_tree(config)
    shards = plan_shards(tree.clips, config)
    (config.output / PARTIAL_NAME).mkdir(parents=True)
    for shard in shards:
        write_shard(shard, config)
    copy_metadata(tree, config)
    write_index(config, shards)
    shutil.rmtree(config.output / PARTIAL_NAME)


# --- what a case's folder holds


def _clip(base: Path, folder: Path) -> Path:
    return Path(shutil.copytree(base / CLIP, folder / CLIP))


def untouched(rng: np.random.Generator, base: Path, folder: Path) -> None:
    _clip(base, folder)


def damaged(name: str) -> Callable[..., str]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        path = _clip(base, folder) / name
        data, what = damage(rng, path.read_bytes())
        path.write_bytes(data)
        return what

    return make


def flipped(name: str, end: int) -> Callable[..., str]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> str:
        path = _clip(base, folder) / name
        count = int(2 ** rng.integers(0, 6))
        path.write_bytes(flip_bits(rng, path.read_bytes(), 0, end, count))
        return f"{count} bits"

    return make


def cut(name: str, tenths: int) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        path = _clip(base, folder) / name
        path.write_bytes(truncate(path.read_bytes(), tenths))

    return make


def _npy(header: bytes, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + size + header + body


def _saved(array: np.ndarray, **options: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def _described(shape: object, descr: object = "<f4", fortran: object = False, extra: str = "") -> bytes:
    return f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}{extra}, }}\n".encode()


def _landmarks() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.8, (NUM_FRAMES, 478, 2)).astype(np.float32)


def _with(value: float, where: object = ...) -> bytes:
    array = _landmarks()
    array[where] = value
    return _saved(array)


def _long_doubles() -> np.ndarray:
    array = np.zeros((NUM_FRAMES, 478, 2), np.longdouble)  # zeros also where it has no digits
    array[...] = _landmarks()
    return array


def _zip(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo(name), data)  # of 1980: not of now
    return buffer.getvalue()


NPY: dict[str, Callable[[], bytes]] = {
    "text": lambda: b"landmarks\n" * 100,
    "empty": lambda: b"",
    "magic alone": lambda: b"\x93NUMPY",
    "an archive": lambda: _zip("landmarks.npy", _saved(_landmarks())),
    "a broken archive": lambda: _zip("landmarks.npy", _saved(_landmarks()))[:200],
    "zip's magic alone": lambda: b"PK\x03\x04" + bytes(100),
    "a pickle": lambda: pickle.dumps(Bomb()),
    "pickled objects": lambda: _saved(np.array([Bomb()] * 3, object), allow_pickle=True),
    "objects in the right shape": lambda: _npy(_described((20, 478, 2), "|O"), pickle.dumps(Bomb())),
    "shape beyond the file": lambda: _npy(_described((10**6, 478, 2)), bytes(64)),
    "shape beyond memory": lambda: _npy(_described((10**12, 478, 2)), bytes(64)),
    "shape beyond 64 bits": lambda: _npy(_described((10**30, 478, 2)), bytes(64)),
    "shape that wraps to 0": lambda: _npy(_described((2**62, 478, 2)), bytes(64)),
    "negative shape": lambda: _npy(_described((-1, 478, 2)), bytes(64)),
    "two negative sides": lambda: _npy(_described((-20, -478, 2)), bytes(10**6)),
    "no frames": lambda: _saved(np.zeros((0, 478, 2), np.float32)),
    "one frame": lambda: _saved(_landmarks()[:1]),
    "too many frames": lambda: _saved(np.concatenate([_landmarks()] * 3)),
    "another number of landmarks": lambda: _saved(np.zeros((20, 468, 2), np.float32)),
    "three coordinates": lambda: _saved(np.zeros((20, 478, 3), np.float32)),
    "flat": lambda: _saved(_landmarks().reshape(-1)),
    "as rows": lambda: _saved(_landmarks().reshape(20, 956)),
    "a number": lambda: _saved(np.float32(1)),
    "32 sides": lambda: _npy(_described((1,) * 32)),
    "100 sides": lambda: _npy(_described((1,) * 100), bytes(64)),
    "a shape that is not a tuple": lambda: _npy(_described("x")),
    "shape of floats": lambda: _npy(_described((20.0, 478.0, 2.0)), bytes(10**5)),
    "shape of truths": lambda: _npy(_described((True, 478, 2)), bytes(10**5)),
    "fortran order": lambda: _saved(np.asfortranarray(_landmarks())),
    "fortran is text": lambda: _npy(_described((20, 478, 2), fortran="x"), bytes(10**6)),
    "big endian": lambda: _saved(_landmarks().astype(">f4")),
    "doubles": lambda: _saved(_landmarks().astype(np.float64)),
    "halves": lambda: _saved(_landmarks().astype(np.float16)),
    "long doubles": lambda: _saved(_long_doubles()),
    "complex": lambda: _saved(_landmarks().astype(np.complex64)),
    "integers": lambda: _saved((_landmarks() * 224).astype(np.int32)),
    "text cells": lambda: _saved(_landmarks().astype("U8")),
    "records": lambda: _saved(np.zeros((20, 478, 2), [("x", "f4"), ("y", "f4")])),
    "a type of 10^9 bytes": lambda: _npy(_described((20, 478, 2), "|V1000000000"), bytes(64)),
    "a type of subarrays": lambda: _npy(_described((20,), ("<f4", (478, 2))), bytes(20 * 478 * 8)),
    "nested types": lambda: _npy(_described((1,), [("a", [("b", [("c", "<f4")])])]), bytes(64)),
    "an unknown type": lambda: _npy(_described((20, 478, 2), "spam"), bytes(64)),
    "a type that is a number": lambda: _npy(_described((20, 478, 2), 5), bytes(64)),
    "all NaN": lambda: _with(np.nan),
    "a frame of NaN": lambda: _with(np.nan, 3),
    "one NaN": lambda: _with(np.nan, (3, 4, 1)),
    "one infinite": lambda: _with(np.inf, (3, 4, 1)),
    "all infinite": lambda: _with(-np.inf),
    "huge": lambda: _with(3e38, (slice(None), 5)),
    "constant": lambda: _with(0.5),
    "zeros": lambda: _with(0.0),
    "header is Python": lambda: _npy(b"__import__('os').system('touch HEADER_RAN')\n"),
    "header is an expression": lambda: _npy(
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9,)}\n"
    ),
    "header nests deep": lambda: _npy(b"(" * 9000 + b")" * 900 + b"\n"),
    "header is cut off": lambda: _npy(b"{'descr': '<f4', 'fortran_order': False, 'sha"),
    "header has an open string": lambda: _npy(b"{'descr': '<f4\n"),
    "header has an open text block": lambda: _npy(b"{'descr': '''<f4\n"),
    "header has NUL": lambda: _npy(b"{'descr': '<f4', \x00}\n"),
    "header of other keys": lambda: _npy(b"{'descr': '<f4', 1: 2}\n"),
    "header has keys of two types": lambda: _npy(b"{1: 2, 'a': 3, None: 4}\n"),
    "header is a list": lambda: _npy(b"[1, 2, 3]\n"),
    "header with long integers": lambda: _npy(
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (20L, 478L, 2L)}\n"
    ),
    "header indented": lambda: _npy(b"  {'descr':\n'<f4'\n  , \t'x': 1L\n"),
    "header of 64 kB": lambda: _npy(_described((20, 478, 2)) + b" " * 60_000, bytes(20 * 478 * 8)),
    "header of 4 GB announced": lambda: b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}",
    "version 3": lambda: _npy(_described((20, 478, 2)), _landmarks().tobytes(), b"\x03\x00"),
    "version 9": lambda: _npy(_described((20, 478, 2)), b"", b"\x09\x00"),
}


def npy(content: Callable[[], bytes]) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        (_clip(base, folder) / "landmarks.npy").write_bytes(content())

    return make


def info(rng: np.random.Generator, base: Path, folder: Path) -> str:
    path = _clip(base, folder) / "clip.json"
    data, what = mutate_json(rng, path.read_bytes())
    path.write_bytes(data)
    return what


INFO: dict[str, dict[str, Any]] = {
    "rate 0": {"fps": "0", "source_fps": "0/1"},
    "rate with a denominator of 0": {"fps": "25/0", "source_fps": "25/0"},
    "rate with a huge exponent": {"fps": "1e999999999", "source_fps": "1e999999999"},
    "rate of another script": {"fps": "\u0662\u0665"},
    "files outside": {"files": {"../../../../canary/secret.txt": "0" * 64, "/dev/zero": "0"}},
    "devices for files": {"files": {"/dev/zero": "0" * 64}},
    "no frames": {"num_frames": 0, "face_boxes": []},
    "more frames than there are": {"num_frames": 10**15},
    "boxes of one number": {"face_boxes": [[1]] * NUM_FRAMES},
    "boxes of text": {"face_boxes": [["a", "b", "c"]] * NUM_FRAMES},
    "size 10^400": {"source_width": 10**400, "source_bytes": 10**400},
    "sound of another length": {"audio_start_s": -1e300, "audio_padded_s": float("nan")},
    "frames without a face that are text": {"frames_without_face": ["x"] * 10**5},
    "missing as a number": {"frames_without_face": 7},
    "an unknown field": {"surprise": 1},
}


def info_with(values: dict[str, Any]) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        path = _clip(base, folder) / "clip.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return make


def wav_bytes(rate: int = 48_000, channels: int = 1, width: int = 2, frames: int = 38_400) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(bytes(frames * channels * width))
    return buffer.getvalue()


def _patched(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def _float_wav(value: float) -> bytes:
    body = np.full(38_400, value, np.float32).tobytes()
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(body),
        b"WAVE",
        b"fmt ",
        16,
        3,
        1,
        48_000,
        192_000,
        4,
        32,
        b"data",
        len(body),
    )
    return head + body


def _flac(seconds: int) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(48_000 * seconds, np.int16), 48_000, format="FLAC")
    return buffer.getvalue()


WAV: dict[str, Callable[[], bytes]] = {
    "silence": wav_bytes,
    "no samples": lambda: wav_bytes(frames=0),
    "one sample": lambda: wav_bytes(frames=1),
    "1 Hz": lambda: wav_bytes(rate=1),
    "3 Hz": lambda: wav_bytes(rate=3, frames=2),
    "8,000 Hz": lambda: wav_bytes(rate=8000, frames=6400),
    "2^31-1 Hz": lambda: wav_bytes(rate=2**31 - 1),
    "rate 0": lambda: _patched(wav_bytes(), 24, bytes(4)),
    "no channels": lambda: _patched(wav_bytes(), 22, bytes(2)),
    "65,535 channels": lambda: _patched(wav_bytes(), 22, b"\xff\xff"),
    "32 channels": lambda: wav_bytes(channels=32),
    "block size 0": lambda: _patched(wav_bytes(), 32, bytes(2)),
    "0 bits": lambda: _patched(wav_bytes(), 34, bytes(2)),
    "255 bits": lambda: _patched(wav_bytes(), 34, b"\xff\x00"),
    "format 65,535": lambda: _patched(wav_bytes(), 20, b"\xff\xff"),
    "4 GB announced": lambda: _patched(
        _patched(wav_bytes(), 40, b"\xf0\xff\xff\xff"), 4, b"\xf8\xff\xff\xff"
    ),
    "all NaN": lambda: _float_wav(np.nan),
    "all infinite": lambda: _float_wav(np.inf),
    "1e38": lambda: _float_wav(1e38),
    "a FLAC file of ten minutes": lambda: _flac(600),
    "an MP3's head": lambda: b"ID3\x04\x00\x00\x00\x00\x00\x00" + b"\xff\xfb\x90\x00" * 100,
    "text": lambda: b"RIFF and raff",
}


def wav(content: Callable[[], bytes]) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        (_clip(base, folder) / "cropped_video.wav").write_bytes(content())

    return make


def without(name: str) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        (_clip(base, folder) / name).unlink()

    return make


def folder_for(name: str) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        path = _clip(base, folder) / name
        path.unlink()
        path.mkdir()

    return make


# --- packs


def _pack(base: Path, folder: Path) -> Path:
    return Path(shutil.copytree(base / "pack", folder / "pack")) / "pack.sqlite"


def packed(rng: np.random.Generator, base: Path, folder: Path) -> None:
    _pack(base, folder)


def pack_damaged(rng: np.random.Generator, base: Path, folder: Path) -> str:
    index = _pack(base, folder)
    path = index if rng.integers(2) else pick(rng, sorted(index.parent.glob("*.tar")))
    data, what = damage(rng, path.read_bytes())
    path.write_bytes(data)
    return f"{path.name}: {what}"


def pack_cell(rng: np.random.Generator, base: Path, folder: Path) -> str:
    """A cell of the index with another value; cells of SQLite have any type."""
    index = _pack(base, folder)
    table, column = pick(
        rng,
        (
            ("about", "value"),
            ("shards", "name"),
            ("shards", "size"),
            ("clips", "fps"),
            ("clips", "num_frames"),
            ("clips", "name"),
            ("files", "name"),
            ("files", "shard"),
            ("files", "start"),
            ("files", "size"),
        ),
    )
    text = nasty_text(rng).encode(errors="replace").decode()
    value = pick(
        rng, (None, -1, 0, 7, 2**62, -(2**62), 1.5, float("inf"), b"\xff\xfe", "1/0", "1e999999999", text)
    )
    database = sqlite3.connect(index)
    try:
        database.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        database.commit()
    except sqlite3.Error as error:
        return f"{table}.{column}: {error}"
    finally:
        database.close()
    return f"{table}.{column} is {str(value)[:40]!r}"


PACKS = {
    "a query without an end": "DROP TABLE files; CREATE VIEW files AS WITH RECURSIVE n(x) AS (SELECT 1 UNION"
    " ALL SELECT x + 1 FROM n) SELECT 'a/clip' AS folder, 'json' || x AS name, 1 AS shard, 0 AS start, 1 AS"
    " size FROM n;",
    "a computed column": "DROP TABLE about; CREATE TABLE about (key TEXT, value TEXT GENERATED"
    " ALWAYS AS (hex(zeroblob(50000000))) VIRTUAL); INSERT INTO about (key) VALUES ('shards');",
    "a shard outside": "UPDATE shards SET name = '../../canary/secret.txt';",
    "shards elsewhere": "UPDATE about SET value = '/proc/self' WHERE key = 'shards';"
    " UPDATE shards SET name = 'mem';",
    "no tables": "DROP TABLE files; DROP TABLE clips;",
    "a clip outside": "UPDATE clips SET name = '../../../canary' WHERE parent = 'a';"
    " UPDATE files SET folder = '../../../canary' WHERE folder LIKE 'a/%';",
    "more frames than a number takes": "UPDATE clips SET num_frames = 1 << 62;",
    "another format": "UPDATE about SET value = '999' WHERE key = 'format';",
}


def pack_with(script: str) -> Callable[..., None]:
    def make(rng: np.random.Generator, base: Path, folder: Path) -> None:
        database = sqlite3.connect(_pack(base, folder))
        database.executescript(script)
        database.commit()
        database.close()

    return make


FILES = ("landmarks.npy", "clip.json", "cropped_video.wav", "cropped_video.mp4")
MUST_REFUSE = {
    "an archive",
    "a pickle",
    "pickled objects",
    "objects in the right shape",
    "shape beyond memory",
}
RECIPES = [
    Recipe("clip: untouched", untouched, PROCESSED),
    Recipe("pack: untouched", packed, PROCESSED),
    *(
        Recipe(f"landmarks.npy: {name}", npy(content), REFUSED if name in MUST_REFUSE else "")
        for name, content in NPY.items()
    ),
    *(Recipe(f"clip.json: {name}", info_with(values)) for name, values in INFO.items()),
    *(Recipe(f"cropped_video.wav: {name}", wav(content)) for name, content in WAV.items()),
    *(
        Recipe(f"{name}: cut off at {tenths}/10", cut(name, tenths))
        for name in FILES
        for tenths in range(1, 10)
    ),
    *(Recipe(f"{name}: damaged", damaged(name)) for name in FILES for _ in range(6)),
    *(Recipe(f"{name}: bits of its head flipped", flipped(name, 128)) for name in FILES for _ in range(6)),
    *(Recipe(f"{name}: missing", without(name)) for name in FILES),
    *(Recipe(f"{name}: a folder", folder_for(name)) for name in FILES),
    *(Recipe("clip.json: another value", info) for _ in range(24)),
    *(Recipe(f"pack: {name}", pack_with(script)) for name, script in PACKS.items()),
    *(Recipe("pack: damaged", pack_damaged) for _ in range(12)),
    *(Recipe("pack: another cell", pack_cell) for _ in range(24)),
]


def exercise(folder: Path, output: Path) -> str:
    """Everything that reads prepared clips: windows, the audit, verify. Returns why it was refused, if so."""
    from loaders.audit.facts import measure_clip
    from loaders.batches.data_config import DataConfig
    from loaders.batches.windows import ClipDataset
    from loaders.listing import ListingConfig, select_clips
    from preprocess.verify import check_clip
    from tests.clip_factory import make_clip
    from utils.clip.files import read_clip_info
    from utils.clip.packed import walk
    from utils.errors import FrameworkError

    reasons: list[str] = []

    def attempt(work: Callable[[], object]) -> None:
        try:
            work()
        except FrameworkError as error:
            reasons.append(f"{type(error).__name__}: {error}")

    windows = DataConfig(window_s=0.4, windows_per_clip=2)
    released = DataConfig(window="released", windows_per_clip=1)
    places = [folder / CLIP]
    if (folder / "pack").is_dir():
        places = []
        attempt(
            lambda: places.extend(
                place for place, _, files in walk(folder / "pack") if "landmarks.npy" in files
            )
        )
        outside = [place for place in places if not place.resolve().is_relative_to(folder.resolve())]
        if outside:
            raise BrokenPromiseError(f"names a clip outside: {outside[0]}")
    for place in places:
        clip = make_clip(place)
        for config, training in ((windows, False), (windows, True), (released, False)):
            dataset = ClipDataset([clip], config, training=training)
            attempt(lambda dataset=dataset, draw=(0, 0) if training else 0: dataset[0, draw])
        attempt(lambda clip=clip: ClipDataset([clip], windows, training=False).evaluation_keys())
        attempt(lambda clip=clip: measure_clip(clip))
        attempt(lambda clip=clip: select_clips("test", folder, [clip], ListingConfig()))
        if place.is_dir():
            attempt(lambda place=place: read_clip_info(place))
            reasons += [f"{path.name}: {reason}" for path, reason in check_clip(place, deep=True)]
    for ran in ("PICKLE_RAN", "HEADER_RAN"):
        if Path(ran).exists():
            raise BrokenPromiseError(f"code in a file ran: {ran}")
    return reasons[0] if reasons else ""
