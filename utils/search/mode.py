"""Whether train.py trains or searches. Light: Optuna and what draws pages are imported for a search alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

FLAG = "--search"


def choose_mode(argv: Sequence[str], parse: Callable[[list[str]], Any]) -> Callable[[], int] | None:
    """The search that --search among the flags asks for; None = train.

    parse: train.py's own `parse_args`, by which each run of a search is checked before the first one starts.
    """
    if not any(word.partition("=")[0] == FLAG for word in argv):
        return None
    from utils.search import command  # seconds that a training need not wait for

    return functools.partial(command.main, argv, parse)
