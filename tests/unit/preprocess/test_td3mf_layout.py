"""preprocess.td3mf_layout: 2D3MF's folders, lists and names become clips that a run trains on."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest

import train
from loaders import DATASETS
from loaders.listing import ListingConfig
from preprocess import td3mf_layout
from preprocess.td3mf_layout import emotion_of, person_of
from tests.clip_factory import write_clip_folder
from utils.clip.features import check_features, open_rows, read_features, read_info
from utils.clip.files import VIDEO_NAME, find_audio
from utils.errors import DatasetError


@pytest.fixture
def source(tmp_path):
    """Eight actors of RAVDESS, each real and fake, 40 frames at 25 a second."""
    root = tmp_path / "2D3MF_Dataset/RAVDESS"
    shapes = {
        "marlin_vit_small_ytf": (2, 384),
        "resnet": (2, 512),
        "MFCC": (2, 10, 87),
        "xvectors": (2, 1, 7205),
    }
    for folder in ("cropped", "audio", *shapes, "eat"):
        (root / folder).mkdir(parents=True)
    parts = {"train": [], "val": [], "test": []}
    for number in range(16):
        name = f"01-01-05-01-02-01-{number // 2 + 1:02}-{number % 2}"
        clip = write_clip_folder(tmp_path / "clips" / name, num_frames=40, seed=number)
        shutil.move(clip / VIDEO_NAME, root / "cropped" / f"{name}.mp4")
        shutil.move(find_audio(clip), root / "audio" / f"{name}.wav")
        rng = np.random.default_rng(number)
        for folder, shape in shapes.items():
            np.save(root / folder / f"{name}.npy", rng.standard_normal(shape).astype(np.float32))
        tokens = np.arange(512 * 768, dtype=np.float32).reshape(512, 768)
        np.save(root / "eat" / f"{name}.npy", tokens)
        parts["train" if number < 8 else "val" if number < 12 else "test"].append(name)
    for part, names in parts.items():
        (root / f"{part}_resnet.txt").write_text("\n".join(names) + "\n")
    return root


def run(monkeypatch, source, output, lists="resnet"):
    words = ["--source", str(source), "--output", str(output), "--lists", lists]
    monkeypatch.setattr(sys, "argv", ["td3mf_layout", *words])
    return td3mf_layout.main()


def test_a_data_set_is_read_as_it_is_and_trained_on(monkeypatch, source, tmp_path):
    output = tmp_path / "prepared"
    assert run(monkeypatch, source, output) == 0
    listing = DATASETS["manifest"](output, ListingConfig())
    assert len(listing.clips) == 16
    assert {clip.split for clip in listing.clips} == {"train", "val", "test"}
    monkeypatch.chdir(source)
    assert run(monkeypatch, ".", tmp_path / "again") == 0
    assert (tmp_path / "again/manifest.csv").read_text() == (output / "manifest.csv").read_text()
    assert "emotion" in (output / "manifest.csv").read_text()
    assert sum(clip.label for clip in listing.clips) == 8
    assert len({clip.identity for clip in listing.clips}) == 8
    folder = listing.clips[0].folder
    name = folder.name
    assert (folder / VIDEO_NAME).samefile(source / "cropped" / f"{name}.mp4")
    for theirs, ours, width in (
        ("marlin_vit_small_ytf", "marlin_small", 384), ("resnet", "audio_resnet18", 512),
        ("MFCC", "mfcc", 870), ("xvectors", "xvector_scores", 7205),
    ):  # fmt: skip
        rows = open_rows(folder, f"features/{ours}")
        assert rows.shape == (2, width)
        np.testing.assert_array_equal(rows, np.load(source / theirs / f"{name}.npy").reshape(2, width))
        check_features(folder, f"features/{ours}", deep=True)
    assert read_info(folder, "features/marlin_small").step_s == "32/25"
    # eight bands of a time step lie in a row, so a reshape gives the tokens again
    tokens = open_rows(folder, "features/eat").reshape(512, 768)
    np.testing.assert_array_equal(tokens, np.load(source / "eat" / f"{name}.npy"))
    assert len(read_features(folder, "features/eat", 0.0, 1.6)) == 10
    flags = "--model td3mf --dataset manifest --hidden_dim 16 --epochs 1 --batch_size 4 --num_workers 0 "
    flags += "--audio_features audio_resnet18"
    flags += f" --device cpu --data_root {output} --run_dir {tmp_path / 'run'}"
    monkeypatch.setattr(sys, "argv", ["train.py", *flags.split()])
    assert train.main() == 0
    assert (tmp_path / "run/best.pt").is_file()


def test_what_is_missing_is_named_and_contradictions_are_refused(monkeypatch, source, tmp_path, caplog):
    next((source / "audio").iterdir()).unlink()
    assert run(monkeypatch, source, tmp_path / "prepared") == 1
    assert "missing" in caplog.text
    with pytest.raises(DatasetError, match="none of train_eat.txt"):
        run(monkeypatch, source, tmp_path / "other", "eat")
    with (source / "val_resnet.txt").open("a") as file:
        file.write("../../elsewhere-0\n")
    with pytest.raises(DatasetError, match="elsewhere-0 is no name that ends with"):
        run(monkeypatch, source, tmp_path / "other")
    with (source / "test_resnet.txt").open("a") as file:
        file.write((source / "train_resnet.txt").read_text().splitlines()[0])
    with pytest.raises(DatasetError, match="is also in the train part"):
        run(monkeypatch, source, tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "emotion"),
    [
        ("01-01-05-01-02-01-12-0", "angry"),
        ("01-02-01-01-02-01-12-1", "neutral"),
        ("01-01-08-01-02-01-03-0", "surprised"),
    ],
)
def test_emotions_by_names(name, emotion):
    assert emotion_of(name) == emotion


@pytest.mark.parametrize("name", ["01-01-09-01-02-01-12-0", "angry-0"])
def test_a_name_without_emotion_is_refused(name):
    with pytest.raises(DatasetError, match="no emotion of RAVDESS"):
        emotion_of(name)


@pytest.mark.parametrize(
    ("dataset", "name", "person"),
    [
        ("RAVDESS", "01-01-05-01-02-01-12-0", "12"),
        ("DeepfakeTIMIT", "fadg0-sa1-video-1", "fadg0"),
        ("FakeAVCeleb", "RealVideo-id00076-00109-0", "id00076"),
        ("DFDC", "abcdef-xyz-1", "abcdef"),
        ("Forensics++", "033_097-1", "033_097"),
    ],
)
def test_persons_by_names(dataset, name, person):
    assert person_of(dataset, name) == person
