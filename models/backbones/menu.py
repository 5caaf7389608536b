"""The backbones whose features are extracted: name -> Backbone.

To add one, write an encoder with `load_published` (if it has weights) in a file of this folder, with the
BACKBONES that it gives, and a line below.
"""

from __future__ import annotations

from models.backbones import (
    audio_resnet18,
    avhubert,
    clip,
    eat,
    efficientface,
    emotion2vec,
    marlin,
    mfcc,
    speech,
    xvector,
)
from models.backbones.backbone import Backbone

BACKBONES: dict[str, Backbone] = {
    **marlin.BACKBONES,
    **efficientface.BACKBONES,
    **clip.BACKBONES,
    **audio_resnet18.BACKBONES,
    **mfcc.BACKBONES,
    **speech.BACKBONES,
    **xvector.BACKBONES,
    **eat.BACKBONES,
    **emotion2vec.BACKBONES,
    **avhubert.BACKBONES,
}


def backbone_of(feature: str) -> Backbone:
    """The backbone of a cached feature: "wavlm_base", or "wavlm_base.layer6". Raises ValueError."""
    name, dot, layer = feature.partition(".layer")
    backbone = BACKBONES.get(name)
    if backbone is None:
        raise ValueError(f"no backbone gives {feature}; choose from {', '.join(sorted(BACKBONES))}")
    if dot and not (layer.isdecimal() and 1 <= int(layer) <= backbone.num_layers):
        raise ValueError(f"{feature}: {name} has {backbone.num_layers or 'no'} layers to choose from")
    return backbone
