"""Random generators."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int, epoch: int = 0, rank: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices) from (seed, epoch, rank).

    An epoch draws the same numbers whether or not the run was interrupted before it.
    """
    sequence = np.random.SeedSequence((seed, epoch, rank) if rank else (seed, epoch))
    first, second = (int(word) for word in sequence.generate_state(2, np.uint64))
    random.seed(first)
    np.random.seed(first % 2**32)  # noqa: NPY002 (third-party code may use the global generator)
    torch.manual_seed(second % 2**63)
