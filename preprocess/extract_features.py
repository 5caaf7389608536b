"""Features of a frozen backbone for prepared clips, computed once and loaded instead of the signals.

    python -m preprocess.extract_features --data_root prepared --backbone marlin_small --weights_dir weights
    torchrun --nproc_per_node 4 -m preprocess.extract_features --data_root prepared --backbone ...   # 4 GPUs

Every clip folder gets features/BACKBONE.npy, (S, D) float32, and features/BACKBONE.json: which seconds a row
belongs to, the settings, and checksums of the weights and of the files that were read; with --layer N, both
are called BACKBONE.layerN. preprocess.verify checks them, preprocess.pack packs them, and a clip that is
prepared again loses them.

Weights are not downloaded: a missing file is an error that says where it comes from and under which licence.
After an interruption, call it again: features that fit the flags, the weights and the clip stay. Machines
take a --shard each (1/16, 2/16, ...). DATA_ROOT/features_failures.csv lists the clips that cannot be read;
the exit status is then 1.
"""

from __future__ import annotations

import logging
import os

from preprocess.features.extraction import ExtractConfig, extract
from preprocess.work.batch import FolderConfig, WorkConfig, clip_folders
from preprocess.work.jobs import PARTIAL_NAME
from preprocess.work.progress import failures_csv
from preprocess.work.workers import lock_partial
from utils.config import parse_groups
from utils.errors import run_command
from utils.files import write_atomically
from utils.run.distributed import launched

log = logging.getLogger(__name__)


def main() -> int:
    config, data = parse_groups(__doc__, ExtractConfig, FolderConfig)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    shard, num_shards = WorkConfig(shard=config.shard).shard_numbers()
    if launched():  # each process is a shard of this machine's
        shard += num_shards * int(os.environ["RANK"])
        num_shards *= int(os.environ["WORLD_SIZE"])
    folders = clip_folders(data.data_root)[shard - 1 :: num_shards]
    failures: list[tuple[str, str]] = []
    with lock_partial(data.data_root / PARTIAL_NAME, f"{config.feature_name}_{shard}_of_{num_shards}"):
        done, there = extract(config, folders, failures)
    suffix = "" if num_shards == 1 else f"_{shard}_of_{num_shards}"
    table = data.data_root / f"features_failures{suffix}.csv"
    table.unlink(missing_ok=True)
    if failures:
        write_atomically(table, lambda partial: partial.write_bytes(failures_csv(failures)))
    where = f" (see {table})" if failures else ""
    log.info("%d extracted, %d already there, %d failed%s", done, there, len(failures), where)
    return 1 if failures else 0


if __name__ == "__main__":
    run_command(main)
