"""2D3MF: features of frozen encoders, fused in the middle."""

from models.td3mf.detector import TD3MFDetector

__all__ = ["TD3MFDetector"]
