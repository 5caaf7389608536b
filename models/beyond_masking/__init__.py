"""Beyond-Masking (CIKM 2025): landmark-based distillation (LBD) and temporal alignment (MTIA)."""

from models.beyond_masking.detector import BeyondMaskingDetector, BeyondMaskingOutput

__all__ = ["BeyondMaskingDetector", "BeyondMaskingOutput"]
