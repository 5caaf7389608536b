"""x-vectors: SpeechBrain's numbers, and which files they load."""

import sys

import numpy as np
import pytest
import torch

from models.backbones.xvector import BACKBONES, MEL_BANDS, SPEAKERS, TDNN, WIDTH
from preprocess.extract_features import main
from tests.clip_factory import write_clip_folder
from tests.parity.td3mf import fill
from utils.clip.features import open_rows, read_info
from utils.errors import CheckpointError, UsageError
from utils.files import file_sha256

NORM = {"weight", "bias", "running_mean", "running_var"}


def shapes():
    """Of embedding_model.ckpt, and of classifier.ckpt."""
    embedding, width = {}, MEL_BANDS
    for number, (out, kernel, _) in enumerate(TDNN):
        embedding |= {
            f"blocks.{3 * number}.conv.weight": (out, width, kernel),
            f"blocks.{3 * number}.conv.bias": (out,),
        }
        embedding |= {f"blocks.{3 * number + 2}.norm.{part}": (out,) for part in NORM}
        width = out
    embedding |= {"blocks.16.w.weight": (WIDTH, 2 * width), "blocks.16.w.bias": (WIDTH,)}
    classifier = {
        f"{norm}.{part}": (WIDTH,) for norm in ("norm.norm", "DNN.block_0.norm.norm") for part in NORM
    }
    classifier |= {"DNN.block_0.linear.w.weight": (WIDTH, WIDTH), "DNN.block_0.linear.w.bias": (WIDTH,)}
    classifier |= {"out.w.weight": (SPEAKERS, WIDTH), "out.w.bias": (SPEAKERS,)}
    return embedding, classifier


def published(*files):
    return {key: fill(key, shape, 5) for file in files for key, shape in file.items()}


def sounds():
    """(2, 16000): two tones that fade, and the same more softly after half a second of silence."""
    seconds = torch.arange(16_000, dtype=torch.float64) / 16_000
    tones = (2 * torch.pi * 440 * seconds).sin() + 0.5 * (2 * torch.pi * 2500 * seconds).sin()
    samples = torch.stack([0.4 * tones * (-3 * seconds).exp(), 0.02 * tones * (seconds > 0.5)])
    return samples.float()


def test_a_second_gives_speechbrains_numbers():
    """Version 1.1.2 with these weights and without its noise: the first four of a row, and its mean."""
    embedding, classifier = shapes()
    pieces = {name: backbone.make().eval() for name, backbone in BACKBONES.items()}
    pieces["xvector"].load_published(published(embedding), "embedding_model.ckpt")
    pieces["xvector_scores"].load_published(published(embedding, classifier), "both")
    kept = {
        "xvector": [
            [20.03245, 1.90543, 0.07762, 13.96467, -0.31292],
            [38.65697, -5.23692, 1.60586, 44.84389, -0.57502],
        ],
        "xvector_scores": [
            [-32.18031, -32.33966, -35.78836, -34.17242, -36.69355],
            [-66.89459, -80.11243, -87.23557, -71.46642, -85.38777],
        ],
    }
    with torch.inference_mode():
        for name, numbers in kept.items():
            rows = pieces[name](sounds())
            assert rows.shape == (2, 1, BACKBONES[name].width)
            found = [[*row[:4].tolist(), row.mean().item()] for row in rows[:, 0]]
            np.testing.assert_allclose(found, numbers, rtol=1e-5, atol=1e-4)
            exact, batch = pieces[name].double(), sounds().double()
            for sound, row in zip(batch, exact(batch), strict=True):  # a row does not depend on its batch
                torch.testing.assert_close(exact(sound[None])[0], row, rtol=1e-9, atol=1e-9)


def test_scores_come_from_two_files_of_weights(monkeypatch, tmp_path):
    embedding, classifier = shapes()
    folder, weights_dir = write_clip_folder(tmp_path / "set/clip", num_frames=30), tmp_path / "weights"
    weights_dir.mkdir()
    words = ["--data_root", tmp_path / "set", "--backbone", "xvector_scores", "--weights_dir", weights_dir]
    monkeypatch.setattr(sys, "argv", ["extract_features", "--batch_size", "1", *map(str, words)])
    torch.save(published(embedding), weights_dir / "embedding_model.ckpt")
    with pytest.raises(UsageError, match=r"classifier\.ckpt is missing: .*speechbrain.*Apache"):
        main()
    torch.save(published(classifier), weights_dir / "classifier.ckpt")
    assert main() == 0
    rows, info = (f(folder, "features/xvector_scores") for f in (open_rows, read_info))
    np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1, rtol=1e-4)
    assert info.weights == "embedding_model.ckpt, classifier.ckpt"
    digests = [file_sha256(weights_dir / name) for name in info.weights.split(", ")]
    assert info.weights_sha256 == ", ".join(digests)


def test_files_that_do_not_fit_are_refused():
    embedding, classifier = shapes()
    network = BACKBONES["xvector_scores"].make().network
    with pytest.raises(CheckpointError, match=r"(?s)half\.ckpt.*speakers\.1"):
        network.load_published(published(embedding), "half.ckpt")
    narrow = {key: value[:, :20] if key == "blocks.0.conv.weight" else value
              for key, value in published(embedding, classifier).items()}  # fmt: skip
    with pytest.raises(CheckpointError, match=r"(?s)narrow\.ckpt.*tdnn\.0\.weight"):
        network.load_published(narrow, "narrow.ckpt")
    with pytest.raises(CheckpointError, match=r"(?s)ecapa\.ckpt.*asp\.conv"):
        network.load_published(published(embedding, classifier, {"asp.conv.weight": (3, 3)}), "ecapa.ckpt")
