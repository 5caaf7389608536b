"""The menu of detectors: name -> class.

Each has `config_type` (its flags), `presets`, `weight_sources` (fields that fetch weights to start from),
`released_fields` (what a published checkpoint tells of its configuration) and `load_released`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.beyond_masking import BeyondMaskingDetector
from models.mrdf import MrdfDetector

if TYPE_CHECKING:
    from models.judging.detector import LoadedDetector

MODELS = {
    "beyond_masking": BeyondMaskingDetector,
    "mrdf": MrdfDetector,
}


def load_detector(checkpoint: Path | str, *, device: str = "auto", precision: str = "auto") -> LoadedDetector:
    """A trained detector with `.judge("clip.mp4")`, see models/judging, which needs the preprocessing
    packages.
    """
    from models.judging.detector import load_detector as load  # it stands above this menu

    return load(checkpoint, device=device, precision=precision)
