"""Hard cuts: with which picture another shot begins, around each face and as a whole.

Pictures are compared as coarse grids of luma, whatever their brightness and contrast. A cut changes a
face's surroundings far more than the motion before and after it does, and they stay changed; after a flash
they look as before. Fades, zooms and pans change them step by step.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from utils.media.picture import Picture
from utils.media.planes import Planes

Grid = npt.NDArray[np.float64]  # (SIDE, SIDE) mean luma of the cells of a picture
Key = TypeVar("Key")

SIDE = 40
LEAST_CELLS = 8  # of the grid, each way, in which a face's surroundings are compared
# share of a picture's contrast that the one before does not explain: 0.55 to 1 between aligned faces of 29
# people, two each; 0.45 at most between two frames of the fastest of their 29 videos
CUT = 0.5
MIN_CONTRAST = 4.0  # grey levels; a picture with less is black, white or a wall, and tells nothing
MOTION_FACTOR = 2.5  # a cut changes this number of times more than the motion does next to it
MOTION_PICTURES = 5  # pictures before a cut from which the motion is known
LEAST_PICTURES = 3  # of a shot before a cut: with fewer, nothing is known of the motion
SAME_CAMERA = 0.3  # share of a picture that stays, to SAME_LUMA levels, when a person comes, leaves or jumps
SAME_LUMA = 4.0
FLASH_S = 0.12  # what looks as before within this time was a flash


class Place(NamedTuple):
    """The part of a grid around a face."""

    rows: slice
    columns: slice

    @classmethod
    def around(cls, x: float, y: float, half: float, width: int, height: int) -> Place:
        """Around (x, y), up to `half` away, in pixels of a picture of that size."""
        return cls(
            _cells((y - half) / height, (y + half) / height), _cells((x - half) / width, (x + half) / width)
        )


WHOLE = Place(slice(None), slice(None))


def _cells(start: float, end: float) -> slice:
    """Cells between two shares of a picture's side, at least LEAST_CELLS."""
    first = min(max(math.floor(SIDE * start), 0), SIDE - LEAST_CELLS)
    return slice(first, max(min(math.ceil(SIDE * end), SIDE), first + LEAST_CELLS))


def luma_grid(picture: Picture) -> Grid:
    """The grid of a picture, from some of its rows: it costs a hundredth of following a face."""
    frame = picture.decoded()
    if frame is not None and min(frame.width, frame.height) > 1:
        luma = Planes.of_frame(frame).y
    else:
        luma = np.asarray(cv2.cvtColor(picture.thumbnail(2 * SIDE), cv2.COLOR_RGB2GRAY), np.uint8)
    if min(luma.shape) >= 2 * SIDE:  # two rows per cell, and as many columns as fit: four times as fast
        step, columns = len(luma) // (2 * SIDE), luma.shape[1] // SIDE * SIDE
        luma = luma[: 2 * SIDE * step : step, :columns]
    return np.asarray(cv2.resize(luma, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float64)


def unlike(one: Grid, other: Grid) -> float:
    """0 for pictures that differ in brightness and contrast alone, to 1 for those with nothing in common."""
    one, other = one.ravel(), other.ravel()
    sums = float(one.sum()), float(other.sum())
    energies = _energy(one, sums[0]), _energy(other, sums[1])
    if min(energies) < MIN_CONTRAST**2 * one.size:
        return 0.0
    common = max(0.0, float(one @ other) - sums[0] * sums[1] / one.size)
    return math.sqrt(max(0.0, 1 - common**2 / (energies[0] * energies[1])))


def _energy(cells: npt.NDArray[np.float64], total: float) -> float:
    """Sum of the squared distances of (N,) cells from their mean; `total` is their sum."""
    return float(cells @ cells) - total**2 / cells.size


def find_cuts(
    pictures: Iterable[Picture], flash: int, places: Callable[[Picture], dict[Key, Place]]
) -> Iterator[tuple[Picture, list[Key]]]:
    """Yield each picture with the keys of those `places` at which a new shot begins with it.

    `places` is asked before each picture. Where a cut is suspected, `flash` further pictures are read before
    this one is handed on; a shorter shot is not a cut.
    """
    past: collections.deque[Grid] = collections.deque(maxlen=MOTION_PICTURES + 1)
    source = iter(pictures)
    for picture in source:
        shots = [(picture, luma_grid(picture))]
        begun: list[tuple[Key, Place]] = []
        if len(past) >= LEAST_PICTURES:
            grid = shots[0][1]
            begun = [(key, place) for key, place in places(picture).items() if _jumps(past, grid, place)]
        if begun:
            shots += ((later, luma_grid(later)) for later in itertools.islice(source, flash))
            grids = [grid for _, grid in shots]
            begun = [
                (key, place) for key, place in begun if len(grids) > flash and _stays(past, grids, place)
            ]
        for index, (shown, grid) in enumerate(shots):
            yield shown, [] if index else [key for key, _ in begun]
            cells = grid.ravel()
            if not past or _energy(cells, float(cells.sum())) >= MIN_CONTRAST**2 * cells.size:
                past.append(grid)


def _jumps(past: Iterable[Grid], grid: Grid, place: Place) -> bool:
    """Whether a picture is another one than the last of those before it, which are alike."""
    *before, last = (earlier[place] for earlier in past)
    jump = unlike(last, grid[place])
    if jump < CUT:
        return False
    if place is WHOLE and float((np.abs(last - grid) < SAME_LUMA).mean()) > SAME_CAMERA:
        return False
    return all(
        jump >= MOTION_FACTOR * unlike(one, other) for one, other in itertools.pairwise([*before, last])
    )


def _stays(past: Iterable[Grid], grids: list[Grid], place: Place) -> bool:
    """Whether all of `grids` are unlike the last one before them, and they move little themselves."""
    *_, last = past
    parts = [grid[place] for grid in grids]
    jumps = [unlike(last[place], part) for part in parts]
    motion = float(np.median([unlike(one, other) for one, other in itertools.pairwise(parts)]))
    return min(jumps) >= CUT / 2 and jumps[0] >= MOTION_FACTOR * motion
