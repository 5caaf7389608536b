"""The architecture as a test: which room may import which, and menus that fit each other."""

import ast
from pathlib import Path

import pytest

from losses import LOSSES
from models import MODELS

ROOT = Path(__file__).resolve().parents[2]
GROUND = tuple(f"utils/{name}" for name in ("types", "errors", "names", "config", "files"))
# room -> what it may import besides itself, all as path prefixes; the longest prefix of a file's path is its room.
# Third-party packages are free; a package's own name means its __init__.py.
MAY_IMPORT = {
    "utils": GROUND,
    "utils/media": GROUND,
    "utils/clip": (*GROUND, "utils/media"),
    "utils/run": GROUND,
    "utils/checkpoint": GROUND,
    "utils/evaluation": (*GROUND, "utils/run"),
    "utils/report": ("utils",),
    "models/blocks": (*GROUND, "utils/checkpoint"),
    "models/backbones": ("models/blocks", *GROUND, "utils/checkpoint"),
    "models/method.py": ("utils",),
    "models/beyond_masking": ("models/blocks", "models/backbones", "models/method.py", "utils"),
    "models/mrdf": ("models/blocks", "models/backbones", "models/method.py", "utils"),
    "models/m2sd": ("models/blocks", "models/backbones", "models/method.py", "utils"),
    "models": ("models", "utils"),
    "models/judging": ("models", "losses", "loaders", "preprocess", "utils"),
    "losses": ("losses", "utils"),
    "losses/beyond_masking.py": ("losses/lbd.py", "losses/contrastive.py", "models/beyond_masking", "utils"),
    "losses/mrdf.py": ("models/mrdf", "utils"),
    "loaders": ("loaders/listing.py", "loaders/groups.py", "utils"),
    "loaders/__init__.py": ("loaders/datasets", "loaders/listing.py"),
    "loaders/parts.py": ("loaders", "utils"),
    "loaders/datasets": ("loaders/listing.py", "loaders/groups.py", "utils"),
    "loaders/batches": ("utils",),
    "loaders/splits": ("loaders/listing.py", "loaders/groups.py", "utils"),
    "loaders/audit": (
        "loaders/__init__.py", "loaders/batches", "loaders/splits", "loaders/listing.py", "utils"
    ),
    "preprocess/faces": ("utils",),
    "preprocess/work": ("utils",),
    "preprocess/clip": ("preprocess/faces", "preprocess/work/jobs.py", "preprocess/work/limits.py", "utils"),
    "preprocess/demo": ("preprocess/faces", "utils"),
    "preprocess/perturb": ("preprocess/faces", "preprocess/work", "preprocess/clip", "utils"),
    "preprocess": (
        "preprocess/faces", "preprocess/work", "preprocess/clip", "preprocess/demo", "preprocess/perturb",
        "models/backbones", "utils",
    ),
    "train.py": ("models", "losses", "loaders", "utils"),
    "test.py": ("models", "losses", "loaders", "preprocess", "utils"),
}  # fmt: skip
PLACES = ("utils", "models", "losses", "loaders", "preprocess", "train", "test")


def _is_within(path, prefix):
    return path == prefix or path.removesuffix(".py") == prefix or path.startswith(f"{prefix}/")


def _room(path):
    return max((room for room in MAY_IMPORT if _is_within(path, room)), key=len)


def _file_of(name):
    """The project's file that a dotted name is or lies in; None for third-party packages."""
    parts = name.split(".")
    if parts[0] not in PLACES:
        return None
    while parts:
        base = ROOT.joinpath(*parts)
        if base.with_suffix(".py").is_file():
            return base.with_suffix(".py").relative_to(ROOT).as_posix()
        if (base / "__init__.py").is_file():
            return (base / "__init__.py").relative_to(ROOT).as_posix()
        parts.pop()
    raise AssertionError(f"{name} is nowhere in the project")


def _imports(path):
    """(line, project file) of every import of a file, those within functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if target := _file_of(name):
                yield node.lineno, target


FILES = [ROOT / "train.py", ROOT / "test.py"]
FILES += [path for place in PLACES[:5] for path in (ROOT / place).rglob("*.py")]
IMPORTS = [
    (path.relative_to(ROOT).as_posix(), line, target) for path in FILES for line, target in _imports(path)
]


def test_rooms_import_what_their_row_allows():
    assert len(FILES) > 150
    wrong = []
    for path, line, target in IMPORTS:
        room = _room(path)
        own = room if not room.endswith(".py") and room.count("/") else path
        allowed = (own, *MAY_IMPORT[room])
        if not any(_is_within(target, prefix) for prefix in allowed):
            wrong.append(f"{path}:{line} ({room}) imports {target}")
    assert wrong == []
