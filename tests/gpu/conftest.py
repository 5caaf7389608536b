"""The device of the tests marked `gpu`: CUDA, or what GPU_REHEARSAL_DEVICE names."""

from __future__ import annotations

import os

import pytest
import torch


def pytest_collection_modifyitems(items):
    if os.environ.get("GPU_REHEARSAL_DEVICE") or torch.cuda.is_available():
        return
    reason = "needs a CUDA device; GPU_REHEARSAL_DEVICE=cpu runs it on the CPU"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def device():
    """The device, with plain float32: no TF32, which has 10 bits of mantissa."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield torch.device(os.environ.get("GPU_REHEARSAL_DEVICE") or "cuda")
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
