"""What a new GPU is asked first, in under 8 minutes: bash tests/gpu.sh OUTPUT_FOLDER [--device cuda|cpu]

Says which of the required packages are missing, runs the tests marked `gpu`, a training step in an NCCL
group of one process, and measures training, evaluation, memory and the wait for data at batch 4 and 16 of
60x224x224. Needs no network, PyAV, soundfile or MediaPipe. Writes OUTPUT_FOLDER/gpu.json and gpu.md after
every step. A step that fails or takes too long is written down with its error, and the others go on; exit
status 1 if one did. --device cpu rehearses all of it with tiny sizes; on a busy machine give --patience 3.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 465.0  # of all steps together; what is left of 8 minutes is for the start and the end
# requirements whose module has another name; a package that offers the same module is as good
MODULES = {"opencv-contrib-python": "cv2", "opencv-python-headless": "cv2", "scikit-learn": "sklearn"}
MODULES |= {"scikit-image": "skimage", "protobuf": "google.protobuf", "ai-edge-litert": "ai_edge_litert"}


@dataclass(frozen=True)
class Step:
    """A command, after Python's name, and how long it may take; `{device}` and `{figures}` are filled in."""

    name: str
    limit_s: float
    command: tuple[str, ...]


@dataclass
class Outcome:
    """What became of a step."""

    name: str
    passed: bool
    seconds: float
    error: str = ""
    figures: list[dict[str, Any]] = field(default_factory=list)


def _tests(name: str, limit_s: float, *files: str) -> Step:
    options = ("-q", "-m", "gpu", "-p", "no:cacheprovider", "-rs", "--tb=short")
    places = tuple(f"tests/gpu/test_{file}.py" for file in files)
    return Step(name, limit_s, ("-m", "pytest", *options, "--junitxml={figures}", *places))


def _measurement(name: str, limit_s: float) -> Step:
    return Step(name.replace("_", " "), limit_s, ("-m", "tests.gpu.steps", name, "{device}", "{figures}"))


STEPS = (
    _tests("tests", 150, "numerics", "training"),
    _tests("one process", 60, "one_process"),
    *(_measurement("peak", 45), _measurement("train_eager", 90), _measurement("evaluate_eager", 60)),
    *(_measurement("data_wait", 75), _measurement("memory_peaks", 90)),
    # last: compilers may take any time
    *(_measurement("train_compiled", 200), _measurement("evaluate_compiled", 90)),
)


def required_packages() -> dict[str, str]:
    """Name -> tested version of what the set of requirements in use wants at run time, and pytest."""
    of_python = "requirements.txt" if sys.version_info < (3, 13) else "requirements-current.txt"
    ours = os.environ.get("REQUIREMENTS") or of_python  # as utils/shell/environment.sh chooses it
    lines, further = (
        [line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
        for name in (ours, "requirements-dev.txt")
    )
    pinned = [*lines, *(line for line in further if line.startswith("pytest=="))]
    return dict(line.split("==") for line in pinned if line)


def describe_packages() -> tuple[list[str], dict[str, str]]:
    """(missing packages, name -> "installed (tested)" of those of another version)."""
    missing, others = [], {}
    for name, tested in required_packages().items():
        module = MODULES.get(name, name)
        try:
            is_there = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # of a package within one that is missing
            is_there = False
        if not is_there:
            missing.append(name)
            continue
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            if (version := importlib.metadata.version(name)) != tested:
                others[name] = f"{version} ({tested})"
    return missing, others


def describe_machine(device: str) -> dict[str, Any]:
    """Device, versions and cores."""
    import torch

    has_gpu = device == "cuda" and torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name(0) if has_gpu else device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "cores": len(os.sched_getaffinity(0)),
    }


def run_step(step: Step, device: str, limit_s: float) -> Outcome:
    """Run a step's command in a process group of its own, which ends with it."""
    start = time.monotonic()
    if limit_s < 1:
        return Outcome(step.name, passed=False, seconds=0.0, error="no time was left for it")
    rehearsal = {"GPU_REHEARSAL_DEVICE": device} if device != "cuda" else {}
    with tempfile.TemporaryDirectory() as scratch:
        figures, log = Path(scratch) / "figures", Path(scratch) / "log"
        words = [part.replace("{device}", device) for part in step.command]
        command = [sys.executable, *(part.replace("{figures}", str(figures)) for part in words)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | rehearsal,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(limit_s)
                error = "" if status == 0 else f"exit status {status}: "
            except subprocess.TimeoutExpired:
                error = f"stopped after {limit_s:.0f} s: "
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        text = log.read_text(encoding="utf-8", errors="replace")
        rows, problem = read_figures(figures)
    error = (error + text[-3000:].strip()) if error else problem
    return Outcome(step.name, not error, round(time.monotonic() - start, 1), error, rows)


def read_figures(path: Path) -> tuple[list[dict[str, Any]], str]:
    """(rows that a step wrote, what is wrong with them): rows of figures, or the report of tests."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not text:
        return [], "it wrote nothing"
    if text.startswith("["):
        return json.loads(text), ""
    counts = {name: sum(map(int, re.findall(rf'\b{name}="(\d+)"', text)[:1])) for name in COUNTED}
    num_run = counts["tests"] - counts["skipped"]
    skipped = sorted(set(re.findall(r'<skipped [^>]*message="([^"]*)"', text)))
    return [counts | ({"why_skipped": skipped} if skipped else {})], "" if num_run > 0 else "no test ran"


COUNTED = ("tests", "failures", "errors", "skipped")
LABELS = ("batch_size", "precision", "compiled", "tf32", "checkpointed", "arithmetic", "readers")
UNITS = {"clips_per_s": "clips/s", "step_s": "s a step", "tflops": "TFLOP/s", "peak_memory_gb": "GB"}
UNITS |= {"peak_gb": "GB", "share_of_peak": "of the matrix peak", "data_wait_share": "waiting for data"}
UNITS |= {name: name for name in COUNTED}


def table(outcomes: list[Outcome]) -> str:
    """The Markdown table: a row for each figure of each step, and for each step that failed its error."""
    lines = ["| step | s | of what | figures |", "|---|---|---|---|"]
    for outcome in outcomes:
        for row in outcome.figures:
            of_what = ", ".join(f"{key} {row[key]}" for key in LABELS if key in row)
            parts = []
            for key, unit in UNITS.items():
                if isinstance(value := row.get(key), (int, float)):
                    number = f"{value:.1%}" if key.endswith(("_share", "_of_peak")) else f"{value:.4g}"
                    parts.append(f"{number} {unit}")
            lines.append(f"| {outcome.name} | {outcome.seconds} | {of_what} | {', '.join(parts)} |")
        if not outcome.passed:
            reason = outcome.error.strip().splitlines() or ["it failed"]
            shown = reason[0] if len(reason) == 1 else f"{reason[0]} ... {reason[-1]}"
            lines.append(f"| {outcome.name} | {outcome.seconds} | **failed** | {_cell(shown)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")[:300]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bash tests/gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output_folder", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a rehearsal")
    parser.add_argument("--patience", type=float, default=1.0, help="all limits of time are multiplied by it")
    args = parser.parse_args(argv)
    start = time.monotonic()
    missing, others = describe_packages()
    say(f"missing packages: {', '.join(missing) or 'none'}")
    say(f"other versions than the tested ones: {', '.join(f'{k} {v}' for k, v in others.items()) or 'none'}")
    args.output_folder.mkdir(parents=True, exist_ok=True)
    about = {"missing_packages": missing, "other_versions": others, "rehearsal": args.device != "cuda"}
    outcomes: list[Outcome] = []
    try:
        about |= describe_machine(args.device)
    except (ImportError, OSError, RuntimeError) as error:
        outcomes.append(Outcome("machine", passed=False, seconds=0.0, error=repr(error)))
    for step in STEPS:
        left_s = LIMIT_S * args.patience - (time.monotonic() - start)
        outcome = run_step(step, args.device, min(step.limit_s * args.patience, left_s))
        outcomes.append(outcome)
        say(f"{step.name}: {'passed' if outcome.passed else 'FAILED'} in {outcome.seconds} s")
        seconds = round(time.monotonic() - start, 1)
        content = about | {"seconds": seconds, "steps": [asdict(outcome) for outcome in outcomes]}
        text = json.dumps(content, indent=1) + "\n"
        (args.output_folder / "gpu.json").write_text(text, encoding="utf-8")
        (args.output_folder / "gpu.md").write_text(table(outcomes), encoding="utf-8")
    used_s = sum(os.times()[2:4])  # of the steps that have ended
    seconds = f"{time.monotonic() - start:.0f} s in all, {used_s:.0f} s of CPU time"
    say(f"\n{table(outcomes)}\n{seconds}, on {about.get('device', 'no device')}")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def say(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
