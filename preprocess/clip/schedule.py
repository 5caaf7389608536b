"""Which frame of the source each frame of the crop shows, so that the crop has a constant rate."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from utils.errors import ClipError
from utils.media.container import MAX_UNDECODED
from utils.media.picture import Picture
from utils.media.times import VideoTimes
from utils.media.video import iterate_pictures


def frame_schedule(times: VideoTimes) -> npt.NDArray[np.int64]:
    """(T,) int64: index of the source frame that each frame of the crop shows.

    At a constant rate, each frame is taken once. At a varying rate, crop frame i shows the source frame
    nearest to i / fps, but over a gap the last one stays, as in a player, until a frame before the next one;
    fps is the average rate, so T stays the same.
    """
    count = len(times.starts_s)
    if times.constant:
        return np.arange(count)
    wanted = times.starts_s[0] + np.arange(count) / float(times.fps)
    after = np.clip(np.searchsorted(times.starts_s, wanted), 1, count - 1)
    until_after = times.starts_s[after] - wanted
    stays = until_after > 1 / float(times.fps)
    return after - (stays | (wanted - times.starts_s[after - 1] <= until_after))


def iterate_schedule(
    source: Path, times: VideoTimes, undecoded: list[int] | None = None
) -> Iterator[Picture]:
    """Yield the T pictures of the crop's frames in order, in one decode pass.

    Where a frame cannot be decoded, the one before is repeated, and the number of the crop's frame is added
    to `undecoded`. Raises ClipError if more than MAX_UNDECODED of the listed frames cannot be decoded.
    """
    schedule = frame_schedule(times).tolist()
    # a frame's time may differ from the packet's in the last float digits
    starts_s = (times.starts_s - 1e-5).tolist()
    undecoded = [] if undecoded is None else undecoded
    position = 0
    picture = None
    for time_s, decoded in iterate_pictures(source):
        index = bisect.bisect_right(starts_s, time_s) - 1
        while position < len(schedule) and (wanted := schedule[position]) <= index:
            if wanted < index:  # listed, but not decoded
                undecoded.append(position)
            yield decoded if wanted == index or picture is None else picture
            position += 1
        picture = decoded
    if picture is None:
        raise ClipError(source, "no frame can be decoded; get the file again")
    undecoded += range(position, len(schedule))
    missing = {schedule[number] for number in undecoded}
    if len(missing) > MAX_UNDECODED * len(schedule) + 1:
        share = f"{len(missing)} of {len(schedule)}"
        first_s = undecoded[0] / float(times.fps)
        reason = f"damaged: {share} frames cannot be decoded, the first at {first_s:.1f} s"
        raise ClipError(source, f"{reason}; get the file again")
    for _ in range(position, len(schedule)):
        yield picture
