"""A probe: one linear layer on features of frozen backbones."""

from models.probe.detector import ProbeDetector

__all__ = ["ProbeDetector"]
