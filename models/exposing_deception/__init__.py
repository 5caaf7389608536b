"""Exposing the Deception (AAAI 2024)."""

from models.exposing_deception.detector import ExposingDetector, ExposingOutput, frame_labels

__all__ = ["ExposingDetector", "ExposingOutput", "frame_labels"]
