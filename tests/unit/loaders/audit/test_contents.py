"""Leaks between clips that no clip.json describes, as other tools prepare them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile

from loaders.audit.leaks import require_no_leak
from loaders.listing import Listing
from tests.clip_factory import make_clip, write_clip_folder
from tests.commands import run_command
from tests.unit.loaders.audit.test_audit import split_of, write_info
from utils.clip.files import VIDEO_NAME
from utils.errors import DatasetError
from utils.files import file_sha256


def listing_of(root, *parts):
    """A person of its own for each folder a, b, ... of `root`, and the parts they are in."""
    names = [name for name, _ in zip("abcdef", parts, strict=False)]
    clips = [
        make_clip(root / name, identity=f"test/{name}", target_id=f"test/{name}", pair_key=f"test/{name}")
        for name in names
    ]
    listing = Listing("test", clips)
    return listing, split_of(listing, *parts)


@pytest.fixture
def folders(tmp_path):
    for seed, name in enumerate("abc"):
        write_clip_folder(tmp_path / name, num_frames=8 + seed, seed=seed)
    return tmp_path


def copy(file, target):
    target.unlink()
    shutil.copyfile(file, target)


def test_a_picture_under_two_names_stops_a_training(folders):
    require_no_leak(*listing_of(folders, "train", "val", "test"))
    copy(folders / "a" / VIDEO_NAME, folders / "c" / VIDEO_NAME)
    require_no_leak(*listing_of(folders, "train", "val", "train"))
    require_no_leak(*listing_of(folders, "train", "val", None))
    with pytest.raises(DatasetError, match="same cropped picture, byte for byte.*test/c.*test/a"):
        require_no_leak(*listing_of(folders, "train", "val", "test"))


def test_a_sound_under_two_names_stops_a_training_unless_it_is_silence(folders):
    for name in "ac":
        (folders / name / "cropped_video.wav").unlink()
    for level in (0.0, 0.1):
        samples = level * np.random.default_rng(0).uniform(-1, 1, 16_000)
        for name in "ac":  # other tools call it audio.wav
            soundfile.write(folders / name / "audio.wav", samples, 16_000, subtype="PCM_16")
        if not level:
            require_no_leak(*listing_of(folders, "train", "val", "test"))
    with pytest.raises(DatasetError, match="same extracted sound, byte for byte"):
        require_no_leak(*listing_of(folders, "train", "val", "test"))


def test_a_clip_with_clip_json_is_compared_with_one_without(folders):
    copy(folders / "a" / VIDEO_NAME, folders / "b" / VIDEO_NAME)
    write_info(folders / "a", files={VIDEO_NAME: file_sha256(folders / "a" / VIDEO_NAME)})
    with pytest.raises(DatasetError, match="same cropped picture, byte for byte"):
        require_no_leak(*listing_of(folders, "train", "test"))


def test_files_of_one_size_and_beginning_that_differ_later_are_no_leak(folders):
    for name, last in zip("ab", (b"1", b"2"), strict=True):
        (folders / name / VIDEO_NAME).write_bytes(bytes(100_000) + last)
    require_no_leak(*listing_of(folders, "train", "test"))


def test_only_files_that_could_be_equal_are_read(folders, monkeypatch):
    read = []
    monkeypatch.setattr("loaders.audit.contents.file_sha256", lambda path: read.append(path) or "5" * 64)
    require_no_leak(*listing_of(folders, "train", "val", "test"))
    assert read == []


@pytest.mark.parametrize("frames", ["video", "rgb"])
def test_packed_clips_are_compared_too(folders, tmp_path_factory, frames):
    copy(folders / "a" / VIDEO_NAME, folders / "b" / VIDEO_NAME)
    for name in ("landmarks.npy", "cropped_video.wav"):
        copy(folders / "a" / name, folders / "b" / name)
    pack = tmp_path_factory.mktemp("packed") / "pack"
    command = ("-m", "preprocess.pack", "--data_root", folders, "--output", pack, "--frames", frames)
    assert run_command(*command).returncode == 0
    require_no_leak(*listing_of(pack, "train", "train", "test"))
    with pytest.raises(DatasetError, match="same cropped picture.*same extracted sound"):
        require_no_leak(*listing_of(pack, "train", "test", "test"))
