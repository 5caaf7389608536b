"""emotion2vec: its arithmetic against a plain statement of it, its file, its seconds and frames."""

import dataclasses
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.backbones import emotion2vec
from models.backbones.emotion2vec import (
    Emotion2vecEncoder,
    Emotion2vecSize,
    FramePieces,
    SecondPieces,
    alibi,
    frames_plan,
)
from models.backbones.menu import BACKBONES
from preprocess import extract_features
from tests.clip_factory import write_clip_folder
from tests.parity.td3mf import fill
from tests.unit.models.backbones.data2vec_files import block_shapes, fairseq_file, torchs_block
from utils.checkpoint.foreign import read_foreign_weights
from utils.clip.features import open_rows, read_info
from utils.clip.files import find_audio
from utils.clip.sound import read_waveform
from utils.errors import CheckpointError

TINY = Emotion2vecSize(width=48, first_depth=1, depth=2, heads=3, channels=8)
TINY_SLOPES = (2**-4, 2**-8, 2**-2)  # of two heads, and the first of four
AUDIO = "modality_encoders.AUDIO."
KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)


def published_weights(size, seed=1):
    """A published state_dict with made-up numbers, the half that is only for training included."""
    width, channels = size.width, size.channels
    shapes = {
        f"{AUDIO}extra_tokens": [1, 10, width],
        f"{AUDIO}alibi_scale": [1, 1, size.heads, 1, 1],
        f"{AUDIO}project_features.1.weight": [channels],
        f"{AUDIO}project_features.1.bias": [channels],
        f"{AUDIO}project_features.2.weight": [width, channels],
        f"{AUDIO}project_features.2.bias": [width],
        f"{AUDIO}context_encoder.norm.weight": [width],
        f"{AUDIO}context_encoder.norm.bias": [width],
        f"{AUDIO}decoder.blocks.0.0.weight": [32, width // 16, 7],
        f"{AUDIO}decoder.blocks.0.0.bias": [32],
        f"{AUDIO}decoder.proj.weight": [width, 32],
        f"{AUDIO}decoder.proj.bias": [width],
    }
    for layer, kernel in enumerate(KERNELS):
        name = f"{AUDIO}local_encoder.conv_layers.{layer}"
        shapes[f"{name}.0.weight"] = [channels, channels if layer else 1, kernel]
        shapes |= {f"{name}.2.1.{part}": [channels] for part in ("weight", "bias")}
    for layer in range(1, 6):
        shapes[f"{AUDIO}relative_positional_encoder.{layer}.0.weight"] = [width, width // 16, 19]
        shapes[f"{AUDIO}relative_positional_encoder.{layer}.0.bias"] = [width]
    for name in block_names(size):
        shapes |= block_shapes(name, width)
    return {key: fill(key, shape, seed) for key, shape in shapes.items()}


def block_names(size):
    first = [f"{AUDIO}context_encoder.blocks.{block}" for block in range(size.first_depth)]
    return [*first, *(f"blocks.{block}" for block in range(size.depth))]


def distances(num_tokens, slopes, scale):
    """(H, N, N): what is added to the attention, pair by pair."""
    bias = torch.zeros(len(slopes), num_tokens, num_tokens)
    for head, slope in enumerate(slopes):
        for query in range(10, num_tokens):
            for key in range(10, num_tokens):
                bias[head, query, key] = -abs(query - key) * slope * max(scale[head].item(), 0)
    return bias


def plain_statement(weights, samples, size):
    """(T, E) frames of (N,) normalised samples: the published keys in the order of their use."""
    own = {key.removeprefix(AUDIO): value for key, value in weights.items()}

    def norm(tokens, name=None):
        affine = [own[f"{name}.{part}"] for part in ("weight", "bias")] if name else []
        return F.layer_norm(tokens, tokens.shape[-1:], *affine)

    channels = samples[None]
    for layer, stride in enumerate(STRIDES):
        name = f"local_encoder.conv_layers.{layer}"
        windows = channels.unfold(1, KERNELS[layer], stride)  # (C, T, K)
        channels = torch.einsum("ctk,ock->to", windows, own[f"{name}.0.weight"])
        channels = F.gelu(norm(channels, f"{name}.2.1")).T
    frames = norm(channels.T, "project_features.1")
    frames = frames @ own["project_features.2.weight"].T + own["project_features.2.bias"]
    place = frames
    for layer in range(1, 6):
        name = f"relative_positional_encoder.{layer}.0"
        kernels = own[f"{name}.weight"].unflatten(0, (16, -1))  # (G, O, C / G, K)
        windows = F.pad(place.T, (9, 9)).unfold(1, 19, 1).unflatten(0, (16, -1))  # (G, C / G, T, K)
        place = torch.einsum("gctk,gock->tgo", windows, kernels).flatten(1) + own[f"{name}.bias"]
        place = F.gelu(norm(place))
    tokens = norm(torch.cat([own["extra_tokens"][0], frames + place]), "context_encoder.norm")[None]
    bias = distances(tokens.shape[1], TINY_SLOPES, own["alibi_scale"][0, 0, :, 0, 0])
    for name in block_names(size):
        tokens = torchs_block(weights, name, size.heads, 1e-5)(tokens, src_mask=bias)
    return tokens[0, 10:]


def tiny_encoder(seed=1):
    encoder = Emotion2vecEncoder(TINY).eval()
    encoder.load_published(published_weights(TINY, seed), "emotion2vec.pt")
    return encoder


@pytest.fixture
def tiny(monkeypatch):
    """Encoders of three narrow blocks in place of the published size."""
    small = {}
    for name, pieces in (("emotion2vec", SecondPieces), ("emotion2vec_frames", FramePieces)):
        small[name] = dataclasses.replace(
            BACKBONES[name], make=lambda kind=pieces: kind(tiny_encoder()), width=TINY.width
        )
        monkeypatch.setitem(BACKBONES, name, small[name])
    return small


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_frames_are_those_of_a_plain_statement():
    weights = published_weights(TINY)
    assert weights[f"{AUDIO}alibi_scale"].min() < 0  # one that counts as 0
    samples = noise(2, 6000)
    with torch.inference_mode():
        frames = tiny_encoder()(samples)
    assert frames.shape == (2, 18, 48)
    for found, clip in zip(frames, samples, strict=True):
        torch.testing.assert_close(found, plain_statement(weights, clip, TINY), rtol=1e-4, atol=1e-4)


def test_frames_are_those_of_the_published_modules():
    """Some numbers that FunASR 1.4.16 made of the same weights, loaded strictly, and the same sound."""
    steps = torch.arange(6000, dtype=torch.float64)
    with torch.inference_mode():
        frames = tiny_encoder()((0.05 * steps + 1e-5 * steps**2).sin().float()[None])[0]
    kept = [
        [0.330828, 0.89204, 1.329362, 1.945604, 0.175165, -1.996922],
        [0.085008, 0.520617, 1.44646, 2.001848, 0.415428, -1.728376],
    ]
    torch.testing.assert_close(frames[[0, 17], :6], torch.tensor(kept), rtol=0, atol=2e-5)
    assert frames.abs().sum().item() == pytest.approx(692.505135, rel=1e-5)


def test_slopes_of_twelve_heads_are_those_of_eight_and_every_other_of_sixteen():
    bias = alibi(2, torch.ones(12))
    assert bias.shape == (1, 12, 12, 12)
    slopes = [2.0**-power for power in range(1, 9)] + [2.0**-power for power in (0.5, 1.5, 2.5, 3.5)]
    torch.testing.assert_close(-bias[0, :, 10, 11], torch.tensor(slopes))
    assert not bias[..., :10].any()
    assert not bias[..., :10, :].any()


def test_the_published_size_has_its_parameters():
    """93.79 M by the paper, with the decoder of its training."""
    with torch.device("meta"):
        encoder = Emotion2vecEncoder(emotion2vec.BASE)
    decoder = 384 * 48 * 7 + 3 * 384 * 24 * 7 + 4 * 384 + 384 * 768 + 768
    assert sum(value.numel() for value in encoder.parameters()) + decoder == 93_790_988


def test_a_published_file_is_read_and_another_is_refused(tmp_path):
    weights, path = published_weights(TINY), tmp_path / "emotion2vec_base.pt"
    fairseq_file(path, weights)
    encoder = Emotion2vecEncoder(TINY)
    encoder.load_published(read_foreign_weights(path), str(path))
    theirs = "context_encoder.blocks.0.mlp.fc1.weight"
    torch.testing.assert_close(encoder.first_blocks[0].mlp[0].weight.data, weights[AUDIO + theirs])
    theirs = "relative_positional_encoder.5.0.bias"
    torch.testing.assert_close(encoder.positions[4].conv.bias.data, weights[AUDIO + theirs])
    with pytest.raises(CheckpointError, match=r"(?s)x\.pt: not the weights of Emotion2vecEncoder.*proj\."):
        encoder.load_published(weights | {"proj.weight": torch.ones(9, 48)}, "x.pt")
    del weights[f"{AUDIO}alibi_scale"]
    with pytest.raises(CheckpointError, match="alibi_scale"):
        encoder.load_published(weights, "x.pt")


def test_a_second_is_the_mean_of_its_frames_whatever_is_in_its_batch(tiny):
    encoder = tiny["emotion2vec"].make()
    seconds = noise(3, 16_000) * torch.tensor([[1.0], [0.01], [0.3]]) + 0.1
    with torch.inference_mode():
        rows, others = encoder(seconds), encoder(seconds[[1, 0, 1]])
        normed = (seconds[1] - seconds[1].mean()) / (seconds[1].var(unbiased=False) + 1e-5).sqrt()
        expected = encoder.network(normed[None])[0].mean(dim=0)
    assert rows.shape == (3, 1, 48)
    assert torch.equal(rows[0], others[1])
    torch.testing.assert_close(rows[1, 0], expected, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        assert torch.isfinite(encoder(torch.zeros(1, 16_000))).all()


@pytest.mark.parametrize("num_samples", [0, 399, 400, 719, 720, 16_000, 320_079, 320_080, 320_400, 700_000])
def test_there_is_a_row_for_each_frame(num_samples):
    pieces, step_s, length_s, num_rows = frames_plan(Fraction(16_000), num_samples)
    length = max(num_samples, 400)
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        length = (length - kernel) // stride + 1
    assert num_rows == length
    assert pieces.tolist() == [[320_000 * number] for number in range(-(-length // 1000))]
    assert (step_s, length_s) == (Fraction(1, 50), Fraction(1, 40))


def test_frames_end_with_the_clip(tiny):
    """20.1 s: of the second piece, what the network makes of the rest without anything after it."""
    backbone = tiny["emotion2vec_frames"]
    encoder, sound = backbone.make(), noise(321_600)
    pieces = torch.full((2, backbone.piece_samples), torch.nan)
    pieces[0], pieces[1, :1600] = sound[:320_080], sound[320_000:]
    with torch.inference_mode():
        rows = encoder(pieces)
        rest = encoder.network(F.layer_norm(sound[320_000:], (1600,))[None])[0]
    assert rows.shape == (2, 1000, 48)
    assert backbone.plan(Fraction(16_000), 321_600).num_rows == 1000 + len(rest)
    assert torch.equal(rows[1, : len(rest)], rest)
    assert rows[0].abs().min(dim=1).values.max() > 0


def test_clips_are_extracted(monkeypatch, tmp_path, tiny):
    """2.4 s: two seconds, and 119 frames of 25 ms."""
    folder = write_clip_folder(tmp_path / "set/clip", num_frames=60)
    weights = tmp_path / "weights/emotion2vec_base.pt"
    weights.parent.mkdir()
    fairseq_file(weights, published_weights(TINY, seed=7))
    samples = torch.from_numpy(read_waveform(find_audio(folder), 16_000))
    found = {}
    for name in ("emotion2vec", "emotion2vec_frames"):
        words = ["--data_root", tmp_path / "set", "--backbone", name, "--device", "cpu", "--weights_dir"]
        monkeypatch.setattr(sys, "argv", ["extract_features", *map(str, words), str(weights.parent)])
        assert extract_features.main() == 0
        found[name] = np.array(open_rows(folder, f"features/{name}"))
    info = read_info(folder, "features/emotion2vec_frames")
    assert (info.step_s, info.length_s, info.weights) == ("1/50", "1/40", weights.name)
    encoder = tiny_encoder(seed=7)
    with torch.inference_mode():
        frames = encoder(F.layer_norm(samples, samples.shape)[None])[0]
        second = encoder(F.layer_norm(samples[16_000:32_000], (16_000,))[None])[0].mean(dim=0)
    assert found["emotion2vec"].shape == (2, 48)
    assert found["emotion2vec_frames"].shape == (119, 48)
    torch.testing.assert_close(torch.from_numpy(found["emotion2vec_frames"]), frames, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(found["emotion2vec"][1]), second, rtol=1e-4, atol=1e-5)
