"""What a command shows and writes about its jobs: a progress bar, and CSV files of failures."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from preprocess.work.workers import AnyJob, Outcomes


@contextlib.contextmanager
def with_progress(
    outcomes: Outcomes[AnyJob], total: int, unit: str = "clip"
) -> Iterator[Iterator[tuple[AnyJob, str, str]]]:
    """The same outcomes under a progress bar that counts failures. The workers end with the context."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    bar = tqdm(total=total, unit=unit, smoothing=0.05, dynamic_ncols=True)

    def shown() -> Iterator[tuple[AnyJob, str, str]]:
        num_failed = 0
        for job, status, reason in outcomes:
            yield job, status, reason
            num_failed += status == "failed"
            bar.set_postfix(failed=num_failed, refresh=False)
            bar.update()

    with logging_redirect_tqdm(), contextlib.closing(outcomes), bar:
        yield shown()


def csv_text(header: Sequence[str], rows: Iterable[tuple[str, ...]]) -> str:
    """CSV text of the rows, sorted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(sorted(rows))
    return text.getvalue()


def failures_csv(failures: Iterable[tuple[str, str]]) -> bytes:
    """CSV file with the columns path and reason, sorted by path."""
    return csv_text(("path", "reason"), failures).encode()
