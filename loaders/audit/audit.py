"""Audit a prepared data set: leaks between its splits, and shortcuts that separate fakes from reals.

    python -m loaders.audit --dataset fakeavceleb --data_root PREPARED [--output_dir DIR]

Splits are made as in train.py, with the same flags; --split_file takes those of a run. Prints the findings,
and writes audit.json and audit.html to --output_dir. Exit status: 0 if nothing was found, else 1. Notes (what
a data set does by design, what too few clips cannot decide) are not findings.

--ids_only is another command, with flags of its own: it compares published lists (loaders/audit/ids.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
from tqdm import tqdm

from loaders import DATASETS
from loaders.audit.duplicates import MAX_PICTURE_DISTANCE, MAX_SOUND_DISTANCE, find_copies
from loaders.audit.facts import ClipFacts, measure_clip
from loaders.audit.findings import REMOVE, Finding
from loaders.audit.leaks import MAX_EXAMPLES, find_identical_files, find_person_leaks
from loaders.audit.page import write_html
from loaders.audit.shortcuts import RuleResult, find_shortcuts, shortcut_findings
from loaders.listing import Listing, ListingConfig, describe
from loaders.splits.drawing import SPLITS, Split, SplitConfig
from loaders.splits.files import make_split, split_checksum
from utils.clip_type import Clip
from utils.config import opt, parse_groups, to_plain
from utils.evaluation.units import caveat
from utils.files import require_writable, write_text
from utils.run.progress import configure_logging, logging_redirect_tqdm

log = logging.getLogger("audit")
MIN_CLIPS_PER_WORKER = 100  # starting a process takes seconds


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """loaders/audit: what is audited."""

    dataset: str = opt(dataclasses.MISSING, "data set", choices=sorted(DATASETS))
    data_root: Path = opt(dataclasses.MISSING, "prepared data set (output of preprocess.prepare)")
    output_dir: Path = opt(Path("audit"), "where audit.json and audit.html are written")
    num_workers: int = opt(0, "processes that measure clips; 0: one per CPU core")

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")


@dataclass(frozen=True)
class Audit:
    """The result of an audit."""

    findings: list[Finding]  # notes included
    rules: list[RuleResult]
    counts: dict[str, dict[str, int]]  # split ("-": no split) -> "real" or category of fakes -> clips
    num_identities: int
    cost: dict[str, float]

    @property
    def found(self) -> list[Finding]:
        """The findings that are not notes."""
        return [finding for finding in self.findings if not finding.is_note]


def audit(listing: Listing, split: Split, *, num_workers: int = 1) -> Audit:
    """Measure all clips and look for leaks and shortcuts. Raises ClipError if a clip cannot be read."""
    clips, start = listing.clips, perf_counter()
    facts = measure_clips(clips, num_workers)
    measured = perf_counter()
    copies, cost = find_near_identical(clips, split, facts)
    findings = find_person_leaks(listing, split)
    if why := caveat(listing.identity_is):
        remedy = "look for one person in two parts yourself: only clips that are named alike were compared"
        findings.append(Finding("note_persons", why.removesuffix("."), remedy, is_note=True))
    checksums = {clip.clip_id: fact.checksums for clip, fact in zip(clips, facts, strict=True)}
    findings += find_identical_files(split.split_of, checksums) + copies
    compared = perf_counter()
    rules: list[RuleResult] = []
    if {clip.label for clip in clips} == {0, 1}:
        rules = find_shortcuts(clips, facts)
        findings += shortcut_findings(rules)
    else:
        what = f"all clips are {'fake' if clips[0].label else 'real'}: shortcuts cannot be measured"
        remedy = "audit it together with the other training data (data set manifest)"
        findings.append(Finding("note_one_class", what, remedy, is_note=True))
    counts: dict[str, Counter[str]] = {part: Counter() for part in (*SPLITS, "-")}
    for clip in clips:
        counts[split.split_of.get(clip.clip_id, "-")][clip.category if clip.label else "real"] += 1
    cost |= {
        "measuring_s": round(measured - start, 2),
        "leaks_s": round(compared - measured, 2),
        "shortcuts_s": round(perf_counter() - compared, 2),
    }
    return Audit(
        findings=findings,
        rules=rules,
        counts={part: dict(sorted(number_of.items())) for part, number_of in counts.items() if number_of},
        num_identities=len({clip.identity for clip in clips}),
        cost=cost,
    )


def measure_clips(clips: Sequence[Clip], num_workers: int) -> list[ClipFacts]:
    """Facts of all clips, in their order, measured in at most `num_workers` processes."""
    num_workers = min(num_workers, len(clips) // MIN_CLIPS_PER_WORKER)
    with contextlib.ExitStack() as stack:
        stack.enter_context(logging_redirect_tqdm())
        results: Iterable[ClipFacts] = map(measure_clip, clips)
        if num_workers > 1:
            # spawn: a fork would inherit the threads of the numerical libraries
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(num_workers, context, cv2.setNumThreads, (0,))
            stack.callback(pool.shutdown, cancel_futures=True)
            results = pool.map(measure_clip, clips, chunksize=4)
        return list(tqdm(results, "measure", total=len(clips), unit="clip", leave=False))


def find_near_identical(
    clips: Sequence[Clip], split: Split, facts: Sequence[ClipFacts]
) -> tuple[list[Finding], dict[str, float]]:
    """(findings, cost): copies across splits by picture and by sound, except byte-identical files."""
    findings: list[Finding] = []
    cost: dict[str, float] = {}
    known = [(clip, fact) for clip, fact in zip(clips, facts, strict=True) if clip.clip_id in split.split_of]
    for kind, limit in (("picture", MAX_PICTURE_DISTANCE), ("sound", MAX_SOUND_DISTANCE)):
        # all silent clips sound alike: that is not a sign of a common origin
        rows = [(clip, fact) for clip, fact in known if kind == "picture" or not fact.silent]
        if not rows:
            continue
        parts = [split.split_of[clip.clip_id] for clip, _ in rows]
        matches = find_copies(np.stack([getattr(fact, kind) for _, fact in rows]), parts, limit)
        cost[f"{kind}_pairs_compared"] = matches.num_compared
        cost[f"{kind}_pairs_passed_over"] = matches.num_passed_over
        pairs = []
        for (first, second), distance in zip(matches.pairs, matches.distances, strict=True):
            pair = rows[first], rows[second]
            checksums = {fact.checksums.get(kind) for _, fact in pair}
            if len(checksums) == 2 or None in checksums:  # otherwise found as identical files
                pairs.append((distance, [clip.clip_id for clip, _ in pair]))
        if pairs:
            num_clips = len({name for _, names in pairs for name in names})
            what = f"{len(pairs)} pairs of clips in different splits have nearly the same {kind}"
            examples = [
                " and ".join(f"{name} ({split.split_of[name]})" for name in names)
                + f", distance {distance:.2f} of {limit}"
                for distance, names in pairs[:MAX_EXAMPLES]
            ]
            kind_of_leak = f"leak_near_identical_{kind}"
            findings.append(Finding(kind_of_leak, f"{what} ({num_clips} clips)", REMOVE, examples))
    return findings, cost


def main() -> int:
    config, listing_config, split_config = parse_groups(__doc__, AuditConfig, ListingConfig, SplitConfig)
    configure_logging()
    require_writable(config.output_dir)
    listing = DATASETS[config.dataset](config.data_root, listing_config)
    split = make_split(listing, split_config, check=False)
    for line in [describe(listing), *split.describe_dropped()]:
        log.info(line)
    if why := listing.caveat("audited"):
        log.warning("%s: %s", config.dataset, why)
    result = audit(listing, split, num_workers=config.num_workers or multiprocessing.cpu_count())
    about = {
        "dataset": config.dataset,
        "caveat": listing.caveat("audited"),
        "num_clips": len(listing.clips),
        "num_missing": len(listing.missing),
        "num_excluded": len(listing.excluded),
        "split_checksum": split_checksum(split),
        "split": to_plain(split_config),
        "command": shlex.join(["python", "-m", "loaders.audit", *sys.argv[1:]]),
    }
    verdict = {"verdict": "found" if result.found else "nothing found"}
    content = about | verdict | dataclasses.asdict(result)
    write_text(config.output_dir / "audit.json", json.dumps(content, indent=1) + "\n")
    write_html(config.output_dir / "audit.html", result, about)
    for finding in result.findings:
        log.info("%s %s: %s", "note" if finding.is_note else "FOUND", finding.kind, finding.summary)
        for example in finding.examples:
            log.info("    %s", example)
        if not finding.is_note:
            log.info("    remedy: %s", finding.remedy)
    number = f"{len(result.found)} findings" if result.found else "nothing found"
    log.info("%s: %d clips, %s; written to %s", config.dataset, len(listing.clips), number, config.output_dir)
    return 1 if result.found else 0
