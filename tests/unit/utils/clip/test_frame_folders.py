"""Folders of frames as crops."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from loaders.audit.facts import measure_clip
from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.batches.windows import ClipDataset
from tests.clip_factory import make_clip
from utils.clip.frame_folders import MAX_SIDE, frame_sizes, read_frame
from utils.clip.frames import read_frames, read_video_header
from utils.errors import ClipError, UsageError

SEES = frozenset({"video"})


def write(path, size=(40, 60), level=100):
    image = np.full((*size, 3), (level, 0, 200), np.uint8)
    cv2.imwrite(str(path), image)
    return path


def test_frames_of_any_size_come_in_order_as_rgb(tmp_path):
    write(tmp_path / "0.png", (40, 60), 10)
    write(tmp_path / "1.jpg", (300, 200), 20)
    names = ("0.png", "1.jpg")
    frames = read_frames(tmp_path / "x", np.array([0, 1]), names)
    assert frames.shape == (2, 224, 224, 3)
    assert frames[0, 0, 0].tolist() == [200, 0, 10]
    assert abs(frames[1].astype(int) - (200, 0, 20)).max() <= 3
    assert read_video_header(tmp_path / "x", names)[1] == 2
    assert frame_sizes(tmp_path, (*names, "2.png")).keys() == set(names)


def damaged(path, kind):
    if kind == "no image":
        path.write_bytes(b"hello")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut off":
        content = write(path, (200, 200)).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "GIF":
        path.write_bytes(b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0, 0, 0) + b";")
    elif kind == "huge":
        header = struct.pack(">IIBBBBB", MAX_SIDE + 1, 4, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        )


@pytest.mark.parametrize("kind", ["missing", "no image", "empty", "cut off", "GIF", "huge"])
def test_a_bad_frame_is_named_and_not_repaired(tmp_path, kind):
    write(tmp_path / "0.png")
    damaged(tmp_path / "1.png", kind)
    with pytest.raises(ClipError, match=r"1\.png"):
        read_frames(tmp_path / "x", np.array([0, 1]), ("0.png", "1.png"))


def test_a_cut_jpeg_is_named(tmp_path):
    content = write(tmp_path / "0.jpg", (200, 200)).read_bytes()
    (tmp_path / "0.jpg").write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(ClipError, match=r"0\.jpg"):
        read_frames(tmp_path / "x", np.array([0]), ("0.jpg",))


def test_a_store_that_is_none_is_named(tmp_path):
    (tmp_path / "a_lmdb").mkdir()
    (tmp_path / "a_lmdb/data.mdb").write_bytes(b"no store" * 1000)
    with pytest.raises(ClipError, match="not a readable LMDB store"):
        read_frame(tmp_path / "a_lmdb/a/frames/1", "0.png")


def test_workers_name_a_bad_frame(tmp_path):
    clips = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "0.png")
        clips.append(make_clip(tmp_path / name, frames=("0.png",)))
    (tmp_path / "b/0.png").write_bytes(b"")
    config, workers = DataConfig(frames_per_clip=2), WorkerConfig(batch_size=1, num_workers=1)
    batches = iter(evaluation_loader(clips, config, workers, inputs=SEES))
    assert next(batches).video.shape == (1, 3, 1, 224, 224)
    with pytest.raises(ClipError, match=r"b/0\.png"):
        next(batches)


def test_only_single_frames_are_taken_from_a_folder(tmp_path):
    clips = [make_clip(tmp_path, frames=("0.png",))]
    with pytest.raises(UsageError, match="only sees"):
        ClipDataset(clips, DataConfig(frames_per_clip=2), training=True)
    with pytest.raises(UsageError, match="--frames_per_clip"):
        ClipDataset(clips, DataConfig(), training=True, inputs=SEES)
    with pytest.raises(UsageError, match="the audit also measures"):
        measure_clip(clips[0])
