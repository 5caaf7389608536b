"""Whether two stretches of a video, from one camera in one light, show the same person.

Told by how a face looks on average, aligned by its pose: the pattern of its luma (hairline, glasses, beard)
and its colours in place. Among 29 people, two stretches of one person agree in nine of ten cases (not if the
head is turned in one of them), and two people never.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from utils.media.planes import Planes

SIDE = 16  # of the picture of a face that is compared
AROUND = 1.2  # side of what it shows, in face heights
EVERY = 5  # frames with the face; the others are not looked at
MAX_LUMA = 0.2  # 1 - correlation of the luma
MAX_COLOUR = 2.5  # mean distance of the chroma, in levels; 2.8 and more between two people


class Person:
    """How a face looks on average."""

    def __init__(self) -> None:
        self._luma, self._colour = np.zeros((SIDE, SIDE)), np.zeros((2, SIDE // 2, SIDE // 2))
        self._num_calls = 0
        half = SIDE // 2
        self._drawn = Planes(*(np.zeros((side, side), np.uint8) for side in (SIDE, half, half)))

    def see(self, planes: Planes, x: float, y: float, height: float) -> None:
        """Add a picture with a face of that height around (x, y); most are ignored."""
        self._num_calls += 1
        if self._num_calls % EVERY != 1:
            return
        side = AROUND * height
        factor = max(1, int(side / SIDE))
        left, top = (x - side / 2) / factor, (y - side / 2) / factor
        planes.shrunk(factor).draw_square(left, top, side / factor, self._drawn)
        self._luma += self._drawn.y
        self._colour += self._drawn.u, self._drawn.v

    def is_like(self, other: Person) -> bool:
        """Whether both are the same person, as far as can be told."""
        if not self._num_calls or not other._num_calls:
            return False
        columns = slice(SIDE // 8, -SIDE // 8)  # the wall is next to the face
        one, two = self._luma[:, columns].ravel(), other._luma[:, columns].ravel()
        if min(one.std(), two.std()) == 0:
            return False
        colours = [
            person._colour[..., SIDE // 16 : -SIDE // 16] / -(-person._num_calls // EVERY)
            for person in (self, other)
        ]
        away: npt.NDArray[np.float64] = np.abs(colours[0] - colours[1]).mean(axis=(1, 2))
        return bool(1 - np.corrcoef(one, two)[0, 1] < MAX_LUMA and np.hypot(*away) < MAX_COLOUR)
