"""Speech encoders: what torchaudio's pipelines give, row by row, and which files they load."""

from fractions import Fraction

import pytest
import torch
from torchaudio import pipelines
from torchaudio.pipelines._wav2vec2.utils import _extend_model, _get_model

from models.backbones import speech
from models.backbones.speech import PIECE_ROWS, PIECE_SAMPLES, ROW_STEP, SpeechPieces, speech_plan
from tests.small_backbones import small_speech_network
from utils.errors import CheckpointError

BUNDLES = {
    "wav2vec2_base": pipelines.WAV2VEC2_BASE,
    "wav2vec2_large": pipelines.WAV2VEC2_LARGE,
    "wav2vec2_large_lv60k": pipelines.WAV2VEC2_LARGE_LV60K,
    "xlsr_300m": pipelines.WAV2VEC2_XLSR_300M,
    "wavlm_base": pipelines.WAVLM_BASE,
    "wavlm_base_plus": pipelines.WAVLM_BASE_PLUS,
    "wavlm_large": pipelines.WAVLM_LARGE,
}


@pytest.mark.parametrize("name", BUNDLES)
def test_networks_and_files_are_those_of_torchaudios_pipelines(name):
    backbone, bundle = speech.BACKBONES[name], BUNDLES[name]
    with torch.device("meta"):
        pieces = backbone.make()
        theirs = _get_model(bundle._model_type, bundle._params).state_dict()
    ours = pieces.network.state_dict()
    assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert len(pieces.network.encoder.transformer.layers) == backbone.num_layers
    assert pieces.network.encoder.transformer.layer_norm.normalized_shape == (backbone.width,)
    assert backbone.weights.file == bundle._path
    assert backbone.sample_rate_hz == bundle.sample_rate
    assert pieces.is_normalized == bundle._normalize_waveform


@pytest.mark.parametrize("builder", ["wav2vec2_model", "wavlm_model"])
@pytest.mark.parametrize("is_large", [False, True])
def test_rows_are_those_of_torchaudios_class_also_in_a_batch(builder, is_large):
    network = small_speech_network(builder, is_large=is_large)
    pieces = SpeechPieces(network, is_normalized=is_large)
    theirs = _extend_model(network, normalize_waveform=True) if is_large else network
    samples = torch.randn(3, 6000) * torch.tensor([[0.01], [0.3], [0.05]]) + 0.1
    samples[2, 3000:] = 0  # the end of a clip
    with torch.inference_mode():
        for layer in (0, 2):
            pieces.layer = layer
            rows = pieces(samples)
            assert rows.shape == (3, 18, 32)
            for piece, found in zip(samples, rows, strict=True):
                expected = theirs.extract_features(piece[None])[0][1] if layer else theirs(piece[None])[0]
                torch.testing.assert_close(found[None], expected, rtol=1e-4, atol=1e-4)


def test_pieces_have_the_convolutions_of_the_whole_clip():
    network = small_speech_network(
        "wav2vec2_model", is_large=True
    )  # whose convolutions have no norm over time
    num_samples = PIECE_ROWS * ROW_STEP + 1000
    plan = speech_plan(Fraction(16_000), num_samples)
    samples = torch.randn(num_samples)
    padded = torch.cat([samples, torch.zeros(PIECE_SAMPLES)])
    with torch.inference_mode():
        whole = network.feature_extractor(samples[None], None)[0][0]
        pieces = torch.stack([padded[start : start + PIECE_SAMPLES] for start in plan.pieces[:, 0]])
        rows = network.feature_extractor(pieces, None)[0]
    assert rows.shape[:2] == (2, PIECE_ROWS)
    assert plan.num_rows == len(whole)
    torch.testing.assert_close(rows.flatten(0, 1)[: plan.num_rows], whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("num_samples", "num_rows", "num_pieces"),
    [
        (100, 1, 1),
        (400, 1, 1),
        (719, 1, 1),
        (720, 2, 1),
        (PIECE_SAMPLES, 250, 1),
        (PIECE_SAMPLES + 320, 251, 2),
    ],
)
def test_a_clip_has_the_rows_that_it_fills(num_samples, num_rows, num_pieces):
    plan = speech_plan(Fraction(16_000), num_samples)
    assert (plan.num_rows, len(plan.pieces)) == (num_rows, num_pieces)
    assert (plan.step_s, plan.length_s) == (Fraction(1, 50), Fraction(1, 40))


def test_published_names_of_weights_load_and_others_do_not():
    """The files were saved when torch called the two halves of the position weights weight_g and weight_v."""
    network = small_speech_network("wavlm_model", is_large=False)
    halves = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    state = {}
    for key, value in network.state_dict().items():
        for ours, theirs in halves.items():
            key = key.replace(ours, theirs)
        state[key] = value + 1
    pieces = SpeechPieces(small_speech_network("wavlm_model", is_large=False), is_normalized=False)
    pieces.load_published(dict(state), "wavlm.pth")
    for key, value in pieces.network.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key] + 1)
    missing = {key: value for key, value in state.items() if "layers.2.attention" not in key}
    with pytest.raises(CheckpointError, match=r"(?s)half\.pth.*layers\.2\.attention"):
        pieces.load_published(missing, "half.pth")
    with pytest.raises(CheckpointError, match=r"(?s)other\.pth.*aux\.weight"):
        pieces.load_published(state | {"aux.weight": torch.ones(3)}, "other.pth")
