"""Public interface: MODELS, the menu of methods, and `load_detector` for trained ones.

Light: PyTorch is imported with the first of them. The processes that draw judged videos do without.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.judging.detector import LoadedDetector
    from models.menu import MODELS

__all__ = ["MODELS", "load_detector"]


def __getattr__(name: str) -> Any:
    if name != "MODELS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from models.menu import MODELS

    return MODELS


def load_detector(checkpoint: Path | str, *, device: str = "auto", precision: str = "auto") -> LoadedDetector:
    """A trained detector, with `.judge("clip.mp4")` and `.features("clip.mp4")`.

    Needs the packages of preprocess/.
    """
    from models.judging.detector import load_detector as load  # imports rooms above this one

    return load(checkpoint, device=device, precision=precision)
