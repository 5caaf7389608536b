"""Clips that turn out to be unreadable during a run: up to N are set aside, then the run stops."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from utils.errors import DatasetError, FrameworkError
from utils.run import distributed

log = logging.getLogger(__name__)


class BadClips:
    """Up to `limit` clips that were set aside, and the epoch in which each was found.

    In training, another clip replaces one that cannot be read; in validation it gets no score. From the next
    epoch on it is not drawn again. So what a run sees depends on the files alone, not on the speed of loader
    workers nor on interruptions.
    """

    def __init__(self, limit: int = 0, found: Mapping[str, int] | None = None) -> None:
        self.limit, self.epoch = limit, 0
        self.found = dict(found or {})  # clip id -> epoch; `found` is what a checkpoint lists

    def add(self, clip_id: str, error: FrameworkError) -> None:
        """Set a clip aside. Raises `error` if none may be, DatasetError if there are too many."""
        if clip_id in self.found:
            return
        if not self.limit:
            raise error
        self.found[clip_id] = self.epoch
        log.warning("set aside, %d of at most %d clips: %s", len(self.found), self.limit, error)
        self._require_within_limit()

    def share(self) -> None:
        """Merge what the processes of a run have found; all processes must call this."""
        if self.limit and distributed.world_size() > 1:
            pairs = {pair for found in distributed.gather_objects(self.found) for pair in found.items()}
            for clip_id, epoch in sorted(pairs):
                self.found[clip_id] = min(epoch, self.found.get(clip_id, epoch))
            self._require_within_limit()

    def left_out(self) -> set[str]:
        """Ids of the clips that are left out from the beginning of this epoch."""
        return {clip_id for clip_id, epoch in self.found.items() if epoch < self.epoch}

    def _require_within_limit(self) -> None:
        if len(self.found) > self.limit:
            raise DatasetError(
                f"{len(self.found)} clips cannot be read, --max_bad_clips allows {self.limit}: "
                f"{', '.join(sorted(self.found))}; check them with preprocess.verify"
            )
