"""AV-HuBERT: published files in all their forms, padding, modalities, and the rows of a clip."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loaders.batches.data_config import DataConfig
from loaders.batches.places import window_frames
from models.backbones.avhubert import (
    FIRST_KEY,
    PIECE_SAMPLES,
    ROW_SAMPLES,
    ROWS,
    SIZES,
    AvHubert,
    AvHubertPieces,
    mouth_plan,
    sound_plan,
)
from models.backbones.log_filterbank import LogFilterbank, as_16_bit, stack_rows
from models.backbones.wav2vec2_encoder import EncoderSize
from utils.checkpoint.foreign import read_foreign_weights
from utils.errors import CheckpointError

MINI = EncoderSize(
    feature_dim=16, num_layers=2, num_heads=4, feedforward_dim=32, norm_first=True, position_kernel=8,
    position_groups=4,
)  # fmt: skip
CHANNELS = (4, 4, 8, 8)
FAIRSEQ = {  # ours -> theirs
    "audio_projection.": "feature_extractor_audio.proj.",
    "video_encoder.": "feature_extractor_video.resnet.",
    "video_projection.": "feature_extractor_video.proj.",
    "fusion.0.": "layer_norm.",
    "fusion.1.": "post_extract_proj.",
}
TRANSFORMERS = {  # fairseq's -> theirs
    "pos_conv.0.": "pos_conv_embed.conv.",
    "self_attn_layer_norm": "layer_norm",
    "self_attn": "attention",
    "fc1": "feed_forward.intermediate_dense",
    "fc2": "feed_forward.output_dense",
}
NEWER = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def mini(**changes):
    """A small network with random weights, those of the norms and of batch statistics, too."""
    torch.manual_seed(0)
    network = AvHubert(dataclasses.replace(MINI, **changes), CHANNELS).eval()
    for value in network.state_dict().values():
        if value.dim() == 1:
            value.uniform_(0.5, 1.5)
    return network


def renamed(state, names, prefix=""):
    result = {}
    for key, value in state.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        result[prefix + key] = value
    return result


def published(network):
    """What fairseq saves of it after pretraining."""
    state = {}
    for key, value in network.state_dict().items():
        ours = next((name for name in FAIRSEQ if key.startswith(name)), "")
        state[FAIRSEQ.get(ours, "") + key.removeprefix(ours)] = value
    width = network.fusion[1].out_features
    extra = {"mask_emb": (104,), "final_proj.weight": (width, width), "final_proj.bias": (width,)}
    extra["label_embs_concat"] = (7, width)
    return state | {key: torch.rand(shape) for key, shape in extra.items()}


def signals(num_rows=5, batch=2):
    generator = torch.Generator().manual_seed(1)
    mouths = torch.randn(batch, 1, num_rows, 24, 24, generator=generator)
    sound = torch.randn(batch, num_rows, 104, generator=generator)
    return mouths, sound, torch.zeros(batch, num_rows, dtype=torch.bool)


def test_all_published_forms_give_the_same_features():
    network = mini()
    plain = published(network)
    of_speech = {"decoder.embed_tokens.weight": torch.rand(3, 4), "encoder.proj.bias": torch.rand(4)}
    head = {"lm_head.weight": torch.rand(3, 4), "model.decoder.layer_norm.weight": torch.rand(4)}
    forms = {
        "pretrained": plain,
        "newer PyTorch": renamed(plain, NEWER),
        "fine-tuned": of_speech | renamed(plain, {}, "encoder.w2v_model."),
        "transformers": renamed(plain, TRANSFORMERS),
        "transformers, fine-tuned": head | renamed(plain, TRANSFORMERS | NEWER, "model.encoder."),
        "transformers, of another project": head | renamed(plain, TRANSFORMERS | NEWER, "avhubert."),
    }
    expected = network(*signals())
    for name, state in forms.items():
        other = AvHubert(MINI, CHANNELS).eval()
        other.load_published(state, name)
        assert torch.equal(other(*signals()), expected), name


def test_a_file_that_does_not_fit_is_refused_by_name():
    plain = published(mini())
    cases = {
        "unknown": plain | {"encoder.layers.0.adapter.weight": torch.rand(2)},
        "encoder.layers.2": published(mini(num_layers=3)),
        "size mismatch": published(mini(feature_dim=32)),
        "encoder.layer_norm.bias": {k: v for k, v in plain.items() if k != "encoder.layer_norm.bias"},
        "audio_projection": {"head.weight": torch.rand(2)},
    }
    colour = plain | {"feature_extractor_video.resnet.frontend3D.0.weight": torch.rand(4, 3, 5, 7, 7)}
    for reason, state in {**cases, "frontend3D.0.weight": colour}.items():
        wanted = "adapter" if reason == "unknown" else reason
        with pytest.raises(CheckpointError, match=rf"(?s)other\.pt: .*{wanted}"):
            AvHubert(MINI, CHANNELS).load_published(state, "other.pt")


class Dictionary:
    """Something of fairseq's; running it would be noticed."""

    def __init__(self):
        self.symbols = ["a"]

    def __setstate__(self, state):
        raise AssertionError("a checkpoint has run code")


def test_fairseqs_objects_are_not_run_and_safetensors_are_read(tmp_path):
    network = mini()
    state = published(network)
    content = {
        "args": None,
        "cfg": {"model": {"_name": "av_hubert"}, "task": Dictionary()},
        "model": state,
        "optimizer_history": [{"num_updates": 3}],
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.rand(2)}}, "param_groups": [{"lr": 1.0}]},
        "task_state": {"dictionaries": [Dictionary()]},
    }
    torch.save(content, tmp_path / "base_vox_iter5.pt")
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors")
    for name in ("base_vox_iter5.pt", "model.safetensors"):
        other = AvHubert(MINI, CHANNELS).eval()
        other.load_published(read_foreign_weights(tmp_path / name), name)
        assert torch.equal(other(*signals()), network(*signals()))
    (tmp_path / "damaged.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="damaged.safetensors"):
        read_foreign_weights(tmp_path / "damaged.safetensors")


@pytest.mark.parametrize(("size", "millions"), [("base", 103), ("large", 325)])
def test_networks_have_the_number_of_parameters_of_the_paper(size, millions):
    with torch.device("meta"):
        network = AvHubert(SIZES[size])
    assert sum(value.numel() for value in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


def test_a_modality_that_is_not_given_is_zeros_before_the_fusion():
    network = mini()
    mouths, sound, mask = signals()
    both = network(mouths, sound, mask)
    for alone, projection in (((mouths, None), "audio_projection"), ((None, sound), "video_projection")):
        silenced = mini()
        for value in getattr(silenced, projection).parameters():
            value.data.zero_()
        features = network(*alone, mask)
        torch.testing.assert_close(features, silenced(mouths, sound, mask))
        assert (features - both).abs().max() > 1e-2


def test_rows_of_a_clip_do_not_depend_on_what_is_after_its_end():
    network = mini()
    mouths, sound, mask = signals(num_rows=9)
    mask[:, 6:] = True
    expected = network(mouths[:, :, :6], sound[:, :6], mask[:, :6])
    torch.testing.assert_close(network(mouths, sound, mask)[:, :6], expected)
    mouths[:, :, 6:], sound[:, 6:] = 7.0, -3.0
    torch.testing.assert_close(network(mouths, sound, mask)[:, :6], expected)


def piece_inputs(rows_left):
    generator = torch.Generator().manual_seed(2)
    mouths = torch.randint(0, 256, (len(rows_left), ROWS, 96, 96), dtype=torch.uint8, generator=generator)
    samples = 0.3 * torch.rand(len(rows_left), PIECE_SAMPLES, generator=generator) - 0.15
    return mouths, samples, torch.tensor(rows_left)


def test_a_pieces_features_do_not_depend_on_the_batch_or_on_rows_after_the_end():
    encoder = AvHubertPieces(mini(), sees=True, hears=True)
    mouths, samples, rows_left = piece_inputs([230, 41, 100])
    with torch.inference_mode():
        together = encoder(mouths, samples, rows_left)
        swapped = encoder(mouths[[0, 1, 0]], samples[[0, 1, 0]], rows_left[[0, 1, 0]])
        assert torch.equal(together[1], swapped[1])
        mouths[1, 41:], samples[1, 41 * ROW_SAMPLES :] = 200, 0.5
        torch.testing.assert_close(encoder(mouths, samples, rows_left)[1, :41], together[1, :41])
        middle = (mouths[1:2, None, :41, 4:92, 4:92].float() / 255 - 0.421) / 0.165
        rows, _ = LogFilterbank()(
            as_16_bit(samples[1:2, : 41 * ROW_SAMPLES]), torch.tensor([41 * ROW_SAMPLES])
        )
        sound = stack_rows(rows, 4, 41)
        expected = encoder.network(middle, sound, torch.zeros(1, 41, dtype=torch.bool))
    torch.testing.assert_close(together[1:2, :41], expected, rtol=1e-4, atol=1e-5)


def test_sound_of_pieces_is_that_of_the_whole_clip():
    """But for the first sample of a piece, which has none before it to be subtracted."""
    samples = torch.from_numpy(np.random.default_rng(0).uniform(-0.2, 0.2, 180 * ROW_SAMPLES)).float()
    plan = sound_plan(Fraction(16_000), len(samples))
    assert plan.pieces.tolist() == [[0], [64_000]]
    assert plan.num_rows == 180
    whole, _ = LogFilterbank()(as_16_bit(samples[None]), torch.tensor([len(samples)]))
    expected = stack_rows(whole, 4, 180)[0]
    pieces = torch.zeros(2, PIECE_SAMPLES)
    pieces[0] = samples[:PIECE_SAMPLES]
    pieces[1, : 80 * ROW_SAMPLES] = samples[64_000:]
    encoder = AvHubertPieces(mini(), sees=False, hears=True)
    rows = encoder._filterbank_rows(pieces, torch.tensor([180, 80])).flatten(0, 1)[:180]
    torch.testing.assert_close(rows[:100], expected[:100], rtol=0, atol=1e-4)
    torch.testing.assert_close(rows[101:], expected[101:], rtol=0, atol=1e-4)
    assert (rows[100] - expected[100]).abs().mean() < 0.02


@pytest.mark.parametrize(
    "fps", [Fraction(25), Fraction(30), Fraction(24), Fraction(30000, 1001), Fraction(10)]
)
def test_rows_show_the_frames_that_training_shows_at_25_per_second(fps):
    num_frames = 130
    plan = mouth_plan(fps, num_frames)
    config = DataConfig(window_s=60.0, video_fps=25.0)
    expected = window_frames(0, num_frames, fps, config)
    assert plan.num_rows == len(expected)
    frames = plan.pieces.flatten()
    np.testing.assert_array_equal(frames[: plan.num_rows], expected)
    assert plan.pieces.shape[1] == ROWS
    assert 0 <= len(frames) - plan.num_rows < ROWS
    assert frames.max() < num_frames
    assert plan.step_s == plan.length_s == Fraction(1, 25)


def test_a_short_clip_has_a_row():
    assert mouth_plan(Fraction(60), 1).num_rows == sound_plan(Fraction(16_000), 10).num_rows == 1
    assert FIRST_KEY in published(mini())
