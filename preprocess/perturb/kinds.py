"""The perturbations and the strength of each level. Level 0 is the untouched video."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from utils.errors import UsageError

PICTURE, SOUND = "picture", "sound"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One perturbation: its values at levels 1, 2, ... and what they measure."""

    modality: str  # PICTURE or SOUND
    values: tuple[float, ...]
    unit: str


KINDS: dict[str, Kind] = {
    # The seven of DeeperForensics, whose levels published robustness numbers use.
    "saturation": Kind(modality=PICTURE, values=(0.4, 0.3, 0.2, 0.1, 0.0), unit="share of the colour kept"),
    "contrast": Kind(modality=PICTURE, values=(0.85, 0.725, 0.6, 0.475, 0.35), unit="factor of the values"),
    "block": Kind(modality=PICTURE, values=(16, 32, 48, 64, 80), unit="grey squares per 256 pixels"),
    "noise": Kind(modality=PICTURE, values=(0.001, 0.002, 0.005, 0.01, 0.05), unit="variance"),
    "blur": Kind(modality=PICTURE, values=(7, 9, 13, 17, 21), unit="width of the kernel in pixels"),
    "pixelation": Kind(modality=PICTURE, values=(2, 3, 4, 5, 6), unit="factor of the size"),
    "h264": Kind(modality=PICTURE, values=(30, 32, 35, 38, 40), unit="CRF"),
    # Further ones (what the tool of DeeperForensics calls JPEG is a pixelation).
    "jpeg": Kind(modality=PICTURE, values=(90, 70, 50, 30, 10), unit="quality"),
    "resolution": Kind(modality=PICTURE, values=(0.75, 0.625, 0.5, 0.375, 0.25), unit="factor of the size"),
    "white_noise": Kind(modality=SOUND, values=(40, 30, 20, 10, 0), unit="SNR in dB"),
    "speech_noise": Kind(modality=SOUND, values=(40, 30, 20, 10, 0), unit="SNR in dB"),
    "resampling": Kind(modality=SOUND, values=(16_000, 11_025, 8_000, 4_000), unit="Hz"),
    "aac": Kind(modality=SOUND, values=(128, 64, 32, 16, 8), unit="kbit/s"),
    "mp3": Kind(modality=SOUND, values=(128, 64, 32, 16, 8), unit="kbit/s"),
    "opus": Kind(modality=SOUND, values=(128, 64, 32, 16, 8), unit="kbit/s"),
    "reverberation": Kind(modality=SOUND, values=(0.2, 0.4, 0.6, 0.8, 1.0), unit="RT60 in s"),
    "pitch_up": Kind(modality=SOUND, values=(1, 2, 3, 4, 5), unit="semitones"),
    "pitch_down": Kind(modality=SOUND, values=(-1, -2, -3, -4, -5), unit="semitones"),
    "gain": Kind(modality=SOUND, values=(-6, -12, -18, -24, -30), unit="dB"),
    "clipping": Kind(modality=SOUND, values=(0.01, 0.02, 0.05, 0.1, 0.2), unit="share of clipped samples"),
    # A test of synchrony: a detector that uses it should react.
    "av_offset": Kind(modality=SOUND, values=(0.04, 0.08, 0.16, 0.24, 0.4), unit="s that the sound is late"),
}
DEEPER_FORENSICS = ("saturation", "contrast", "block", "noise", "blur", "pixelation", "h264")
PICTURE_KINDS = tuple(name for name, kind in KINDS.items() if kind.modality == PICTURE)


@dataclass(frozen=True)
class Perturbation:
    """A kind at a level. Picture and sound may be perturbed together: "blur+white_noise"."""

    kind: str
    level: int

    def __post_init__(self) -> None:
        highest = num_levels(self.kind)
        if not 0 <= self.level <= highest:
            raise UsageError(f"{self.kind} has levels 0 to {highest}, got {self.level}")

    @property
    def name(self) -> str:
        """Name of the folder that holds the variants."""
        return f"{self.kind}_{self.level}"

    def part(self, modality: str) -> tuple[str, float] | None:
        """(kind, value) of the change to picture or sound, None if it is not changed."""
        for name in self.kind.split("+"):
            if self.level and KINDS[name].modality == modality:
                return name, KINDS[name].values[self.level - 1]
        return None

    @property
    def value(self) -> str:
        """The value at this level, for a table."""
        if self.level == 0:
            return "untouched"
        return "+".join(f"{KINDS[name].values[self.level - 1]:g}" for name in self.kind.split("+"))


def num_levels(kind: str) -> int:
    """Number of levels of a kind; for a combination, the smaller number of its parts.

    Raises UsageError for an unknown kind and for a combination of two kinds of the same modality.
    """
    parts = kind.split("+")
    for name in parts:
        if name not in KINDS:
            raise UsageError(f"unknown perturbation {name}; there are {', '.join(KINDS)}")
    if len(parts) > 2 or sum(KINDS[name].modality == PICTURE for name in parts) != len(parts) - 1 > 0:
        raise UsageError(f"{kind}: combine one kind of the picture with one of the sound")
    return min(len(KINDS[name].values) for name in parts)


def ladder(kind: str) -> list[Perturbation]:
    """All levels of a kind but 0."""
    return [Perturbation(kind, level) for level in range(1, num_levels(kind) + 1)]


def random_generator(clip_name: str, kind: str, level: int) -> np.random.Generator:
    """Random generator derived from clip, kind and level, so that results are reproducible."""
    digest = hashlib.sha256(f"{kind}/{level}/{clip_name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
