"""CLIP's image tower, ViT-B/16 or ViT-L/14: a picture of a face -> one feature.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv
2103.00020, with OpenAI's weights under the names of openai/CLIP, which open_clip's files keep. CLIP and not
DINO, because detectors of generated pictures begin with its frozen features (Ojha, Li and Lee, "Towards
Universal Fake Image Detectors that Generalize Across Generative Models", CVPR 2023, and many after it). The
feature is the class token's after the last norm, before the projection into the space shared with text.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.backbones.backbone import PICTURE_SIZE, Backbone, Encoder, Plan, Weights
from models.backbones.published import load_published

ROWS_PER_S = 5
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CLASS_TOKEN, POSITIONS = "visual.class_embedding", "visual.positional_embedding"  # without a batch axis
_BLOCK, _OURS = r"visual\.transformer\.resblocks\.(\d+)\.", r"network.encoder.layers.encoder_layer_\1."
RENAMES = [
    (CLASS_TOKEN, "network.class_token"),
    (POSITIONS, "network.encoder.pos_embedding"),
    (r"visual\.conv1\.", "network.conv_proj."),
    (r"visual\.ln_pre\.", "network.encoder.dropout."),
    (_BLOCK + r"attn\.", _OURS + "self_attention."),
    (_BLOCK + r"mlp\.c_fc\.", _OURS + "mlp.0."),
    (_BLOCK + r"mlp\.c_proj\.", _OURS + "mlp.3."),
    (_BLOCK, _OURS),
    (r"visual\.ln_post\.", "network.encoder.ln."),
]
IGNORED = r"(?!visual\.)|visual\.proj$"  # the text's tower, and the projection into the shared space


class ClipSize(NamedTuple):
    """Pixels along a patch, width E, number of blocks and of attention heads."""

    patch: int
    width: int
    depth: int
    heads: int


SIZES = {"b16": ClipSize(16, 768, 12, 12), "l14": ClipSize(14, 1024, 24, 16)}


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x), for which CLIP's weights were trained."""

    def forward(self, values: Tensor) -> Tensor:
        return values * (1.702 * values).sigmoid()


class ClipTower(nn.Module):
    """encoder(pictures) -> (B, E) features: (B, 3, 224, 224) RGB, less MEAN, over STD.

    torchvision's vision transformer with CLIP's three differences.
    """

    def __init__(self, size: ClipSize) -> None:
        from torchvision.models import VisionTransformer  # as slow to import as torch itself

        super().__init__()
        self.network = VisionTransformer(
            image_size=PICTURE_SIZE,
            patch_size=size.patch,
            num_layers=size.depth,
            num_heads=size.heads,
            hidden_dim=size.width,
            mlp_dim=4 * size.width,
            norm_layer=nn.LayerNorm,
        )
        self.network.conv_proj = nn.Conv2d(3, size.width, size.patch, stride=size.patch, bias=False)
        self.network.encoder.dropout = nn.LayerNorm(size.width)  # between the positions and the first block
        for block in self.network.encoder.layers:
            block.mlp[1] = QuickGelu()
        self.network.heads = nn.Identity()

    def forward(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.network(pictures)
        return features

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load a published file. Raises CheckpointError if it does not fit."""
        shaped = dict(weights)
        for key, place in ((CLASS_TOKEN, (None, None)), (POSITIONS, (None,))):
            if key in shaped:
                shaped[key] = shaped[key][place]
        load_published(self, shaped, RENAMES, source, ignored=IGNORED)


class ClipPieces(Encoder):
    """RGB as the weights expect it."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        pictures = frames[:, 0].permute(0, 3, 1, 2).float() / 255
        features: Tensor = self.network((pictures - self.mean) / self.std)
        return features[:, None]


def five_a_second(fps: Fraction, num_frames: int) -> Plan:
    """Every n-th frame by itself, so that about five a second are seen."""
    step = max(1, round(fps / ROWS_PER_S))
    frames = np.arange(0, num_frames, step)[:, None]
    return Plan(frames, step / fps, 1 / fps, len(frames))


def _backbone(size: str, repository: str, batch_size: int) -> Backbone:
    return Backbone(
        make=lambda: ClipPieces(ClipTower(SIZES[size])),
        width=SIZES[size].width,
        weights=Weights(
            f"{repository}/open_clip_pytorch_model.bin", f"huggingface.co/timm/{repository}", "Apache-2.0"
        ),
        plan=five_a_second,
        batch_size=batch_size,
    )


BACKBONES = {
    "clip_vit_b16": _backbone("b16", "vit_base_patch16_clip_224.openai", 32),
    "clip_vit_l14": _backbone("l14", "vit_large_patch14_clip_224.openai", 16),
}
