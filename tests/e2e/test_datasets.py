"""Every data set, from a small raw tree in its original layout to a tested checkpoint."""

import json
from collections import Counter

import pytest

from loaders import DATASETS
from loaders.batches.sliding import has_segments
from loaders.listing import ListingConfig
from preprocess.work.raw_layouts import SOURCES
from tests.commands import run_command
from tests.trees import TREES
from tests.trees.celebdf import write_celebdf_pp
from tests.trees.media import Media
from utils.config import Parser, from_args

RELEASES = TREES | {"celebdf_pp": write_celebdf_pp}  # and later releases that the same loader reads
TINY = (
    "--image_size 32 --video_channels 4 8 --audio_channels 8 8 8 --feature_dim 16 --feedforward_dim 16 "
    "--stream_layers 1 --classifier_hidden_dim 16 --window_s 0.4 --windows_per_clip 1 --batch_size 4 "
    "--num_workers 1 --epochs 1 --device cpu --val_fraction 0.25 --domain_clips 0"
).split()


def run(*command, status=0):
    result = run_command(*command)
    assert result.returncode == status, result.stderr[-3000:]
    return result


def test_every_data_set_has_a_tree_a_loader_and_a_source():
    folders_of_frames = {"frame_lists", "deepfakebench"}  # not prepared: tests/e2e/test_frame_folders.py
    assert set(TREES) == set(SOURCES) == set(DATASETS) - folders_of_frames


@pytest.mark.slow
@pytest.mark.parametrize("release", sorted(RELEASES))
def test_raw_prepare_train_test(release, tmp_path):
    tree = RELEASES[release](tmp_path / "raw", Media(seed=1, duration_s=0.44))
    name = tree.dataset
    prepared = tmp_path / "prepared"
    command = ["-m", "preprocess.prepare", "--dataset", name, "--source", tree.source, "--output", prepared]
    # in so short a video a face that is found some frames late is missing in much of it
    run(*command, "--num_workers", 1, "--min_face_fraction", 0.5, *tree.prepare_flags)

    config = from_args(
        ListingConfig, Parser("", {"listing": ListingConfig}).parse_args(list(tree.listing_flags))
    )
    listing = DATASETS[name](prepared, config)
    found = Counter((clip.split or "", clip.category, clip.method) for clip in listing.clips)
    assert found == tree.counts
    assert not listing.missing

    data = ["--dataset", name, "--data_root", prepared, *tree.listing_flags]
    fractions = [] if tree.has_own_split else ["--test_fraction", "0.25"]
    if tree.real_only:  # more reals for a training on another set; alone, it teaches nothing
        errors = run("train.py", *data, "--run_dir", tmp_path / "run", *TINY, *fractions, status=2).stderr
        assert f"the train split of {name} has one class only: {{0.0:" in errors
        return
    if tree.test_only:
        errors = run("train.py", *data, "--run_dir", tmp_path / "run", *TINY, *fractions, status=2).stderr
        assert f"{name} is for testing only" in errors
        assert not (tmp_path / "run").exists()
        fractions += ["--allow_test_only_training"]
        fractions += [] if tree.has_own_split else ["--split_source", "identity"]
    run("train.py", *data, "--run_dir", tmp_path / "run", *TINY, *fractions)
    run("test.py", "--checkpoint", tmp_path / "run/best.pt", *data, "--device", "cpu", "--report", "false")
    metrics = json.loads((tmp_path / "run/test_metrics.json").read_text())
    assert metrics["overall"]["num_fake"] > 0
    assert metrics["overall"]["num_real"] > 0
    for kind, (tested, in_others) in tree.overlap.items():
        found = metrics["protocol"]["overlaps"][kind]
        assert found["numbers"]["test"] == tested
        shared = [row["number"] for row in found["shared"] if "test" in row["parts"]]
        assert sum(shared) == in_others  # of train and validation, which share nobody
    assert set(metrics["intervals"]["clustered_by"].split("+")) <= set(listing.identity_is.split("+"))
    assert ("clip" in metrics.get("localisation", {})) == has_segments(listing.clips)
