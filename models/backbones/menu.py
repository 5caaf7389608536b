"""The backbones whose features are extracted: name -> Backbone.

To add one, write an encoder with `load_published` (if it has weights) in a file of this folder, with the
BACKBONES that it gives, and a line below.
"""

from __future__ import annotations

from models.backbones import audio_resnet18, clip, efficientface, marlin, mfcc, speech, xvector
from models.backbones.backbone import Backbone

BACKBONES: dict[str, Backbone] = {
    **marlin.BACKBONES,
    **efficientface.BACKBONES,
    **clip.BACKBONES,
    **audio_resnet18.BACKBONES,
    **mfcc.BACKBONES,
    **speech.BACKBONES,
    **xvector.BACKBONES,
}
