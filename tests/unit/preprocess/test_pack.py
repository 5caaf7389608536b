"""A packed data set is the prepared one: the same clips, windows and tensors, out of a few files."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from loaders import DATASETS
from loaders.audit.facts import measure_clip
from loaders.audit.leaks import require_no_leak
from loaders.batches.collate import Collate
from loaders.batches.data_config import DataConfig
from loaders.batches.windows import ClipDataset
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig
from loaders.splits.files import make_split
from models.beyond_masking.video import VideoFrontEnd
from preprocess import pack
from preprocess.work.batch import clip_folders
from tests.clip_factory import make_clip, write_clip_folder, write_fakeavceleb_tree
from tests.commands import run_command
from tests.hostile_media import write_growing
from tests.trees import TREES
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty
from utils.clip.files import LANDMARKS_NAME, VIDEO_NAME, find_audio, read_info_values
from utils.clip.packed import Pack
from utils.config import Parser, from_args
from utils.errors import ClipError, DatasetError, UsageError
from utils.files import locked_folder

NUM_CLIPS = 24


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = write_fakeavceleb_tree(tmp_path_factory.mktemp("prepared"), num_identities=6, num_frames=30)
    first = next(root.glob("RealVideo-RealAudio/*/*/*/*"))
    find_audio(first).rename(first / "audio.wav")  # as other tools call it
    return root


def pack_command(*flags):
    return run_command("-m", "preprocess.pack", *flags)


@pytest.fixture(scope="module", params=["video", "rgb", "equalized", "remote"])
def packed(request, prepared, tmp_path_factory):
    """(kind of frames, folder of the pack)."""
    root = tmp_path_factory.mktemp("packed")
    flags = ["--frames", "video" if request.param == "remote" else request.param, "--shard_mb", 1]
    if request.param == "remote":
        flags += ["--shards", f"file://{tmp_path_factory.mktemp('elsewhere')}/shards"]
    done = pack_command("--data_root", prepared, "--output", root / "pack", *flags)
    assert done.returncode == 0, done.stderr
    return request.param, root / "pack"


def relative(clip, root):
    return dataclasses.replace(clip, place=str(clip.folder.relative_to(root)))


def test_the_listing_and_the_split_are_the_same(prepared, packed):
    _, root = packed
    plain, ours = (DATASETS["fakeavceleb"](place, ListingConfig()) for place in (prepared, root))
    assert len(ours.clips) == NUM_CLIPS
    assert not any(clip.folder.exists() for clip in ours.clips)
    assert [relative(clip, root) for clip in ours.clips] == [relative(clip, prepared) for clip in plain.clips]
    split = make_split(ours, SplitConfig())
    assert split.split_of == make_split(plain, SplitConfig()).split_of
    require_no_leak(ours, split)


@pytest.mark.parametrize("training", [False, True])
def test_tensors_are_the_same(prepared, packed, training):
    kind, root = packed
    config = DataConfig(window_s=0.4)
    plain, ours = (
        ClipDataset(DATASETS["fakeavceleb"](place, ListingConfig()).clips, config, training=training, seed=5)
        for place in (prepared, root)
    )
    assert ours.evaluation_keys() == plain.evaluation_keys()
    draws = [(0, 0), (3, 1)] if training else [0, 2]
    for key in [(index, draw) for index in (0, 5, NUM_CLIPS - 1) for draw in draws]:
        expected, window = plain[key], ours[key]
        for field in dataclasses.fields(window):
            if kind == "equalized" and field.name in ("video", "is_equalized"):
                continue
            one, other = getattr(window, field.name), getattr(expected, field.name)
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, field.name
        front_end = VideoFrontEnd(32, equalize=True, kinetics_normalization=False)
        batches = [Collate(config.video_fps)([item]) for item in (expected, window)]
        frames = [front_end(batch.video, is_equalized=batch.is_equalized) for batch in batches]
        assert torch.equal(*frames)
        assert batches[1].is_equalized == (kind == "equalized")


def test_facts_of_the_audit_are_the_same_where_the_crop_is_packed(prepared, packed):
    kind, root = packed
    if kind in ("rgb", "equalized"):
        clip = DATASETS["fakeavceleb"](root, ListingConfig()).clips[3]
        assert np.isnan(measure_clip(clip).numbers["crop_bit_rate"])
        return
    for index in (0, 7):
        plain, ours = (
            measure_clip(DATASETS["fakeavceleb"](place, ListingConfig()).clips[index])
            for place in (prepared, root)
        )
        assert ours.numbers == pytest.approx(plain.numbers, nan_ok=True)
        assert ours.checksums == plain.checksums


def test_webdataset_reads_the_shards(prepared, packed):
    kind, root = packed
    place = Pack(root).about["shards"].removeprefix("file://") or root
    shards = sorted(Path(place).glob("shard-*.tar"))
    assert len(shards) > 1
    samples = list(webdataset.WebDataset([str(path) for path in shards], shardshuffle=False).decode())
    assert len(samples) == NUM_CLIPS
    for sample in samples[:3]:
        folder = prepared / sample["__key__"]
        np.testing.assert_array_equal(sample["landmarks.npy"], np.load(folder / LANDMARKS_NAME))
        if kind == "rgb":
            assert sample["frames.npy"].shape == (30, 64, 64, 3)


def test_equalised_frames_are_refused_where_plain_ones_are_wanted(packed):
    kind, root = packed
    clips = DATASETS["fakeavceleb"](root, ListingConfig()).clips
    dataset = ClipDataset(clips, DataConfig(window_s=0.4, augment=True), training=True)
    if kind != "equalized":
        dataset[0, (0, 0)]
        return
    with pytest.raises(UsageError, match="--augment.*packed equalised"):
        dataset[0, (0, 0)]
    front_end = VideoFrontEnd(32, equalize=False, kinetics_normalization=False)
    with pytest.raises(UsageError, match="--equalize_luma"):
        front_end(torch.zeros(1, 3, 2, 32, 32, dtype=torch.uint8), is_equalized=True)


def test_one_batch_is_equalised_or_not(prepared, packed):
    kind, root = packed
    plain, ours = (
        ClipDataset(
            DATASETS["fakeavceleb"](place, ListingConfig()).clips, DataConfig(window_s=0.4), training=False
        )
        for place in (prepared, root)
    )
    both = [plain[0, 0], ours[0, 0]]
    if kind == "equalized":
        with pytest.raises(ClipError, match="packed equalised; pack all"):
            Collate(25.0)(both)
    else:
        Collate(25.0)(both)


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_data_set_is_found_in_its_pack(tmp_path, name):
    tree = TREES[name](tmp_path / "raw", EmptyFiles())
    root = prepare_empty(tree, tmp_path / "prepared")
    clip = write_clip_folder(tmp_path / "clip", num_frames=12, size=32)
    for folder in clip_folders(root):
        for file in clip.iterdir():
            shutil.copyfile(file, folder / file.name)
    config = pack.PackConfig(data_root=root, output=tmp_path / "pack")
    (tmp_path / "pack/.partial").mkdir(parents=True)
    found = pack.read_tree(config)
    shards = pack.plan_shards(found.clips, config)
    for shard in shards:
        pack.write_shard(shard, config)
    pack.copy_metadata(found, config)
    pack.write_index(config, shards)
    listing_config = from_args(
        ListingConfig, Parser("", {"listing": ListingConfig}).parse_args(list(tree.listing_flags))
    )
    plain, ours = (DATASETS[name](place, listing_config).clips for place in (root, tmp_path / "pack"))
    assert [relative(clip, tmp_path / "pack") for clip in ours] == [relative(clip, root) for clip in plain]
    assert ClipDataset(ours, DataConfig(window_s=0.4), training=False)[len(ours) - 1, 0].video.shape[0] == 10


def test_a_clip_that_is_damaged_is_left_out_and_named(tmp_path):
    for name in ("a", "b.v2", "c"):
        write_clip_folder(tmp_path / "prepared" / "real" / name, num_frames=12)
        write_clip_folder(tmp_path / "prepared" / "fake" / name, num_frames=12)
    broken = tmp_path / "prepared" / "fake" / "b.v2" / VIDEO_NAME
    broken.write_bytes(broken.read_bytes()[:700])
    done = pack_command(
        "--data_root", tmp_path / "prepared", "--output", tmp_path / "pack", "--frames", "rgb"
    )
    assert done.returncode == 1
    assert "fake/b.v2," in (tmp_path / "pack" / "pack_failures.csv").read_text()
    clips = DATASETS["manifest"](tmp_path / "pack", ListingConfig()).clips
    assert len(clips) == 5
    dataset = ClipDataset(clips, DataConfig(window_s=0.4), training=False)
    assert all(len(dataset[index, 0].video) == 10 for index in range(5))
    again = pack_command("--data_root", tmp_path / "prepared", "--output", tmp_path / "pack")
    assert again.returncode == 2
    assert "already holds a pack" in again.stderr


def test_a_clip_on_which_the_decoder_hangs_costs_itself_alone(tmp_path):
    """Its pictures take half a second each; three seconds are allowed, as a new process needs some."""
    for name in "abcd":
        write_clip_folder(tmp_path / "in/real" / name, num_frames=20, seed=ord(name))
    slow = tmp_path / "in/real/b"
    write_growing(slow / VIDEO_NAME, (6000, 6000), (6000, 6000), num_frames=20)
    flags = ("--data_root", tmp_path / "in", "--output", tmp_path / "pack", "--frames", "rgb")
    done = pack_command(*flags, "--num_workers", 1, "--clip_timeout_s", 3)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = (tmp_path / "pack" / "pack_failures.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["path", "real/b"]
    assert "took longer" in lines[1]
    assert sorted(Pack(tmp_path / "pack").clips_in(tmp_path / "pack/real")) == ["a", "c", "d"]


def test_an_interrupted_run_goes_on_with_the_next_shard(prepared, tmp_path):
    config = pack.PackConfig(data_root=prepared, output=tmp_path / "pack", shard_mb=1)
    shards = pack.plan_shards(pack.read_tree(config).clips, config)
    (tmp_path / "pack" / ".partial").mkdir(parents=True)
    pack.write_shard(shards[0], config)
    before = (tmp_path / "pack" / shards[0].name).stat().st_mtime_ns
    (tmp_path / "pack" / ".partial" / shards[1].name).write_bytes(b"half a shard")
    flags = ("--data_root", prepared, "--shard_mb", 1)
    assert pack_command(*flags, "--output", tmp_path / "pack").returncode == 0
    assert (tmp_path / "pack" / shards[0].name).stat().st_mtime_ns == before
    assert pack_command(*flags, "--output", tmp_path / "whole", "--num_workers", 1).returncode == 0
    for shard in shards:  # the same input, the same bytes
        assert (tmp_path / "pack" / shard.name).read_bytes() == (tmp_path / "whole" / shard.name).read_bytes()


@pytest.mark.parametrize("shared", ["--output", "--shards"])
def test_two_packs_do_not_write_into_one_folder(prepared, tmp_path, shared):
    folders = {"--output": tmp_path / "pack", "--shards": tmp_path / "shards"}
    with locked_folder(folders[shared]):  # as the first one holds it
        words = ("-m", "preprocess.pack", "--data_root", prepared, *sum(folders.items(), ()))
        second = run_command(*words)
    assert second.returncode == 2
    owner = rf"process {os.getpid()} on \S+"
    told = rf"error: {folders[shared]} is in use by {owner}: wait for it, or choose another {shared}\n"
    assert re.fullmatch(told, second.stderr)
    assert list(tmp_path.glob("*/*.tar")) == []


def test_a_pack_without_its_shard_says_so(prepared, tmp_path):
    pack_command("--data_root", prepared, "--output", tmp_path / "pack", "--shard_mb", 1)
    clips = DATASETS["fakeavceleb"](tmp_path / "pack", ListingConfig()).clips
    (tmp_path / "pack" / "shard-000000.tar").unlink()
    dataset = ClipDataset(clips, DataConfig(window_s=0.4), training=False)
    in_first = next(
        index for index, clip in enumerate(clips) if clip.folder.parts[-5] == "FakeVideo-FakeAudio"
    )
    with pytest.raises(DatasetError, match="shard-000000.tar: a shard of the pack cannot be read"):
        dataset[in_first, 0]


def test_a_plain_clip_is_read_as_before(tmp_path):
    clip = make_clip(write_clip_folder(tmp_path / "clip", num_frames=30))
    assert read_info_values(clip.folder) == {}
    assert not ClipDataset([clip], DataConfig(window_s=0.4), training=False)[0, 0].is_equalized
