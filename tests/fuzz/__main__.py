"""Hostile input on purpose: what strangers' files can do to this project.

    python -m tests.fuzz --cases 1000 --seed 1
    python -m tests.fuzz --cases 200 --kind metadata checkpoints
    python -m tests.fuzz --seed 1 --case 417          # one case again, with its traceback

A case is a file, or a few, made from a seed and a number alone; the same two give the same bytes everywhere.
There are four kinds, in turn:

    media        raw videos through preprocess.prepare: cut off, damaged, absurd headers, playlists, bombs,
                 names
    metadata     tables and JSON of every data set through its loader, and the tables that commands exchange
    landmarks    prepared clips (landmarks.npy, clip.json, sound, crop) and packs through loader, audit and
                 verify
    checkpoints  best.pt, state_dicts, safetensors and config.json through test.py, train.py and load_detector

Each runs in a process of its own with limits on time and memory, and with Python's audit events watched. A
promise is broken by a crash of the parent, by any error that is not one of ours (a reason in one line), a
hang, more memory than --memory_mb, a file written or code run outside the output folder, a visit to the
network; and by a sound file that is refused, or code, NaNs and pictures of 16,384 x 16,384 that are not. Then
the exit status is 1 and the case lies in --keep, with its reason and the command that repeats it.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from tests.fuzz.cases import BROKEN, KINDS, PROCESSED, REFUSED, Case, Outcome, numbers_of
from tests.fuzz.prepare_runs import MediaLimits, MediaRuns, snapshot, with_expectation
from tests.fuzz.sandbox import Limits, run_alone, start, wait_for_any

JOBS = 2
PRELOADED = ("av", "cv2", "scipy.stats", "sklearn.metrics", "soundfile", "safetensors.torch")
PRELOADED += ("loaders.audit.audit", "models", "models.restore", "preprocess.verify", "train")
PRELOADED += ("utils.report.matrix",)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--cases", type=int, default=1000, help="how many (default: 1000)")
    add("--seed", type=int, default=0, help="another seed gives other cases (default: 0)")
    add("--kind", nargs="+", choices=KINDS, default=list(KINDS), help="only these kinds (default: all)")
    add("--case", type=int, help="run this one, and show what it wrote")
    add(
        "--keep",
        type=Path,
        default=Path("fuzz_failures"),
        help="where broken cases are put (default: fuzz_failures)",
    )
    add(
        "--seconds",
        type=float,
        default=20.0,
        help="time of a case; three times that of a video (default: 20)",
    )
    add(
        "--memory_mb",
        type=int,
        default=2048,
        help="memory of a case; twice that of a process of prepare (default: 2048)",
    )
    args = parser.parse_args(argv)
    if args.cases < 1 or args.seed < 0 or (args.case or 0) < 0 or args.seconds <= 0 or args.memory_mb < 1:
        parser.error("--cases, --seconds and --memory_mb are above 0, --seed and --case not below")
    return args


def kind_module(kind: str) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.{kind}")


class Run:
    """The cases of one call, in a scratch folder."""

    def __init__(self, scratch: Path, args: argparse.Namespace) -> None:
        self.scratch, self.args = scratch, args
        self.limits = Limits(seconds=args.seconds, memory_mb=args.memory_mb)

    def outcomes(self, cases: Sequence[Case]) -> Iterator[Outcome]:
        """What becomes of each case, in any order."""
        kinds = [kind for kind in KINDS if any(case.kind == kind for case in cases)]
        self._build(kinds)
        kept = snapshot([self.scratch / "base"])
        for kind in kinds:
            recipes = kind_module(kind).RECIPES
            of_kind = [case for case in cases if case.kind == kind]
            found = self._media(of_kind) if kind == "media" else self._forked(kind, of_kind)
            for outcome in found:
                yield with_expectation(outcome, outcome.case.recipe(recipes).expected)
            if snapshot([self.scratch / "base"]) != kept:
                raise RuntimeError(f"some case of {kind} has changed the files that cases start from")

    def _build(self, kinds: Sequence[str]) -> None:
        """The sound files that cases start from."""
        if set(kinds) - {"media"}:
            for module in PRELOADED:
                importlib.import_module(module)
        if "checkpoints" in kinds:
            kind_module("checkpoints").preload()
        (self.scratch / "base").mkdir()
        for kind in kinds:
            base = self.scratch / "base" / kind
            base.mkdir()
            run_alone(lambda kind=kind, base=base: kind_module(kind).build(base), self.scratch)

    def _media(self, cases: Sequence[Case]) -> Iterator[Outcome]:
        limits = MediaLimits(seconds=3 * self.args.seconds, memory_mb=2 * self.args.memory_mb)
        yield from MediaRuns(self.scratch, self.scratch / "base/media", limits).run(cases)

    def _forked(self, kind: str, cases: Sequence[Case]) -> Iterator[Outcome]:
        """Cases in children of this process, which has imported all that they need."""
        module, base = kind_module(kind), self.scratch / "base" / kind
        waiting, children = list(reversed(cases)), []
        while waiting or children:
            while waiting and len(children) < JOBS:
                case = waiting.pop()
                folder = self.scratch / "cases" / str(case.number)
                work = folder / "work"
                work.mkdir(parents=True)
                children.append(
                    start(
                        case,
                        lambda case=case, folder=folder: case.make(module.RECIPES, base, folder / "files"),
                        lambda folder=folder, work=work: module.exercise(folder / "files", work),
                        work,
                        self.limits,
                    )
                )
            for child, result in wait_for_any(children, self.limits):
                folder = self.scratch / "cases" / str(child.key.number)
                what = result["what"] or child.key.recipe(module.RECIPES).name
                details = {}
                if result["status"] == BROKEN or self.args.case is not None:
                    details["stderr"] = (folder / "work/output.txt").read_text(errors="replace")[-8000:]
                yield Outcome(
                    child.key,
                    what,
                    result["status"],
                    result["reason"],
                    result["seconds"],
                    result["peak_mb"],
                    details,
                )
                shutil.rmtree(folder)


def keep(outcome: Outcome, scratch: Path, args: argparse.Namespace) -> Path:
    """A broken case's files, reason and command, in a folder of its own."""
    case = outcome.case
    folder = args.keep / f"{case.kind}_{case.seed}_{case.number}"
    shutil.rmtree(folder, ignore_errors=True)
    command = f"python -m tests.fuzz --seed {case.seed} --case {case.number}"
    args.keep.mkdir(parents=True, exist_ok=True)
    recipes, base = kind_module(case.kind).RECIPES, scratch / "base" / case.kind
    run_alone(lambda: case.make(recipes, base, folder.absolute()), scratch)
    report = (outcome.what, outcome.reason, f"again: {command}", outcome.details.get("stderr", ""))
    (folder / "REASON.txt").write_text("\n".join(report), encoding="utf-8", errors="backslashreplace")
    return folder


def short(reason: str) -> str:
    """A reason without what differs from case to case."""
    reason = re.sub(r"^\w+Error: ", "", reason)
    reason = re.sub(r"'.*?'|\".*?\"", "'...'", reason)
    reason = re.sub(r"\S*/\S*", "PATH", reason)
    reason = re.sub(r"[-+]?\d[\d.,e+]*", "N", reason)
    return re.sub(r"^(PATH:? |line N: |entry N: |'...': )+", "", reason)[:88]


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """The summary, in lines."""
    columns = ("cases", "processed", "refused", "BROKEN", "median s", "max s", "max MB")
    head = f"{'kind':<12}" + "".join(
        f"{name:>{width}}" for name, width in zip(columns, (7, 11, 9, 8, 10, 8, 8), strict=True)
    )
    lines = [head]
    for kind in [kind for kind in KINDS if any(o.case.kind == kind for o in outcomes)] + ["all"]:
        own = [outcome for outcome in outcomes if kind in (outcome.case.kind, "all")]
        counts = Counter(outcome.status for outcome in own)
        seconds = [outcome.seconds for outcome in own]
        lines.append(
            f"{kind:<12}{len(own):>7}{counts[PROCESSED]:>11}{counts[REFUSED]:>9}{counts[BROKEN]:>8}"
            f"{statistics.median(seconds):>10.2f}{max(seconds):>8.2f}{max(o.peak_mb for o in own):>8.0f}"
        )
    for kind in KINDS:
        reasons = Counter(short(o.reason) for o in outcomes if o.case.kind == kind and o.status == REFUSED)
        if reasons:
            lines += ["", f"why {kind} were refused"]
            lines += [f"{count:>6}  {reason}" for reason, count in reasons.most_common(10)]
            rest = sum(count for _, count in reasons.most_common()[10:])
            lines += [f"{rest:>6}  other reasons"] if rest else []
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    tqdm.monitor_interval = 0  # it would be a second thread
    numbers = [args.case] if args.case is not None else numbers_of(args.cases, args.kind)
    cases = [Case(args.seed, number) for number in numbers]
    outcomes: list[Outcome] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        scratch = Path(folder).resolve()
        # disable=None: none in a log
        results = Run(scratch, args).outcomes(cases)
        progress = tqdm(results, total=len(cases), unit="case", dynamic_ncols=True, disable=None)
        for outcome in progress:
            outcomes.append(outcome)
            if outcome.status == BROKEN:
                text = f"BROKEN {outcome.case.kind} {outcome.case.number}: {outcome.what}: {outcome.reason}"
                progress.write(text.encode(errors="backslashreplace").decode(), file=sys.stderr)
                if args.case is None:
                    progress.write(f"    kept in {keep(outcome, scratch, args)}", file=sys.stderr)
            progress.set_postfix(broken=sum(o.status == BROKEN for o in outcomes))
    if args.case is not None:
        (outcome,) = outcomes
        text = f"{outcome.what}\n{outcome.details.get('stderr', '')}\n{outcome.status}: {outcome.reason}\n"
        sys.stdout.write(text.encode(errors="backslashreplace").decode())
    else:
        seconds = time.monotonic() - started
        sys.stdout.write("\n".join(table(outcomes)) + f"\n\nseed {args.seed}, {seconds:.0f} s\n")
    return int(any(outcome.status == BROKEN for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
