"""The methods that train.py and test.py offer: name -> detector. One line adds a method."""

from __future__ import annotations

from models.beyond_masking import BeyondMaskingDetector
from models.exposing_deception import ExposingDetector
from models.m2sd import M2SDDetector
from models.method import Method
from models.mrdf import MrdfDetector
from models.probe import ProbeDetector
from models.td3mf import TD3MFDetector

MODELS: dict[str, type[Method]] = {
    "beyond_masking": BeyondMaskingDetector,
    "exposing_deception": ExposingDetector,
    "m2sd": M2SDDetector,
    "mrdf": MrdfDetector,
    "probe": ProbeDetector,
    "td3mf": TD3MFDetector,
}
