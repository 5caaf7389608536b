"""Features on a Ray cluster: actors that keep the backbone take groups of clips."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.backbones.backbone import Encoder
from preprocess.features.extraction import ExtractConfig, extract, make_encoder, new_encoder
from preprocess.work.jobs import Job
from preprocess.work.ray_workers import Actors, connect, hand_out
from preprocess.work.workers import Outcomes
from utils.errors import UsageError

PACKAGES = ("preprocess", "models", "utils")  # of the project, which a node needs
GROUP = 64  # clips at most: batches of pieces go over clips, and only a group's last one is filled up
GROUPS_EACH = 4  # at least, if there are clips enough: no actor waits long for the last one


class Extractor:
    """What an actor does with a group of clips. Sent to the nodes with the weights, which are read once."""

    def __init__(self, config: ExtractConfig, made: tuple[Encoder, str, str]) -> None:
        encoder, *about = made
        self._config, self._state, self._about = config, encoder.state_dict(), about
        self._made: Any = None  # on the node

    def __call__(self, jobs: Sequence[Job], scratch: Path) -> list[tuple[str, str]]:
        if self._made is None:
            encoder = new_encoder(self._config)
            encoder.load_state_dict(self._state)
            self._made = encoder, *self._about
        there = [dataclasses.replace(job, scratch=scratch) for job in jobs]
        found = {job.name: rest for job, *rest in extract(self._config, there, self._made)}
        return [(status, reason) for status, reason in (found[job.name] for job in jobs)]


def extract_on_ray(
    config: ExtractConfig, jobs: Sequence[Job], partial: Path, *, address: str
) -> Outcomes[Job]:
    """`extract` by one actor per GPU of the cluster at `address`, or per share of the cores without GPUs.

    partial: folder next to the clips, by which nodes see that they share it. Raises UsageError if there is no
    such cluster, or no GPU that was asked for.
    """
    made = make_encoder(config)
    ray = connect(address, PACKAGES)
    config = dataclasses.replace(config, device=_device(config.device, ray.cluster_resources()))
    crew = Actors(ray, Extractor(config, made), partial, on_gpus=config.device == "cuda")
    size = min(GROUP, math.ceil(len(jobs) / (GROUPS_EACH * crew.places())) or 1)
    groups = (tuple(jobs[first : first + size]) for first in range(0, len(jobs), size))
    yield from hand_out(ray, groups, crew)


def _device(name: str, resources: dict[str, float]) -> str:
    """The device of all actors."""
    has_gpus = resources.get("GPU", 0) >= 1
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name}: Ray gives each actor a GPU of its own; say --device cuda")
    if name == "cuda" and not has_gpus:
        raise UsageError("--device cuda: no node of the Ray cluster has a GPU; use --device cpu")
    return "cuda" if has_gpus and name != "cpu" else "cpu"
