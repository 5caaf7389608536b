"""test.py --scores: judge the scores that any detector gave the clips of a data set.

    python test.py --scores scores.csv --higher_means fake --dataset fakeavceleb --data_root PREPARED
    python test.py --scores scores.csv --higher_means real --data_root LISTS --metadata_only

scores.csv has a header, a column with the clip (clip_id, path, file, ...) and one with the score. It must
have each clip of the evaluated part once: clips that are missing, doubled or unknown are refused by name. An
empty score means that the detector gave none for that clip; such clips count against the coverage. The
numbers are those of test.py for the same scores. Writes test_metrics.json, predictions.csv and
result_card.json to --output_dir, with --against also comparison.json and comparison.md.

--metadata_only needs no prepared clips: --data_root is the raw data set, or a folder with its lists.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logit

from loaders import DATASETS
from loaders.audit.audit import measure_clips
from loaders.audit.correlations import shortcut_correlations
from loaders.batches.labels import clip_labels
from loaders.batches.silence import TRIM_RULES
from loaders.listing import Listing, ListingConfig, MetadataConfig
from loaders.splits.drawing import SPLITS, Split, SplitConfig
from loaders.splits.files import make_split
from loaders.splits.lists import ClipNames, Row, read_list, top_folders
from models.judging.outputs import log_split, provenance, write_metrics
from preprocess.work.raw_layouts import SOURCES, read_raw_dataset
from preprocess.work.tables import show_as_prepared
from utils.clip.generated import caveat_of_clips, finder
from utils.clip_type import Clip
from utils.config import opt, parse_groups
from utils.errors import ClipError, DatasetError, UsageError
from utils.evaluation.metrics import Floats, area_under_roc, lacks_a_class
from utils.evaluation.results import all_metrics, headline, write_csv, write_predictions
from utils.evaluation.scoring import ClipScores
from utils.files import file_sha256, require_writable, write_text
from utils.report.compare import as_table, compare_runs
from utils.run.progress import configure_logging

log = logging.getLogger("test")
SCORE_COLUMNS = ("score", "logit")
MAX_NAMED = 10  # clips of each kind in the message; the file has all
CERTAIN = 1000.0  # logit of a probability of 0 or 1: beyond that of any other
NO_MODEL = "a file of scores says nothing of it"


@dataclass(frozen=True, kw_only=True)
class ScoresConfig:
    """test.py --scores: whose scores, of which clips."""

    scores: Path = opt(dataclasses.MISSING, "CSV with a row for each clip: its name and its score")
    higher_means: str = opt(
        dataclasses.MISSING, "what a higher score says of a clip; no default", choices=("fake", "real")
    )
    dataset: str = opt("fakeavceleb", "data set of the clips", choices=sorted(DATASETS))
    data_root: Path = opt(dataclasses.MISSING, "prepared data set; with --metadata_only its lists")
    metadata_only: bool = opt(False, "read nothing but the data set's own lists: no clip need be prepared")
    split: str = opt("test", "which clips: a split, or all", choices=(*SPLITS, "all"))
    score_column: str = opt("", f"column with the scores; default: {' or '.join(SCORE_COLUMNS)}")
    score_scale: str = opt(
        "logit",
        "logit = any number, on the other side of 0 for the other class; prob = probabilities, of which 0.5 "
        "decides. Only accuracies depend on it",
        choices=("logit", "prob"),
    )
    label_rule: str = opt(
        "any", "any = fake if picture or sound is; video = by the picture alone", choices=("any", "video")
    )
    trimmed: str = opt(
        "unknown",
        "whether the detector saw the clips without their leading silence, for the result card and --matrix: "
        "by the rules of --trim_rule of test.py",
        choices=("unknown", "no", *TRIM_RULES),
    )
    detector: str = opt("", "name of the detector in results; default: the name of the file")
    against: Path | None = opt(None, "predictions.csv of another detector on the same clips, to compare with")
    shortcut_correlations: bool = opt(
        True, "measure the clips' facts, and how scores follow them (reads all)"
    )
    num_workers: int = opt(0, "processes that measure clips; 0: one per CPU core")
    output_dir: Path = opt(Path("scores"), "where results are written")


def list_metadata(dataset: str, root: Path, config: ListingConfig) -> Listing:
    """The listing of a data set from its raw folder, or from a folder with its lists alone.

    Data sets without a table are listed by the names of their raw videos. Raises DatasetError as the loader
    does.
    """
    options = MetadataConfig(**vars(config))
    try:
        raw = read_raw_dataset(dataset, root) if dataset in SOURCES else None
    except DatasetError:  # the lists lie there without videos
        raw = None
    if raw is None:
        return DATASETS[dataset](root, options)
    with tempfile.TemporaryDirectory(prefix="tables_") as place, _naming(place, root):
        show_as_prepared(raw, Path(place))
        listing = DATASETS[dataset](Path(place), options)
    generated = finder()(root)
    return dataclasses.replace(
        listing, generated=frozenset(clip.clip_id for clip in listing.clips if generated)
    )


@contextlib.contextmanager
def _naming(place: str, root: Path) -> Iterator[None]:
    """Errors about the temporary `place` are about `root`."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(str(error).replace(place, str(root))) from error


def match_scores(
    rows: Sequence[Row], listing: Listing, wanted: Sequence[Clip], column: str, refused: Path
) -> dict[str, float | None]:
    """Clip id -> score of each of the `wanted` clips, in their order; None where the detector gave none.

    Raises DatasetError if one is missing, or a row's clip is unknown or has another row; it names them, and
    the CSV `refused` lists all. Clips of other parts are left out.
    """
    names = ClipNames(listing.dataset, listing.all_clips)
    rows_of: dict[str, list[Row]] = defaultdict(list)
    problems: dict[str, list[tuple[str, str]]] = {"missing": [], "doubled": [], "unknown": []}
    found_clips = names.find_below([row.name for row in rows], top_folders(wanted))
    for row, clip in zip(rows, found_clips, strict=True):
        if clip is None:
            problems["unknown"].append((row.name, row.where))
        else:
            rows_of[clip.clip_id].append(row)
    for clip_id, found in rows_of.items():
        if len(found) > 1:
            problems["doubled"].append((clip_id, ", ".join(row.where.rpartition(", ")[2] for row in found)))
    ids = [clip.clip_id for clip in wanted]
    problems["missing"] = [(clip_id, "") for clip_id in ids if clip_id not in rows_of]
    if any(problems.values()):
        table = [
            {"problem": kind, "clip": name, "where": where}
            for kind, found in problems.items()
            for name, where in found
        ]
        write_csv(refused, table)
        shown = "; ".join(_named(kind, found) for kind, found in problems.items() if found)
        raise DatasetError(f"{rows[0].where.rpartition(', ')[0]}: {shown}; all of them: {refused}")
    if others := len(rows_of) - len(ids):
        log.info("%d scores are of clips of other parts: they are left out", others)
    return {clip_id: _score_in(rows_of[clip_id][0], column) for clip_id in ids}


def _named(kind: str, found: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{name} ({where})" if kind == "doubled" else name for name, where in found[:MAX_NAMED])
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return f"{len(found)} {kind}: {shown}{more}"


def _score_in(row: Row, column: str) -> float | None:
    text = row.values[column]
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DatasetError(f"{row.where}: {column} is {text!r}, expected a number, or nothing for no score")
    return value


def score_column(rows: Sequence[Row], wanted: str) -> str:
    """The column with the scores. Raises DatasetError if there is none, or no header."""
    where = rows[0].where
    columns = list(rows[0].values)
    found = [name for name in ([wanted.lower()] if wanted else SCORE_COLUMNS) if name in columns]
    if not found:
        looked = wanted or " or ".join(SCORE_COLUMNS)
        there = ", ".join(columns) or "no header with a column clip_id, path or file"
        raise DatasetError(f"{where}: no column {looked} above it, but {there}; see --score_column")
    return found[0]


def as_logits(values: Floats, scale: str, higher_means: str, where: Path) -> Floats:
    """(n,) scores as logits of "fake": exact for logits, whose sign alone may change.

    Raises DatasetError for a probability outside [0, 1].
    """
    inside = bool(((values >= 0) & (values <= 1)).all())
    if scale == "prob":
        if not inside:
            raise DatasetError(f"{where}: --score_scale prob, but some scores are not in [0, 1]")
        values = np.clip(logit(values), -CERTAIN, CERTAIN)
    elif inside and len(values):
        log.warning("all scores are in [0, 1]: give --score_scale prob if they are probabilities")
    return values if higher_means == "fake" else -values


def coverage_of(clips: Sequence[Clip], labels: Floats, logits: Mapping[str, float]) -> dict[str, Any]:
    """How many of the clips have a score, per category, and the AUC if those without count as wrong."""
    counts, scored = Counter(clip.category for clip in clips), Counter[str]()
    scored.update(clip.category for clip in clips if clip.clip_id in logits)
    without = [clip.clip_id for clip in clips if clip.clip_id not in logits]
    result: dict[str, Any] = {
        "num_clips": len(clips),
        "num_scored": len(logits),
        "share": len(logits) / len(clips),
        "per_category": {name: scored[name] / count for name, count in sorted(counts.items())},
        "without_score": without,
    }
    if without and not lacks_a_class(labels, ""):
        worst = np.where(labels == 1, -np.inf, np.inf)
        values = np.array([logits.get(clip.clip_id, np.nan) for clip in clips])
        limit = 1 + np.abs(list(logits.values()) or [0.0]).max()
        result["auc_if_wrong"] = area_under_roc(
            labels, np.where(np.isnan(values), np.clip(worst, -limit, limit), values)
        )
    return result


def evaluate_scores(
    config: ScoresConfig, listing_config: ListingConfig, split_config: SplitConfig
) -> dict[str, Any]:
    """Judge the scores, write the files of the results and return the content of test_metrics.json."""
    out, name = config.output_dir, config.dataset
    rows = read_list(config.scores)
    column = score_column(rows, config.score_column)
    if config.metadata_only:
        listing = list_metadata(name, config.data_root, listing_config)
    else:
        listing = DATASETS[name](config.data_root, listing_config)
    all_clips = config.split == "all"
    split = Split(name, {}, {}, set()) if all_clips else make_split(listing, split_config, check=False)
    protocol = log_split(listing, split, tells_overlaps=not all_clips)  # as if it was trained on the others
    clips = listing.clips if all_clips else split.select(listing.clips, config.split)
    part = f"the {config.split} split of {name}"
    if not clips:
        raise DatasetError(f"{part} has no clips")
    given = match_scores(rows, listing, clips, column, out / "refused_scores.csv")
    kept = {clip_id: value for clip_id, value in given.items() if value is not None}
    if not kept:
        raise DatasetError(f"{config.scores}: no clip has a score")
    logits = as_logits(
        np.array(list(kept.values()), float), config.score_scale, config.higher_means, config.scores
    )
    scored = [clip for clip in clips if clip.clip_id in kept]
    scores = _clip_scores(scored, logits, config.label_rule)
    caveat = caveat_of_clips("tested", listing.num_generated(scored), len(scored))
    result: dict[str, Any] = {
        "dataset": name,
        "split": config.split,
        "seen_in_training": None,
        "caveat": caveat,
        **all_metrics(None, scored, scores, split.donor_disjoint, part),
        "decision": {"reason": NO_MODEL},
        "domain": {"reason": NO_MODEL},
        "coverage": coverage_of(
            clips,
            np.array([clip_labels(clip, config.label_rule)[0] for clip in clips]),
            dict(zip(kept, logits.tolist(), strict=True)),
        ),
        "shortcut_correlations": _correlations(config, scored, scores),
        "run": _described(config, file_sha256(config.scores)),
        "data": {"label_rule": config.label_rule},
        "trimmed": config.trimmed,
        "scores": {
            "file": config.scores.name,
            "column": column,
            "scale": config.score_scale,
            "higher_means": config.higher_means,
        },
        **provenance(split, protocol, scores, torch.device("cpu")),
    }
    write_predictions(out / "predictions.csv", scored, scores, split.donor_disjoint)
    write_metrics(out, result)
    return result


def _clip_scores(clips: Sequence[Clip], logits: Floats, rule: str) -> ClipScores:
    return ClipScores(
        clip_ids=[clip.clip_id for clip in clips],
        labels=np.array([clip_labels(clip, rule)[0] for clip in clips]),
        logits=logits,
        video_logits=None,
        audio_logits=None,
        num_windows=np.zeros(len(clips), np.int64),  # unknown
        window_logits=[],
        mean_terms={},
    )


def _described(config: ScoresConfig, sha256: str) -> dict[str, Any]:
    """The "run" of test_metrics.json: the file stands for the checkpoint, which is not known."""
    return {
        "name": config.detector or config.scores.stem,
        "checkpoint_sha256": sha256,
        "is_score_file": True,
        "generated_sets": None,
        "configuration": None,
    }


def _correlations(config: ScoresConfig, clips: Sequence[Clip], scores: ClipScores) -> dict[str, Any]:
    if config.metadata_only:
        return {"reason": "--metadata_only: the clips' facts were not measured"}
    if not config.shortcut_correlations:
        return {"reason": "not asked for"}
    try:
        facts = measure_clips(clips, config.num_workers or multiprocessing.cpu_count())
    except (ClipError, UsageError) as error:
        log.warning("the clips' facts could not be measured: %s", error)
        return {"reason": str(error)}
    persons = [clip.identity for clip in clips]
    return shortcut_correlations(facts, scores.labels, scores.logits, persons)


def log_results(result: Mapping[str, Any]) -> None:
    """Say the main numbers, and the facts that the scores follow most."""
    coverage = result["coverage"]
    log.info("%d of %d clips have a score", coverage["num_scored"], coverage["num_clips"])
    followed = [
        (abs(row[kind]["correlation"]), row["what"], kind, row[kind])
        for row in result["shortcut_correlations"].values()
        if isinstance(row, dict)
        for kind in ("real", "fake")
        if "interval" in row[kind] and row[kind]["interval"][0] * row[kind]["interval"][1] > 0
    ]
    for _, what, kind, found in sorted(followed, key=lambda item: -item[0])[:5]:
        low, high = found["interval"]
        log.info(
            "%ss: the score follows %s, correlation %.2f (%.2f to %.2f)",
            *(kind, what, found["correlation"], low, high),
        )
    for name in ("clips", "persons"):
        if bounds := result.get("delong", {}).get(name, {}).get("interval"):
            log.info("AUC by DeLong over %s: %.4f to %.4f", name, *bounds)


def main(argv: Sequence[str] | None = None) -> int:
    """`test.py --scores`."""
    configs = parse_groups(__doc__, ScoresConfig, ListingConfig, SplitConfig, argv=argv)
    config: ScoresConfig = configs[0]
    configure_logging()
    require_writable(config.output_dir)
    result = evaluate_scores(*configs)
    log_results(result)
    if config.against is not None:
        comparison = compare_runs((config.output_dir / "predictions.csv", config.against), (0.5, 0.5))
        write_text(config.output_dir / "comparison.json", json.dumps(comparison, indent=1) + "\n")
        table = as_table(comparison)
        write_text(config.output_dir / "comparison.md", table)
        log.info("\n%s", table)
    log.info("%s: %s; written to %s", config.dataset, headline(result), config.output_dir)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0
