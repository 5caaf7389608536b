"""How scores change with the input: test.py --shortcuts and --robustness."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.batches.shortcut_probes import probe_batches
from models.method import LoaderNeeds
from preprocess.features.extraction import extract_alike
from preprocess.perturb.kinds import DEEPER_FORENSICS, Perturbation, ladder
from preprocess.perturb.variants import RobustnessConfig, make_variants
from utils.clip_type import Clip
from utils.evaluation.results import write_csv
from utils.evaluation.scoring import ClipScores
from utils.report.robustness import robustness_row, shortcut_row, write_robustness
from utils.run.distributed import is_main

log = logging.getLogger("test")


@dataclass(frozen=True)
class Scored:
    """Clips of one data set, their scores, and how to score them again."""

    clips: list[Clip]
    scores: ClipScores
    score: Callable[..., ClipScores]  # (batches, description=...)
    data: DataConfig
    workers: WorkerConfig
    needs: LoaderNeeds
    output_dir: Path
    device: torch.device
    caveat: str = ""  # what to say with every result


def measure_shortcuts(scored: Scored) -> list[dict[str, Any]]:
    """Score the clips again without sound, without picture, ...; write shortcuts.csv and return its rows.

    All processes must call this; the main one writes.
    """
    rows = [shortcut_row(scored.scores, scored.scores, "untouched")]
    for change, batches in probe_batches(scored.clips, scored.data, scored.workers, **scored.needs):
        rows.append(shortcut_row(scored.score(batches, description=change), scored.scores, change))
        log.info("%s: AUC %.4f (%+.4f)", change, rows[-1].auc, rows[-1].auc_difference)
    table = [dataclasses.asdict(row) for row in rows]
    if is_main():
        write_csv(scored.output_dir / "shortcuts.csv", table)
    return table


def measure_robustness(
    scored: Scored, config: RobustnessConfig, data_root: Path, raw_roots: Mapping[str, Path], split: str
) -> dict[str, Any]:
    """Score the clips under each perturbation; write robustness.json, .csv and .png; return the JSON.

    data_root: the prepared set. raw_roots: data set -> its raw videos. split: for the title.
    """
    name = scored.clips[0].dataset
    cache_dir = config.cache_dir or scored.output_dir / "variants"
    perturbations = [p for kind in config.robustness_kinds for p in (Perturbation(kind, 0), *ladder(kind))]
    all_variants = make_variants(
        scored.clips,
        perturbations,
        dataset=name,
        data_root=data_root,
        raw_root=raw_roots[name],
        cache_dir=cache_dir / name if len(raw_roots) > 1 else cache_dir,
        num_workers=max(1, scored.workers.resolved_workers),
    )
    rows = []
    for variants in all_variants:
        perturbation, scores = variants.perturbation, scored.scores
        if perturbation.level:
            folders = [clip.folder for clip in variants.clips]
            extract_alike(folders, scored.needs["recipes"], config.weights_dir, scored.device)
            batches = evaluation_loader(variants.clips, scored.data, scored.workers, **scored.needs)
            scores = scored.score(batches, description=perturbation.name)
        about = dataclasses.asdict(perturbation) | {"value": perturbation.value}
        row = robustness_row(scores, **about, num_lost=len(variants.lost), face_share=variants.face_share)
        rows.append(row)
        log.info("%s %d (%s): AUC %.4f, %d lost", row.kind, row.level, row.value, row.auc, row.num_lost)
    lost = {variants.perturbation.name: variants.lost for variants in all_variants if variants.lost}
    return write_robustness(
        scored.output_dir,
        rows,
        families={"deeper_forensics": DEEPER_FORENSICS},
        title=f"{name}, {split} split, {len(scored.clips)} clips",
        about={"dataset": name, "split": split, "caveat": scored.caveat, "lost": lost},
    )
