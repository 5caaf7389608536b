"""wav2vec 2.0, XLS-R and WavLM: sound at 16 kHz -> a feature every 20 ms, by torchaudio's networks.

Baevski et al., "wav2vec 2.0", NeurIPS 2020, arXiv 2006.11477; Babu et al., "XLS-R", arXiv 2111.09296; Chen et
al., "WavLM", arXiv 2110.13900. The files of weights are those of torchaudio.pipelines (WAV2VEC2_BASE, ...),
which also say for which of them a waveform is normalised first.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.backbone import Backbone, Encoder, Plan, Weights
from models.backbones.published import load_published

SAMPLE_RATE_HZ = 16_000
ROW_STEP = 320  # samples from the beginning of a row to that of the next one
ROW_LENGTH = 400  # that the convolutions see of a row
PIECE_ROWS = 250
PIECE_SAMPLES = (PIECE_ROWS - 1) * ROW_STEP + ROW_LENGTH
SOURCE = "download.pytorch.org/torchaudio/models"


class SpeechPieces(Encoder):
    """Five seconds -> 250 rows of the last layer, with what norm the network has after it, or of `layer`.

    As in torchaudio.pipelines, but that each waveform is normalised by itself (there: a batch as a whole).
    transformers normalises with 1e-7 added to the variance, not 1e-5: soft sounds come out louder there.
    """

    def __init__(self, network: nn.Module, *, is_normalized: bool) -> None:
        super().__init__(network)
        self.is_normalized = is_normalized

    def forward(self, samples: Tensor) -> Tensor:
        if self.is_normalized:
            samples = F.layer_norm(samples, samples.shape[1:])
        network: Any = self.network
        if self.layer:
            layers: list[Tensor] = network.extract_features(samples, num_layers=self.layer)[0]
            return layers[-1]
        features: Tensor = network(samples)[0]
        return features

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load a published file. Raises CheckpointError if it does not fit."""
        load_published(self.network, weights, [], source)


def speech_plan(rate_hz: Fraction, num_samples: int) -> Plan:
    """Pieces of 250 rows, one after the other; a clip has the rows whose 400 samples it has, at least one.

    A piece ends with the 80 samples in which the next one begins, so that the convolutions see what they see
    of the whole clip. Attention, positions (64 rows around) and norms over time see the piece alone, and the
    silence with which the last one is filled.
    """
    num_rows = max(1, (num_samples - ROW_LENGTH) // ROW_STEP + 1)
    starts = np.arange(0, num_rows, PIECE_ROWS)[:, None] * ROW_STEP
    return Plan(starts, ROW_STEP / rate_hz, ROW_LENGTH / rate_hz, num_rows)


def _backbone(builder: str, file: str, *, is_large: bool, is_normalized: bool) -> Backbone:
    """`builder`: a function of torchaudio.models."""

    def make() -> Encoder:
        import torchaudio

        return SpeechPieces(getattr(torchaudio.models, builder)(), is_normalized=is_normalized)

    return Backbone(
        make=make,
        width=1024 if is_large else 768,
        num_layers=24 if is_large else 12,
        weights=Weights(file, SOURCE, "MIT"),
        plan=speech_plan,
        batch_size=4 if is_large else 8,
        sample_rate_hz=SAMPLE_RATE_HZ,
        piece_samples=PIECE_SAMPLES,
    )


_BASE = {"is_large": False, "is_normalized": False}
_LARGE = {"is_large": True, "is_normalized": True}
BACKBONES = {
    "wav2vec2_base": _backbone("wav2vec2_base", "wav2vec2_fairseq_base_ls960.pth", **_BASE),
    "wav2vec2_large": _backbone(
        "wav2vec2_large", "wav2vec2_fairseq_large_ls960.pth", is_large=True, is_normalized=False
    ),
    "wav2vec2_large_lv60k": _backbone("wav2vec2_large_lv60k", "wav2vec2_fairseq_large_lv60k.pth", **_LARGE),
    "xlsr_300m": _backbone("wav2vec2_xlsr_300m", "wav2vec2_xlsr_300m.pth", **_LARGE),
    "wavlm_base": _backbone("wavlm_base", "wavlm_base.pth", **_BASE),
    "wavlm_base_plus": _backbone("wavlm_base", "wavlm_base_plus.pth", **_BASE),
    "wavlm_large": _backbone("wavlm_large", "wavlm_large.pth", **_LARGE),
}
