"""The menu of detectors: name -> class. Each has `config_type` (its flags) and `presets`."""

from models.beyond_masking import BeyondMaskingDetector

MODELS = {
    "beyond_masking": BeyondMaskingDetector,
}
