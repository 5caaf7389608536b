"""Clips that turn out to be unreadable while a run is under way: so many of them are set aside, then it
stops.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from utils.errors import DatasetError, FrameworkError
from utils.run import distributed

log = logging.getLogger(__name__)


class BadClips:
    """Up to `limit` clips that were set aside, and in which epoch each was found.

    In training another clip stands in for one that cannot be read, in validation it gets no score; from the
    next epoch on it is not drawn any more. What a run sees thus depends on the files alone, neither on the
    speed of loader workers nor on where it was interrupted.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit, self.epoch = limit, 0
        self.found: dict[str, int] = {}  # clip id -> epoch

    def add(self, clip_id: str, error: FrameworkError) -> None:
        """Set a clip aside. Raises the error itself where none may be, DatasetError if there are too many."""
        if clip_id in self.found:
            return
        if not self.limit:
            raise error
        self.found[clip_id] = self.epoch
        log.warning("set aside, %d of at most %d clips: %s", len(self.found), self.limit, error)
        self._require_within_limit()

    def share(self) -> None:
        """Bring together what the processes of a run have found; all of them call it."""
        if self.limit and distributed.world_size() > 1:
            for clip_id, epoch in sorted(pair for found in distributed.gather_objects(self.found)
                                         for pair in found.items()):  # fmt: skip
                self.found[clip_id] = min(epoch, self.found.get(clip_id, epoch))
            self._require_within_limit()

    def left_out(self) -> set[str]:
        """Ids of the clips that this epoch does without from its beginning."""
        return {clip_id for clip_id, epoch in self.found.items() if epoch < self.epoch}

    def restore(self, found: Mapping[str, int]) -> None:
        """Take over what a checkpoint says was set aside."""
        self.found = dict(found)

    def _require_within_limit(self) -> None:
        if len(self.found) > self.limit:
            raise DatasetError(
                f"{len(self.found)} clips cannot be read, --max_bad_clips allows {self.limit}: "
                f"{', '.join(sorted(self.found))}; look at them with preprocess.verify"
            )
