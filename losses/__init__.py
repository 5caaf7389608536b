"""The menu of objectives, with the keys of MODELS: name -> nn.Module, called (output, batch) -> terms.

Each class has `config_type`, the dataclass of its flags, and is built from one: Loss(config). A loss with
parameters may have `parameter_groups()`, as methods have (models/method.py); one that sends no gradient to
some fields of the output names them in `untaught_outputs`. If some terms are means of fewer clips than a
batch has, `clips_of(output, batch)` says of how many: {term: number}; validation weights them by that.
"""

from typing import Any

from losses.beyond_masking import BeyondMaskingLoss
from losses.exposing_deception import ExposingLoss
from losses.m2sd import M2SDLoss
from losses.mrdf import MrdfLoss
from losses.probe import ProbeLoss
from losses.td3mf import TD3MFLoss

LOSSES: dict[str, Any] = {  # classes, described above
    "beyond_masking": BeyondMaskingLoss,
    "exposing_deception": ExposingLoss,
    "m2sd": M2SDLoss,
    "mrdf": MrdfLoss,
    "probe": ProbeLoss,
    "td3mf": TD3MFLoss,
}
