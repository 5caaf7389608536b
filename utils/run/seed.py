"""Random generators."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int, epoch: int = 0, rank: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices) from (seed, epoch, rank), so that an epoch draws the same
    numbers whether or not the run was interrupted before it, and each process its own."""
    words = np.random.SeedSequence((seed, epoch, rank) if rank else (seed, epoch))
    words = words.generate_state(2, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(int(words[0] % 2**32))  # noqa: NPY002 (third-party code may still draw from the global generator)
    torch.manual_seed(int(words[1] % 2**63))
