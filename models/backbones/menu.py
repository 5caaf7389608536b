"""The backbones whose features are extracted: name -> Backbone.

To add one, write an encoder with `load_published` in a file of this folder, with the BACKBONES that it gives,
and a line below.
"""

from __future__ import annotations

from models.backbones import audio_resnet18, avhubert, efficientface, marlin
from models.backbones.backbone import Backbone

BACKBONES: dict[str, Backbone] = {
    **marlin.BACKBONES,
    **efficientface.BACKBONES,
    **audio_resnet18.BACKBONES,
    **avhubert.BACKBONES,
}
