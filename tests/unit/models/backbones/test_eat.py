"""EAT: its arithmetic against a plain statement of it, its file, its spectrogram, its rows."""

import dataclasses
import math
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from models.backbones import eat
from models.backbones.data2vec import known_samples
from models.backbones.eat import FRAMES, EatEncoder, EatPieces, EatSize, eat_plan, spectrogram
from models.backbones.menu import BACKBONES
from preprocess import extract_features
from tests.clip_factory import write_clip_folder
from tests.parity.td3mf import fill
from tests.unit.models.backbones.data2vec_files import block_shapes, fairseq_file, torchs_block
from utils.checkpoint.foreign import read_foreign_weights
from utils.clip.features import open_rows, read_features, read_info
from utils.clip.files import find_audio
from utils.clip.sound import read_waveform
from utils.errors import CheckpointError

TINY = EatSize(16, 2, 2)
IMAGE = "modality_encoders.IMAGE."


def published_weights(size, seed=1, grid=(64, 8)):
    """A published state_dict with made-up numbers, the halves that are only for training included."""
    width = size.width
    shapes = {
        f"{IMAGE}extra_tokens": [1, 1, width],
        f"{IMAGE}local_encoder.proj.weight": [width, 1, 16, 16],
        f"{IMAGE}local_encoder.proj.bias": [width],
        f"{IMAGE}fixed_positional_encoder.positions": [1, grid[0] * grid[1], width],
        f"{IMAGE}context_encoder.norm.weight": [width],
        f"{IMAGE}context_encoder.norm.bias": [width],
        f"{IMAGE}decoder.blocks.0.0.weight": [width, 1, 3, 3],
        f"{IMAGE}decoder.blocks.0.0.bias": [width],
        f"{IMAGE}decoder.proj.weight": [width, width],
        f"{IMAGE}decoder.proj.bias": [width],
    }
    for block in range(size.depth):
        shapes |= block_shapes(f"blocks.{block}", width)
    return {key: fill(key, shape, seed) for key, shape in shapes.items()}


def position(time, band, width):
    """The fixed position of a patch, number by number."""
    numbers = []
    for place in (band, time):
        angles = [place / 10_000 ** (step / (width // 4)) for step in range(width // 4)]
        numbers += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return torch.tensor(numbers)


def plain_statement(weights, frames, size):
    """(N, E) tokens of (T, M) frames: patch by patch, then torch's layers."""
    kernel, offset = (weights[f"{IMAGE}local_encoder.proj.{part}"] for part in ("weight", "bias"))
    tokens = [weights[f"{IMAGE}extra_tokens"][0, 0]]
    for time in range(frames.shape[0] // 16):
        for band in range(frames.shape[1] // 16):
            patch = frames[16 * time : 16 * time + 16, 16 * band : 16 * band + 16]
            tokens.append((kernel[:, 0] * patch).sum(dim=(1, 2)) + offset + position(time, band, size.width))
    scale, shift = (weights[f"{IMAGE}context_encoder.norm.{part}"] for part in ("weight", "bias"))
    tokens = torch.nn.functional.layer_norm(torch.stack(tokens), [size.width], scale, shift, eps=1e-6)[None]
    for block in range(size.depth):
        tokens = torchs_block(weights, f"blocks.{block}", size.heads, 1e-6)(tokens)
    return tokens[0, 1:]


def tiny_encoder(seed=1):
    encoder = EatEncoder(TINY).eval()
    encoder.load_published(published_weights(TINY, seed), "eat.pt")
    return encoder


@pytest.fixture
def tiny(monkeypatch):
    """An EAT of two narrow blocks in place of the published size."""
    small = dataclasses.replace(
        BACKBONES["eat"], make=lambda: EatPieces(tiny_encoder()), width=8 * TINY.width, batch_size=2
    )
    monkeypatch.setitem(BACKBONES, "eat", small)
    return small


def test_tokens_are_those_of_a_plain_statement():
    encoder = EatEncoder(TINY, num_frames=64, num_bands=48).eval()
    weights = published_weights(TINY, grid=(4, 3))
    encoder.load_published(weights, "eat.pt")
    frames = torch.randn(2, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = encoder(frames)
    assert tokens.shape == (2, 12, 16)
    for found, clip in zip(tokens, frames, strict=True):
        torch.testing.assert_close(found, plain_statement(weights, clip, TINY), rtol=1e-5, atol=1e-5)


def test_tokens_are_those_of_the_published_modules():
    """Some numbers that data2vec 2.0's modules (of FunASR 1.4.16) made of the same weights and frames."""
    encoder = EatEncoder(TINY, num_frames=64, num_bands=48).eval()
    encoder.load_published(published_weights(TINY, grid=(4, 3)), "eat.pt")
    steps = torch.arange(64 * 48, dtype=torch.float64)
    with torch.inference_mode():
        tokens = encoder((0.37 * steps + 1e-5 * steps**2).sin().float().reshape(1, 64, 48))[0]
    kept = [
        [-0.281666, -2.09018, -1.502134, 1.225049, 0.627537, 0.859331],
        [0.165956, -1.618841, -1.740104, 1.036541, 0.97433, -0.138205],
    ]
    torch.testing.assert_close(tokens[[0, 11], :6], torch.tensor(kept), rtol=0, atol=2e-5)
    assert tokens.abs().sum().item() == pytest.approx(162.896604, rel=1e-5)


def test_the_published_size_has_its_parameters():
    """88 M by the release, with the decoder of its training and the fixed positions."""
    with torch.device("meta"):
        encoder = EatEncoder(eat.BASE)
    decoder = 6 * (768 * 48 * 9 + 768) + 768 * 768 + 768
    count = sum(value.numel() for value in (*encoder.parameters(), encoder.positions))
    assert count + decoder == 88_233_216


def test_a_published_file_is_read_and_its_moving_average_is_not(tmp_path):
    weights, path = published_weights(TINY), tmp_path / "EAT_pretrained_AS2M.pt"
    fairseq_file(path, weights)
    encoder = EatEncoder(TINY)
    encoder.load_published(read_foreign_weights(path), str(path))
    torch.testing.assert_close(encoder.blocks[1].mlp[2].weight.data, weights["blocks.1.mlp.fc2.weight"])
    torch.testing.assert_close(encoder.summary.data, weights[f"{IMAGE}extra_tokens"])
    torch.testing.assert_close(encoder.norm.bias.data, weights[f"{IMAGE}context_encoder.norm.bias"])


def test_a_file_that_does_not_fit_is_refused():
    encoder, weights = EatEncoder(TINY), published_weights(TINY)
    with pytest.raises(CheckpointError, match=r"(?s)x\.pt: not the weights of EatEncoder.*blocks\.2"):
        encoder.load_published(published_weights(TINY._replace(depth=3)), "x.pt")
    with pytest.raises(CheckpointError, match="fc_norm"):
        encoder.load_published(weights | {"fc_norm.weight": torch.ones(16)}, "x.pt")
    del weights[f"{IMAGE}extra_tokens"]
    with pytest.raises(CheckpointError, match="summary"):
        encoder.load_published(weights, "x.pt")


def kaldis_frame(samples):
    """Log mel energies of one window, step by step in float64."""
    samples = samples - samples.mean()
    samples = samples - 0.97 * np.concatenate([samples[:1], samples[:-1]])
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(400), 512)) ** 2
    mel = 1127 * np.log(1 + np.arange(256) * 16_000 / 512 / 700)
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 130)
    energies = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        weights = np.maximum(0, np.minimum((mel - low) / (middle - low), (high - mel) / (high - middle)))
        energies.append((weights * spectrum[:256]).sum())
    return np.log(np.maximum(energies, np.finfo(np.float32).eps))


def test_a_spectrogram_is_kaldis_and_ends_without_sound():
    """Of 10 s, 998 frames; the 26 others are 0 before they are normalised, as published."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(160_000) + 0.05
    frames = spectrogram(torch.from_numpy(samples).float(), FRAMES)
    assert frames.shape == (1024, 128)
    for number in (0, 1, 500, 997):
        expected = (kaldis_frame(samples[160 * number : 160 * number + 400]) + 4.268) / (2 * 4.569)
        np.testing.assert_allclose(frames[number], expected, atol=1e-4)
    torch.testing.assert_close(frames[998:], torch.full((26, 128), 4.268 / (2 * 4.569)))


@pytest.mark.parametrize(
    ("num_samples", "count"),
    [(0, 1), (100, 1), (16_000, 1), (160_000, 1), (164_239, 1), (164_240, 2), (480_000, 3)],
)
def test_pieces_follow_each_other_without_a_gap(num_samples, count):
    pieces, step_s, length_s, num_rows = eat_plan(Fraction(16_000), num_samples)
    assert pieces.tolist() == [[163_840 * number] for number in range(count)]
    assert num_rows == 64 * count
    assert 64 * step_s * 16_000 == 163_840
    assert length_s == Fraction(175, 1000)


def test_what_follows_a_clips_end_is_not_heard(tiny):
    """5 s of sound in a piece: what 2D3MF's release would make of it, but for the silence that it appends."""
    backbone, encoder = tiny, tiny.make()
    sound = torch.randn(80_000, generator=torch.Generator().manual_seed(1))
    piece = torch.full((backbone.piece_samples,), backbone.after_end)
    piece[:80_000] = sound
    with torch.inference_mode():
        rows = encoder(piece[None])[0]
        tokens = encoder.network(spectrogram(sound, FRAMES)[None])[0]
    assert rows.shape == (64, 8 * TINY.width)
    assert torch.equal(rows.reshape(512, TINY.width), tokens)
    with torch.inference_mode():
        assert torch.isfinite(encoder(torch.full_like(piece, torch.nan)[None])).all()


def test_a_piece_does_not_depend_on_its_batch(tiny):
    encoder = tiny.make()
    pieces = torch.randn(3, tiny.piece_samples, generator=torch.Generator().manual_seed(2))
    pieces[1, 50_000:] = torch.nan
    with torch.inference_mode():
        assert torch.equal(encoder(pieces)[1], encoder(pieces[[2, 1, 1]])[1])
        frames = torch.stack([spectrogram(known_samples(piece), FRAMES) for piece in pieces]).double()
        network = encoder.network.double()
        together, alone = network(frames), torch.cat([network(piece[None]) for piece in frames])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


def test_a_clip_is_extracted(monkeypatch, tmp_path, tiny):
    """10.4 s: a piece of 10.24 s, and one whose sound ends after 14 frames."""
    folder = write_clip_folder(tmp_path / "set/clip", num_frames=260, size=64)
    weights = tmp_path / "weights/EAT_pretrained_AS2M.pt"
    weights.parent.mkdir()
    fairseq_file(weights, published_weights(TINY, seed=7))
    words = ["--data_root", tmp_path / "set", "--backbone", "eat", "--device", "cpu", "--weights_dir"]
    monkeypatch.setattr(sys, "argv", ["extract_features", *map(str, words), str(weights.parent)])
    assert extract_features.main() == 0
    rows, info = (read(folder, "features/eat") for read in (open_rows, read_info))
    assert rows.shape == (128, 8 * TINY.width)
    assert (info.step_s, info.length_s, info.source) == ("4/25", "7/40", find_audio(folder).name)
    samples = torch.from_numpy(read_waveform(find_audio(folder), 16_000))
    encoder = tiny_encoder(seed=7)
    with torch.inference_mode():
        tokens = encoder(torch.stack([spectrogram(samples[:164_080], FRAMES),
                                      spectrogram(samples[163_840:], FRAMES)]))  # fmt: skip
    found = torch.from_numpy(rows.copy()).reshape(2, 512, TINY.width)
    torch.testing.assert_close(found, tokens, rtol=1e-4, atol=1e-5)
    assert np.array_equal(read_features(folder, "features/eat", 0.16, 0.48), rows[1:3])
