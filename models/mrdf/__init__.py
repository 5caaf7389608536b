"""MRDF (ICASSP 2024), and the baselines of its paper."""

from models.mrdf.detector import MrdfDetector, MrdfOutput

__all__ = ["MrdfDetector", "MrdfOutput"]
