"""What a backbone is: an encoder, which pieces of a clip it reads, and where its weights come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

PICTURE_SIZE = 224
MOUTH_SIZE = 96


class Plan(NamedTuple):
    """Which P pieces of a clip a backbone sees, and the seconds of the rows that it makes of them.

    Row i covers [i step_s, i step_s + length_s) seconds.
    """

    pieces: npt.NDArray[np.int64]  # (P, n) numbers of the frames; of sound (P, 1) first samples
    step_s: Fraction
    length_s: Fraction
    num_rows: int  # S of the clip, of the P R that are made: those after its end are left out


class Weights(NamedTuple):
    """Published weights: a file, or several that share no key."""

    file: str
    source: str
    licence: str
    more_files: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file, *self.more_files)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen encoder: make() has random weights, and encodes (B, n, 224, 224, 3) uint8 RGB, or (B, N)
    float32 samples at `sample_rate_hz`, as (B, R, width) features: R rows of each piece.

    With `mouth` it takes (B, n, 96, 96) uint8 grey instead of RGB, and after that the samples of the same
    seconds if `sample_rate_hz` is given, too.
    """

    make: Callable[[], Encoder]
    width: int
    weights: Weights | None  # None: it has none, so load_published() is not called
    # (rate, length of the clip in frames or samples) -> the pieces
    plan: Callable[[Fraction, int], Plan]
    batch_size: int
    num_layers: int = 0  # of which one can be chosen; 0: there is no choice
    sample_rate_hz: int = 0  # 0: it sees pictures
    piece_samples: int = 0
    # samples of a piece after the clip's end: silence, or NaN for an encoder that must know where it ends
    after_end: float = 0.0
    mouth: bool = False
    # R, if the last input is the number of rows (B,) that the clip has from each piece's start on
    rows_of_piece: int = 0

    @property
    def sees(self) -> bool:
        return self.mouth or not self.hears

    @property
    def hears(self) -> bool:
        return self.sample_rate_hz > 0

    def settings(self) -> dict[str, Any]:
        """What shapes the features besides the weights."""
        settings = {"mouth_size": MOUTH_SIZE} if self.mouth else {}
        if self.sample_rate_hz:
            return settings | {"sample_rate_hz": self.sample_rate_hz, "piece_samples": self.piece_samples}
        return settings or {"image_size": PICTURE_SIZE}


class Encoder(nn.Module):
    """A backbone with what turns pieces of a clip into its input."""

    layer = 0  # 1 to num_layers: the features are this one's; 0: those that the network ends with

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def load_published(self, weights: dict[str, Tensor], source: str) -> None:
        """Load a published file. Raises CheckpointError if it does not fit."""
        self.network.load_published(weights, source)  # type: ignore[operator]  # every backbone has it


def frame_plan(fps: Fraction, num_frames: int) -> Plan:
    """Every frame by itself."""
    return Plan(np.arange(num_frames)[:, None], 1 / fps, 1 / fps, num_frames)


def second_plan(rate_hz: Fraction, num_samples: int) -> Plan:
    """Whole seconds of sound; less than one is one, with silence after it."""
    count = max(1, num_samples // int(rate_hz))
    return Plan(np.arange(count)[:, None] * int(rate_hz), Fraction(1), Fraction(1), count)
