"""What a run writes about itself: train.log, metrics.csv, TensorBoard events."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path

from utils.files import write_text
from utils.run.distributed import is_main

log = logging.getLogger(__name__)


class RunLog:
    """TensorBoard curves (`train/lbd`, `val/auc`) and metrics.csv, one row per epoch.

    After a resume at `first_step` and `num_epochs` the rows and curves of later, lost epochs are dropped.
    Of several processes only the main one writes.
    """

    def __init__(self, run_dir: Path, *, first_step: int = 0, num_epochs: int = 0) -> None:
        self.path = run_dir / "metrics.csv"
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and test.py needs none

        # what a run that was killed before its first checkpoint has drawn is taken back, too
        self.writer = SummaryWriter(str(run_dir), purge_step=first_step) if is_main() else None
        self.step = first_step
        self.rows: list[dict[str, str]] = []
        if num_epochs and self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as file:
                self.rows = list(csv.DictReader(file))[:num_epochs]
        if self.writer and len(self.rows) < num_epochs:
            log.warning("%s: has lost the rows of %d epochs", self.path, num_epochs - len(self.rows))

    def curves(self, values: dict[str, float], step: int) -> None:
        """Add a point to TensorBoard curves."""
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def train_step(self, values: dict[str, float]) -> None:
        """Record one optimiser step: loss terms, gradient norm, learning rate."""
        self.curves({f"train/{name}": value for name, value in values.items()}, self.step)
        self.step += 1

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Record one epoch: a row of metrics.csv (rewritten whole, atomically) and the validation curves."""
        if not self.writer:
            return
        curves = {name.replace("_", "/", 1): values[name] for name in values if name.startswith("val_")}
        # at the epoch's last step: a resumed run takes back what stands at its first one or later
        self.curves(curves, self.step - 1)
        self.flush()
        self.rows.append({"epoch": str(epoch), **{name: repr(value) for name, value in values.items()}})
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(self.rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, buffer.getvalue())

    def flush(self) -> None:
        """Write out all curves up to now, so that they are there as far as a checkpoint is."""
        if self.writer:
            self.writer.flush()

    def close(self) -> None:
        if self.writer:
            self.writer.close()
