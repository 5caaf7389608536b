"""Exposing the Deception: local information blocks that each add what the others lack.

Ba et al., "Exposing the Deception: Uncovering More Forgery Clues for Deepfake Detection", AAAI 2024, arXiv
2403.01786; published code: QingyuLiu/Exposing-the-Deception, c361f1c. Every frame is judged by itself: n
networks with weights of their own (the blocks) see the same face; an MLP fuses their features. Auxiliary
heads classify from all features and from all but one block's: losses/exposing_deception.py compares them.

The presets:

- `corrected`, the default: colours as RGB, and an objective that measures what the paper describes.
- `released`: what the published code does: its channel order, the slips of its objective, real clips four
  times in an epoch (its number for FF++; six for Celeb-DF-v2, five for DFDC: --repeat_reals), and a learning
  rate in waves.
- `demo`: a network for the demo set and two CPU cores.

Deviations of all presets: epoch and learning rate are not chosen on the test split, nor is the learning rate
halved by its loss; EfficientNet is B4, since the published code names none and cannot build it; a clip shows
8 frames in an epoch and in evaluation (--frames_per_clip), not all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks.published import load_renamed
from models.exposing_deception.backbones import FEATURES, load_backbone, make_backbone
from models.exposing_deception.config import PRESETS, ExposingConfig
from models.exposing_deception.pictures import PictureFrontEnd
from models.method import Method, clips_at_once
from utils.checkpoint.foreign import read_foreign_weights
from utils.errors import CheckpointError, UsageError
from utils.types import ClipBatch, DetectorOutput

BLOCK = re.compile(r"region_model(\d+)\.")
UNUSED = re.compile(r"region_model\d+\.fc\.")  # MobileNet's classifier, which the published forward skips


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposingOutput(DetectorOutput):
    """What losses/exposing_deception.py reads. Scores of two classes are (real, fake); 0 in padding."""

    fused_scores: Tensor  # (B, T, 2) from the fused feature G: the detector's own
    all_scores: Tensor  # (B, T, 2) from all blocks' features Z
    left_out_scores: Tensor  # (B, T, n, 2) from all but one block's: entry k leaves out block k
    mixed_labels: Tensor | None = None  # (B, T), 1 = fake: of the picture that is mixed in; None: no mixup
    mixed_share: Tensor | None = None  # (B, T), the picture's own share


class ExposingDetector(nn.Module, Method):
    """model(ClipBatch) -> ExposingOutput."""

    config_type = ExposingConfig
    presets = PRESETS
    inputs = frozenset({"video"})
    modalities = frozenset({"video"})
    judges_frames = True
    weight_sources = ("init_from",)
    released_keys = ("region_model", "local_linear", "bottleneck.", "baseline_linear.", "linear.")

    def __init__(self, config: ExposingConfig) -> None:
        super().__init__()
        c = self.config = config
        self.pictures = PictureFrontEnd(c.image_size, c.channel_order, c.augmentation)
        self.blocks = nn.ModuleList(make_backbone(c.backbone) for _ in range(c.num_libs))
        width, all_widths = FEATURES[c.backbone], c.num_libs * FEATURES[c.backbone]
        layers: list[nn.Module] = []
        for inputs, outputs in zip((all_widths, c.fusion_dims[0]), c.fusion_dims, strict=True):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(c.dropout)]
        self.fusion = nn.Sequential(*layers, nn.Linear(c.fusion_dims[1], width))
        self.classifier = nn.Sequential(nn.Dropout(c.dropout), nn.Linear(width, 2))
        self.all_head = nn.Linear(all_widths, 2)
        self.left_out_heads = nn.ModuleList(nn.Linear(all_widths - width, 2) for _ in range(c.num_libs))
        if c.init_from:
            weights = read_foreign_weights(c.init_from)
            for block in self.blocks:
                load_backbone(block, weights, c.init_from)

    @staticmethod
    def check(config: Mapping[str, Mapping[str, Any]]) -> None:
        data = config["data"]
        frames = data.get("frames_per_clip") or round(data["window_s"] * data.get("video_fps", 25.0))
        if clips_at_once(config) == 1 and frames < 2:
            raise UsageError("batch norms need two pictures at once: raise --batch_size, or show more frames")

    def forward(self, batch: ClipBatch) -> ExposingOutput:
        batch.require_plain()
        shown = ~batch.video_padding_mask  # (B, T)
        frames = batch.video.transpose(1, 2)  # (B, T, 3, H, W) uint8
        # (N, 3, H, W); an exported network takes windows without padding
        frames = frames.flatten(0, 1) if torch.compiler.is_exporting() else frames[shown]
        pictures = self.pictures(frames)
        mixed: dict[str, Tensor] = {}
        if self.training and self.config.mixup:
            alpha = torch.tensor(self.config.mixup_alpha)
            share = torch.distributions.Beta(alpha, alpha).sample().to(pictures)
            order = torch.randperm(len(pictures), device=pictures.device)
            pictures = share * pictures + (1 - share) * pictures[order]
            own = batch.frame_labels
            mixed["mixed_labels"] = torch.zeros_like(own).masked_scatter(shown, own[shown][order])
            mixed["mixed_share"] = share.float().expand_as(own)
        parts = self.forward_pictures(pictures)
        fused, everything, left_out, feature = (_in_place(part, shown) for part in parts)
        frame_logits = fused[..., 1] - fused[..., 0]
        logits = _logit_of_mean(frame_logits, shown)
        return ExposingOutput(
            logits=logits,
            video_logits=logits,
            frame_logits=frame_logits,
            embedding=feature.sum(1) / shown.sum(1, keepdim=True).clamp_min(1),
            fused_scores=fused,
            all_scores=everything,
            left_out_scores=left_out,
            **mixed,
        )

    def forward_pictures(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(N, 3, S, S) normalised -> scores of the fused, of all and of all but one block's features
        ((N, 2), (N, 2), (N, n, 2)), and the fused feature (N, F).
        """
        features = [block(pictures) for block in self.blocks]
        everything = torch.cat(features, dim=1)
        fused = self.fusion(everything)
        left_out = [
            head(torch.cat(features[:k] + features[k + 1 :], dim=1))
            for k, head in enumerate(self.left_out_heads)
        ]
        return self.classifier(fused), self.all_head(everything), torch.stack(left_out, dim=1), fused

    @staticmethod
    def released_fields(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
        """Number of blocks, backbone and widths of a published checkpoint."""
        blocks = {match[1] for key in state if (match := BLOCK.match(key))}
        try:
            hidden = tuple(len(state[f"bottleneck.model.{index}.weight"]) for index in (0, 4))
            width = state["linear.1.weight"].shape[1]
            backbone = next(backbone for backbone, features in FEATURES.items() if features == width)
        except (KeyError, IndexError, StopIteration) as error:
            raise CheckpointError(f"{name}: not a released checkpoint of exposing_deception") from error
        return {"num_libs": len(blocks), "backbone": backbone, "fusion_dims": hidden}

    def load_released(self, state: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the published code; every key must match.

        Raises CheckpointError if keys or shapes do not fit.
        """
        used = {key: value for key, value in state.items() if not UNUSED.match(key)}
        load_renamed(self, used, released_prefixes(self.config.num_libs))


def released_prefixes(num_libs: int) -> dict[str, str]:
    """Beginnings of the published names -> ours."""
    prefixes = {"bottleneck.model.": "fusion.", "baseline_linear.": "all_head.", "linear.": "classifier."}
    for k in range(num_libs):
        prefixes |= {f"region_model{k + 1}.": f"blocks.{k}.", f"local_linear{k + 1}.": f"left_out_heads.{k}."}
    return prefixes


def _in_place(values: Tensor, shown: Tensor) -> Tensor:
    """(N, ...) of the frames that are `shown` (B, T) -> (B, T, ...), 0 elsewhere."""
    if torch.compiler.is_exporting():
        return values.unflatten(0, shown.shape)
    spread = values.new_zeros(*shown.shape, *values.shape[1:])
    spread[shown] = values
    return spread


def _logit_of_mean(frame_logits: Tensor, shown: Tensor) -> Tensor:
    """(B, T) logits -> (B,) logit of the mean probability of the frames that are `shown`."""
    frame_logits = frame_logits.float()
    fake, real = (
        torch.where(shown, F.logsigmoid(sign * frame_logits), -torch.inf).logsumexp(1) for sign in (1, -1)
    )
    return fake - real
