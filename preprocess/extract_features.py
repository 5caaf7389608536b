"""Features of a frozen backbone for prepared clips, computed once and loaded instead of the signals.

    python -m preprocess.extract_features --data_root prepared --backbone marlin_small --weights_dir weights
    torchrun --nproc_per_node 4 -m preprocess.extract_features --data_root prepared --backbone ...   # 4 GPUs

Every clip folder gets features/BACKBONE.npy, (S, D) float32, and features/BACKBONE.json: which seconds a row
belongs to, the settings, and checksums of the weights and of the files that were read; with --layer N, both
are called BACKBONE.layerN. preprocess.verify checks them, preprocess.pack packs them, and a clip that is
prepared again loses them.

Weights are not downloaded: a missing file is an error that says where it comes from and under which licence.
After an interruption, call it again: features that fit the flags, the weights and the clip stay. Machines
take a --shard each (1/16, 2/16, ...), or one command hands out the clips on a Ray cluster (--executor ray).
DATA_ROOT/features_failures_BACKBONE.csv lists the clips that cannot be read, or written; the exit status is
then 1.

DATA_ROOT may be a URL of an object store, as the --output of preprocess.prepare: of a clip, what the backbone
reads is fetched, and the features are uploaded next to it. What is there fits if its .json and clip.json do.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import MISSING, dataclass

from preprocess.features.extraction import ExtractConfig, extract
from preprocess.features.on_ray import extract_on_ray
from preprocess.features.places import find_clips
from preprocess.work.batch import WorkConfig, conclude
from preprocess.work.ray_workers import ExecutorConfig
from preprocess.work.workers import lock_partial
from utils.config import opt, parse_groups
from utils.errors import UsageError, run_command
from utils.run.distributed import launched


@dataclass(frozen=True, kw_only=True)
class PlaceConfig:
    """preprocess/extract_features.py: which clip folders are read."""

    data_root: str = opt(MISSING, "folder that holds the clip folders, at any depth, or a URL")


def main() -> int:
    config, place, executor = parse_groups(__doc__, ExtractConfig, PlaceConfig, ExecutorConfig)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    shard, num_shards = WorkConfig(shard=config.shard).shard_numbers()
    on_ray = executor.executor == "ray"
    if launched() and on_ray:
        raise UsageError("--executor ray starts processes of its own: call it without torchrun")
    if launched():  # each process is a shard of this machine's
        shard += num_shards * int(os.environ["RANK"])
        num_shards *= int(os.environ["WORLD_SIZE"])
    batch = find_clips(place.data_root)
    jobs = batch.jobs[shard - 1 :: num_shards]
    suffix = f"_{shard}_of_{num_shards}"
    table = f"features_failures_{config.feature_name}{'' if num_shards == 1 else suffix}.csv"
    with lock_partial(batch.output.workspace(), f"{config.feature_name}{suffix}") as partial:
        if on_ray:
            outcomes = extract_on_ray(config, jobs, partial, address=executor.ray_address)
        else:
            outcomes = extract(config, [dataclasses.replace(job, scratch=partial) for job in jobs])
        return conclude(outcomes, len(jobs), batch.output, partial, table, done="extracted")


if __name__ == "__main__":
    run_command(main)
