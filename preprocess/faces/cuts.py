"""Hard cuts: with which picture another shot begins, around each face and as a whole.

Pictures are compared as coarse grids of luma, whatever their brightness and contrast. A cut changes a
face's surroundings far more than the motion before and after it does, and they stay changed; after a flash
they look as before. Fades, zooms and pans change them step by step.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from utils.media.picture import Picture

Table = npt.NDArray[np.float64]  # (SIDE + 1, SIDE + 1) sums of a grid's cells above and to the left
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


class Grid(NamedTuple):
    """Mean luma of the cells of a picture, and tables by which a place takes as long as the whole."""

    luma: npt.NDArray[np.uint8]  # (SIDE, SIDE)
    sums: Table
    squares: Table

    def has_contrast(self) -> bool:
        """Whether the picture as a whole shows anything."""
        return _energy(self, WHOLE)[1] >= MIN_CONTRAST**2 * SIDE**2


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


WHOLE = Place(slice(0, SIDE), slice(0, SIDE))


def _cells(start: float, end: float) -> slice:
    """Cells between two shares of a picture's side, at least LEAST_CELLS."""
    first = min(max(math.floor(SIDE * start), 0), SIDE - LEAST_CELLS)
    return slice(first, max(min(math.ceil(SIDE * end), SIDE), first + LEAST_CELLS))


def luma_grid(picture: Picture) -> Grid:
    """The grid of a picture, from some of its rows: it costs a hundredth of following a face."""
    stored = picture.stored_luma()
    if stored is None:
        luma, bits = cv2.cvtColor(picture.thumbnail(2 * SIDE), cv2.COLOR_RGB2GRAY), 8
    else:
        luma, bits = stored
    if min(luma.shape) >= 2 * SIDE:  # two rows per cell, and as many columns as fit: four times as fast
        step, left_over = divmod(len(luma), 2 * SIDE)
        columns = luma.shape[1] // SIDE * SIDE
        if left_over or columns != luma.shape[1]:  # from all of it, or cells would not be in their places
            luma = cv2.resize(luma, (columns, 2 * SIDE), interpolation=cv2.INTER_NEAREST)
        else:
            luma = luma[::step]
    if bits > 8:
        luma = cv2.convertScaleAbs(luma, alpha=2.0 ** (8 - bits))
    if len(luma) == 2 * SIDE and luma.shape[1] % (2 * SIDE) == 0:  # twice as fast again, to a grey level
        luma = cv2.resize(luma, (luma.shape[1] // 2, SIDE), interpolation=cv2.INTER_AREA)
    cells = np.asarray(cv2.resize(luma, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    if stored is not None:
        cells = np.ascontiguousarray(picture.upright(cells))
    sums, squares = cv2.integral2(cells, sdepth=cv2.CV_64F, sqdepth=cv2.CV_64F)
    return Grid(cells, np.asarray(sums, np.float64), np.asarray(squares, np.float64))


def common_of(one: Grid, other: Grid) -> Table:
    """The table of the products of two grids' cells."""
    products = cv2.multiply(one.luma, other.luma, dtype=cv2.CV_32F)  # whole numbers, exact
    return np.asarray(cv2.integral(products, sdepth=cv2.CV_64F), np.float64)


def unlike(one: Grid, other: Grid, place: Place, common: Table | None = None) -> float:
    """0 for pictures that differ in brightness and contrast alone, to 1 for those with nothing in common.

    Compares them at a place; `common`: `common_of` both, if it is known.
    """
    num_cells = (place.rows.stop - place.rows.start) * (place.columns.stop - place.columns.start)
    (sum_1, energy_1), (sum_2, energy_2) = _energy(one, place), _energy(other, place)
    if min(energy_1, energy_2) < MIN_CONTRAST**2 * num_cells:
        return 0.0
    product = _sum(common_of(one, other) if common is None else common, place)
    covariance = max(0.0, product - sum_1 * sum_2 / num_cells)
    return math.sqrt(max(0.0, 1 - covariance**2 / (energy_1 * energy_2)))


def may_be_cut(one: Grid, other: Grid, place: Place) -> bool:
    """False where `unlike` is below CUT without a doubt, at a fifth of its cost.

    What one picture leaves unexplained of the other is at most the square of their difference, and that of a
    place at most that of the whole.
    """
    return cv2.norm(one.luma, other.luma, cv2.NORM_L2SQR) >= CUT**2 * _energy(other, place)[1]


def _energy(grid: Grid, place: Place) -> tuple[float, float]:
    """(sum, sum of the squared distances from the mean) of the cells of a place."""
    num_cells = (place.rows.stop - place.rows.start) * (place.columns.stop - place.columns.start)
    total = _sum(grid.sums, place)
    return total, _sum(grid.squares, place) - total**2 / num_cells


def _sum(table: Table, place: Place) -> float:
    (top, bottom), (left, right) = ((part.start, part.stop) for part in place)
    item = table.item
    return float(item(bottom, right) - item(top, right) - item(bottom, left) + item(top, left))


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
            asked = places(picture).items()
            changed = [(key, place) for key, place in asked if may_be_cut(past[-1], grid, place)]
            common = common_of(past[-1], grid) if changed else None
            begun = [(key, place) for key, place in changed if _jumps(past, grid, place, common)]
        if begun:
            shots += ((later, luma_grid(later)) for later in itertools.islice(source, flash))
            grids = [grid for _, grid in shots]
            begun = [
                (key, place) for key, place in begun if len(grids) > flash and _stays(past, grids, place)
            ]
        for index, (shown, grid) in enumerate(shots):
            yield shown, [] if index else [key for key, _ in begun]
            if not past or grid.has_contrast():
                past.append(grid)


def _jumps(past: Sequence[Grid], grid: Grid, place: Place, common: Table | None) -> bool:
    """Whether a picture is another one than the last of those before it, which are alike."""
    last = past[-1]
    jump = unlike(last, grid, place, common)
    if jump < CUT:
        return False
    if place is WHOLE and float((cv2.absdiff(last.luma, grid.luma) < SAME_LUMA).mean()) > SAME_CAMERA:
        return False
    return all(jump >= MOTION_FACTOR * unlike(one, other, place) for one, other in itertools.pairwise(past))


def _stays(past: Sequence[Grid], grids: list[Grid], place: Place) -> bool:
    """Whether all of `grids` are unlike the last one before them, and they move little themselves."""
    jumps = [unlike(past[-1], grid, place) for grid in grids]
    motion = float(np.median([unlike(one, other, place) for one, other in itertools.pairwise(grids)]))
    return min(jumps) >= CUT / 2 and jumps[0] >= MOTION_FACTOR * motion
