"""VideoMAE: a masked autoencoder of 16 frames, the pixel-wise teacher of M2SD.

Tong et al., "VideoMAE", NeurIPS 2022, arXiv 2203.12602; published code: MCG-NJU/VideoMAE. Its files are read
under the names of that code and of Hugging Face's transformers. Their positions are fixed: none are stored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.backbones.published import NOTHING, load_published, renamed_keys
from models.blocks.vit import SIZES, TUBELET, MaskedDecoder, TubeletViT, ViTSize, initialise

DECODER = ViTSize(384, 4, 6)
PIXELS = math.prod(TUBELET) * 3  # of a tubelet
# names of the published code -> TubeletViT's
VIT_RENAMES = [
    (r"patch_embed\.proj\.", "patch_embedding."),
    (r"cls_token$", "class_token"),
    (r"fc_norm\.", "norm."),  # of files that were fine-tuned
    (r"(blocks\.\d+)\.attn\.", r"\1."),
    (r"(blocks\.\d+\.mlp)\.fc1\.", r"\1.0."),
    (r"(blocks\.\d+\.mlp)\.fc2\.", r"\1.2."),
]
RENAMES = [  # -> VideoMae's
    (r"encoder_to_decoder\.", "decoder.project."),
    (r"mask_token$", "decoder.mask_token"),
    (r"decoder\.head\.", "decoder.heads.0."),
    (r"encoder\.patch_embed\.proj\.", "encoder.patch_embedding."),
    (r"(\w+\.blocks\.\d+)\.attn\.", r"\1."),
    (r"(\w+\.blocks\.\d+\.mlp)\.fc1\.", r"\1.0."),
    (r"(\w+\.blocks\.\d+\.mlp)\.fc2\.", r"\1.2."),
]
# names of transformers -> those of the published code
HUGGING_FACE = [
    (r"videomae\.embeddings\.patch_embeddings\.projection\.", "encoder.patch_embed.proj."),
    (r"videomae\.layernorm\.", "encoder.norm."),
    (r"videomae\.encoder\.layer\.", "encoder.blocks."),
    (r"decoder\.decoder_layers\.", "decoder.blocks."),
]
HUGGING_FACE_BLOCK = {
    "attention.attention.query.bias": "attn.q_bias",  # since transformers 5
    "attention.attention.value.bias": "attn.v_bias",
    "attention.attention.": "attn.",
    "attention.output.dense.": "attn.proj.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
}
QKV = ("query", "key", "value")
# of a file, all that is not its encoder
NOT_ENCODER = r"decoder\.|encoder_to_decoder\.|mask_token$|head\.|classifier\."


class VideoMae(nn.Module):
    """model(video, masked) -> (B, M, 1536) standardised pixels of the M masked tubelets of each clip.

    video: (B, 3, T, S, S), normalised; masked: (B, N) bool, as many in each clip.
    """

    def __init__(
        self,
        size: ViTSize = SIZES["base"],
        decoder: ViTSize = DECODER,
        num_frames: int = 16,
        image_size: int = 224,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = TubeletViT(size, num_frames, image_size, drop_path=drop_path)
        places = math.prod(self.encoder.grid)
        self.decoder = MaskedDecoder(decoder, size.width, places, (PIXELS,), class_token=False)
        self.apply(initialise)

    def forward(self, video: Tensor, masked: Tensor) -> Tensor:
        (pixels,) = self.decoder(self.encoder(video, ~masked), masked)
        return pixels

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load a file of its pre-training. Raises CheckpointError if it does not fit."""
        load_published(self, published_names(weights), RENAMES, source)


def published_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A VideoMAE file's weights under the names of the published code, whichever it has.

    transformers has queries, keys and values apart, which are joined.
    """
    if not any(key.startswith("videomae.") for key in weights):
        return dict(weights)
    named: dict[str, Tensor] = {}
    for key, name in renamed_keys(weights, HUGGING_FACE, NOTHING).items():
        for theirs, ours in HUGGING_FACE_BLOCK.items():
            name = re.sub(rf"(blocks\.\d+\.){re.escape(theirs)}", rf"\1{ours}", name)
        named[name] = weights[key]
    for name in [name for name in named if name.endswith("attn.query.weight")]:
        parts = [named.pop(name.replace("query", part)) for part in QKV]
        named[name.replace("query", "qkv")] = torch.cat(parts)
    return named


def vit_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder in a VideoMAE file, pre-trained or fine-tuned, under the names of a TubeletViT.

    Without decoder and classifier.
    """
    weights = {key.removeprefix("encoder."): value for key, value in published_names(weights).items()}
    names = renamed_keys(weights, VIT_RENAMES, NOT_ENCODER)
    return {name: weights[key] for key, name in names.items()}
