"""M2SD (TCSVT 2024)."""

from models.m2sd.detector import M2SDDetector, M2SDOutput

__all__ = ["M2SDDetector", "M2SDOutput"]
