"""Public interface: MODELS, the menu of methods, and `load_detector` for trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.menu import MODELS

if TYPE_CHECKING:
    from models.judging.detector import LoadedDetector

__all__ = ["MODELS", "load_detector"]


def load_detector(checkpoint: Path | str, *, device: str = "auto", precision: str = "auto") -> LoadedDetector:
    """A trained detector, with `.judge("clip.mp4")` and `.features("clip.mp4")`.

    Needs the packages of preprocess/.
    """
    from models.judging.detector import load_detector as load  # imports rooms above this one

    return load(checkpoint, device=device, precision=precision)
