"""The menu of objectives, with exactly the keys of MODELS. Each has `config_type` (its flags)."""

from losses.beyond_masking import BeyondMaskingLoss
from losses.mrdf import MrdfLoss

LOSSES = {
    "beyond_masking": BeyondMaskingLoss,
    "mrdf": MrdfLoss,
}
