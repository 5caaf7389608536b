"""Processes of their own for what is measured."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch


def in_new_process(function: Callable[..., Any], *arguments: object, **environment: str) -> Any:
    """Return the function's result from a fresh process; raise its error if it raises one."""
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with patch.dict(os.environ, environment), pool:
        return pool.submit(function, *arguments).result()


def peak_mb() -> float:
    """Peak memory of this process; not ru_maxrss, which starts from the parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
