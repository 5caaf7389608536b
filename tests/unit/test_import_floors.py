"""The architecture as a test: who may import whom, and menus that fit each other."""

import ast
from pathlib import Path

from losses import LOSSES
from models import MODELS

ROOT = Path(__file__).resolve().parents[2]
FLOOR = {
    "utils": 1,
    "models": 2,
    "losses": 2,
    "loaders": 2,
    "preprocess": 2,
    "train": 3,
    "test": 3,
    "tests": 4,
}
# wires the floors below it, as test.py does; it stands beside the menu because its callers look for it there
JUDGING = "models/judging"


def _imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield node.lineno, node.module


def test_every_import_goes_down_a_floor():
    wrong, num_files = [], 0
    for path in [ROOT / "train.py", ROOT / "test.py", *ROOT.glob("[!.]*/**/*.py")]:
        place = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if place not in FLOOR or place == "tests":
            continue
        num_files += 1
        floor = 3 if path.is_relative_to(ROOT / JUDGING) else FLOOR[place]
        for line, module in _imports(path):
            target = module.split(".")[0]
            if target in FLOOR and target != place and FLOOR[target] >= floor:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert num_files > 30
    assert wrong == []


def test_every_model_has_its_objective():
    assert MODELS.keys() == LOSSES.keys()


def test_tests_have_no_part_in_the_program():
    assert (ROOT / "tests" / "run.sh").stat().st_mode & 0o111
