"""Train many configurations as one study, and compare them.

    python train.py --search FILE.json --data_root PREPARED --run_dir saved_models/X [any flag of train.py]

FILE.json names flags of train.py: "base" for all trials, and either "rows", which are run as they are, or a
"space" with a "sampler" (grid, random or tpe); "seeds" repeat them. Flags next to --search win over "base".
Every combination is checked before the first trial starts. Each trial is a run in RUN_DIR/trials; the best is
chosen by validation AUC alone. --search_test dfdc=PREPARED_2 kodf=PREPARED_3 tests on these data sets, too.
Writes search.csv, points.csv, search.png and search.html to RUN_DIR. The same command goes on after a stop,
and several of them share the work.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from utils.config import Parser, from_args, opt, require_above
from utils.errors import UsageError
from utils.files import require_writable
from utils.run.distributed import launched
from utils.run.progress import configure_logging, logging_redirect_tqdm
from utils.run.resume import stop_request
from utils.search.checks import Checked, elsewhere_of, require_same_search
from utils.search.definition import Definition, folder_name, given_flags
from utils.search.loop import Search
from utils.search.page import write_results
from utils.search.results import Point
from utils.search.study import ProcessLock, Study, held

log = logging.getLogger("search")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """train.py --search: many runs as one study; all other flags are those of its trials."""

    search: Path = opt(MISSING, "FILE.json that describes the trials")
    search_jobs: int = opt(1, "trials that run at the same time, on as many GPUs or shares of the cores")
    search_test: tuple[str, ...] = opt((), "NAME=ROOT ...: also test on these prepared data sets")
    search_base: bool = opt(True, 'take the values of "base" in the file; false = train.py\'s own')
    run_dir: Path | None = opt(None, "where the search is written; none = saved_models/ and its name")

    def __post_init__(self) -> None:
        require_above(self, 0, "search_jobs")


def main(argv: Sequence[str], parse: Callable[[list[str]], Any]) -> int:
    """`train.py --search`. Exit status 1 if a trial or a test failed, 128 + N after signal N."""
    if not {"-h", "--help"}.isdisjoint(argv):
        argv = ["--help"]  # "--search --help" lacks a file
    args, rest = Parser(__doc__, {"search": SearchConfig}).parse_known_args(argv)
    config = from_args(SearchConfig, args)
    if launched():
        raise UsageError("--search starts processes of its own: call it without torchrun, with --search_jobs")
    definition = Definition.read(config.search, given_flags(rest), use_base=config.search_base)
    checked = Checked(definition, parse, elsewhere_of(config.search_test))
    configs = checked.check()
    run_dir = config.run_dir or Path("saved_models") / folder_name(definition.name)
    require_writable(run_dir)
    writing = ProcessLock(run_dir / "write.lock")  # several processes may share the folder
    with held(writing):
        require_same_search(run_dir, checked, sys.argv)
    configure_logging(run_dir / "search.log")
    study = Study(run_dir, definition)
    with logging_redirect_tqdm(), stop_request() as request:
        search = Search(study, checked, Path(sys.argv[0]).parent, config.search_jobs, request)

        def write() -> Point | None:
            with held(writing):
                return write_results(study, checked, configs, search.failed)

        with search.guarded():
            search.train(write)
            best = write()
            if definition.test is not None and not request.heard():
                search.test(search.to_test(best.name if best else None))
                best = write()
    if best:
        log.info("best by validation: %s; see %s", best.name, run_dir / "search.html")
    if number := request.number:
        log.info("stopped; the same command goes on from here")
        return 128 + number
    return 1 if search.failed else 0
