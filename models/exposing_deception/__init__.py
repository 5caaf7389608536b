"""Exposing the Deception (AAAI 2024)."""

from models.exposing_deception.detector import ExposingDetector, ExposingOutput

__all__ = ["ExposingDetector", "ExposingOutput"]
