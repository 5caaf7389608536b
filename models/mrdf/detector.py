"""MRDF: regularisation across and within the modalities, over AV-HuBERT's network.

Zou et al., "Cross-Modality and Within-Modality Regularization for Audio-Visual DeepFake Detection", ICASSP
2024, arXiv 2401.05746; published code: Vincent-ZHQ/MRDF, 2024-04. Sound and picture of each frame are
concatenated and encoded by wav2vec 2.0's transformer, and a head classifies the clip; two branches classify
each modality from its mean.

The presets:

- `corrected`, the default: the paper's network with twelve layers, norms first as AV-HuBERT was trained;
  features standardised over the batch; mean over frames as read-out; our windows and training recipe.
- `paper`: what the paper describes: twelve layers, norms last, first frame as read-out.
- `released`: the network and data of the published code, which builds an encoder without layers, never trains
  the stem, and cuts all clips of a batch to the length of the shortest.
- `demo`: a network for the demo set and two CPU cores.

Deviations of all presets: epoch and learning rate are not chosen on the test fold (published: the rate halves
if the test loss stalls for three epochs; here it is constant), and Adam's moments are not 0.5 and 0.9. Clips
longer than 20 s give any 20 s, not the first. Unused published weights (`mask_emb`, `final_proj`, parts of
the baselines) are not built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones.log_filterbank import ROWS_PER_SECOND
from models.backbones.stem_resnet import StemResNet
from models.backbones.wav2vec2_encoder import EncoderSize, Wav2Vec2Encoder
from models.blocks.normalization import StepNorm
from models.blocks.padding import real_padding
from models.blocks.pooling import masked_mean
from models.blocks.published import load_renamed
from models.method import Method
from models.mrdf.config import BRANCHED, PRESETS, WITH_HEADS, MrdfConfig
from models.mrdf.front_ends import FilterbankFrontEnd, PictureFrontEnd
from models.mrdf.published_weights import (
    RELEASED_KEYS,
    RELEASED_PREFIXES,
    fields_of_released,
    take_av_hubert,
    used_weights,
)
from utils.checkpoint.foreign import read_foreign_weights
from utils.clip.files import SAMPLE_RATE_HZ
from utils.errors import UsageError
from utils.types import ClipBatch, DetectorOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class MrdfOutput(DetectorOutput):
    """What losses/mrdf.py reads; None where the variant lacks the part.

    `logits` are positive exactly where the published code decides "fake". Two classes are (fake, real).
    """

    variant: str
    # (B, n): fake and real; multiclass: real, fake picture, fake sound, both fake; multilabel: sound is real,
    # picture is real
    class_logits: Tensor | None = None
    video_class_logits: Tensor | None = None  # (B, 2) from the picture only
    audio_class_logits: Tensor | None = None  # (B, 2) from the sound only
    video_embedding: Tensor | None = None  # (B, D) mean of the picture's branch
    audio_embedding: Tensor | None = None  # (B, D)
    video_mean: Tensor  # (B, D) mean of the picture's features, before any branch
    audio_mean: Tensor  # (B, D)


def fake_logit(class_logits: Tensor) -> Tensor:
    """(B, 2) scores of fake and real -> (B,) log odds of fake."""
    return class_logits[:, 0] - class_logits[:, 1]


def _encoder_size(config: MrdfConfig) -> EncoderSize:
    return EncoderSize(
        feature_dim=config.feature_dim,
        num_layers=config.encoder_layers,
        num_heads=config.transformer_nhead,
        feedforward_dim=config.feedforward_dim,
        norm_first=config.norm_first,
        position_kernel=config.position_kernel,
        position_groups=config.position_groups,
        dropout=config.dropout,
    )


class MrdfDetector(nn.Module, Method):
    """model(ClipBatch) -> MrdfOutput."""

    config_type = MrdfConfig
    presets = PRESETS
    inputs = frozenset({"video", "sound"})
    min_window_s = 0.1
    weight_sources = ("init_from",)
    released_keys = RELEASED_KEYS

    def __init__(self, config: MrdfConfig) -> None:
        super().__init__()
        c = self.config = config
        self.picture = PictureFrontEnd(c.image_size, c.crop_size)
        self.filterbank = FilterbankFrontEnd(c.filterbank_stack)
        self.video_encoder = StemResNet(c.video_channels, colours=3, freeze_stem=c.freeze_stem)
        self.video_projection = nn.Linear(self.video_encoder.out_features, c.feature_dim)
        self.audio_projection = nn.Linear(self.filterbank.out_features, c.feature_dim)
        if c.feature_norm:
            self.video_norm = StepNorm(self.video_encoder.out_features)
            self.audio_norm = StepNorm(self.filterbank.out_features)
        if c.mrdf_variant != "avdf_ensemble":
            fused_dim = 2 * c.feature_dim
            self.fusion = nn.Sequential(nn.LayerNorm(fused_dim), nn.Linear(fused_dim, c.feature_dim))
            self.encoder = Wav2Vec2Encoder(_encoder_size(c))
            self.classifier = nn.Sequential(
                nn.Linear(c.feature_dim, c.feature_dim),
                nn.ReLU(),
                nn.Linear(c.feature_dim, 4 if c.mrdf_variant == "avdf_multiclass" else 2),
            )
        if c.mrdf_variant in BRANCHED:
            self.video_branch, self.audio_branch = self._branch(), self._branch()
        if c.mrdf_variant in WITH_HEADS:
            self.video_head = nn.Linear(c.feature_dim, 2)
            self.audio_head = nn.Linear(c.feature_dim, 2)
        if c.init_from:
            take_av_hubert(self, read_foreign_weights(c.init_from), c.init_from)

    @staticmethod
    def check(config: Mapping[str, Mapping[str, Any]]) -> None:
        stack, fps = config["model"]["filterbank_stack"], config["data"]["video_fps"]
        if abs(fps * stack - ROWS_PER_SECOND) > 1e-6:
            wanted = f"the product must be {ROWS_PER_SECOND}, the filterbank's rows per second"
            raise UsageError(f"--filterbank_stack {stack} with --video_fps {fps:g}: {wanted}")

    def _branch(self) -> nn.Sequential:
        width = self.config.feature_dim
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Dropout(self.config.dropout))

    def forward(self, batch: ClipBatch) -> MrdfOutput:
        batch.require_plain()
        if batch.sample_rate_hz != SAMPLE_RATE_HZ:
            raise ValueError(f"the model takes sound of {SAMPLE_RATE_HZ} Hz, got {batch.sample_rate_hz}")
        video, padding_mask = batch.video, batch.video_padding_mask
        if self.config.cut_to_shortest and not torch.compiler.is_exporting():
            num_frames = int((~padding_mask).sum(dim=1).min())
            video, padding_mask = video[:, :, :num_frames], padding_mask[:, :num_frames]
        frames = self.picture(video)
        sound = self.filterbank(batch.waveform, batch.audio_padding_mask, frames.shape[2])
        return self.forward_features(frames, sound, padding_mask)

    def forward_features(self, frames: Tensor, sound: Tensor, padding_mask: Tensor) -> MrdfOutput:
        """The network after the front ends.

        frames: (B, 3, T, S, S). sound: (B, T, 26 * filterbank_stack). padding_mask: (B, T), True = padding.
        """
        mask = real_padding(padding_mask)
        video = self.video_encoder(frames, mask)
        if self.config.feature_norm:
            video, sound = self.video_norm(video, mask), self.audio_norm(sound, mask)
        video, audio = self.video_projection(video), self.audio_projection(sound)  # (B, T, D)
        variant = self.config.mrdf_variant
        parts: dict[str, Tensor] = {}
        if variant != "avdf_ensemble":
            encoded = self.encoder(self.fusion(torch.cat([audio, video], dim=2)), mask)
            readout = encoded[:, 0] if self.config.readout == "first" else masked_mean(encoded, mask)
            parts["class_logits"] = self.classifier(readout)
        if variant in BRANCHED:
            parts["video_embedding"] = masked_mean(self.video_branch(video), mask)
            parts["audio_embedding"] = masked_mean(self.audio_branch(audio), mask)
        if variant in WITH_HEADS:
            parts["video_class_logits"] = self.video_head(parts["video_embedding"])
            parts["audio_class_logits"] = self.audio_head(parts["audio_embedding"])
        if variant == "avdf_ensemble":
            readout = torch.cat([parts["video_embedding"], parts["audio_embedding"]], dim=1)
        return MrdfOutput(
            **self._decide(parts),
            **parts,
            embedding=readout,
            variant=variant,
            video_mean=masked_mean(video, mask),
            audio_mean=masked_mean(audio, mask),
        )

    def _decide(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The logits of DetectorOutput from the scores of the variant."""
        variant, by_modality = self.config.mrdf_variant, {}
        if variant == "avdf_multiclass":
            scores = parts["class_logits"]
            return {
                "logits": scores[:, 1:].amax(1) - scores[:, 0],
                "video_logits": scores[:, [1, 3]].logsumexp(1) - scores[:, [0, 2]].logsumexp(1),
                "audio_logits": scores[:, [2, 3]].logsumexp(1) - scores[:, [0, 1]].logsumexp(1),
            }
        if variant == "avdf_multilabel":
            sound_is_real, picture_is_real = parts["class_logits"].unbind(1)
            by_modality = {"video_logits": -picture_is_real, "audio_logits": -sound_is_real}
        elif variant in WITH_HEADS:
            video, audio = parts["video_class_logits"], parts["audio_class_logits"]
            by_modality = {"video_logits": fake_logit(video), "audio_logits": fake_logit(audio)}
        if variant in {"avdf_multilabel", "avdf_ensemble"}:
            return {"logits": torch.maximum(*by_modality.values()), **by_modality}
        return {"logits": fake_logit(parts["class_logits"]), **by_modality}

    released_fields = staticmethod(fields_of_released)

    def load_released(self, state: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the published code; every key must match.

        Raises CheckpointError if keys or shapes do not fit, or if two names of one tensor hold other values.
        """
        load_renamed(self, used_weights(state, self.config.mrdf_variant), RELEASED_PREFIXES)
