"""The architecture as a test: which room may import which, and menus that fit each other."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

from loaders import DATASETS
from losses import LOSSES
from models import MODELS

ROOT = Path(__file__).resolve().parents[2]
GROUND = tuple(f"utils/{name}" for name in ("types", "clip_type", "errors", "names", "config", "files"))
# room -> what it may import besides itself, as path prefixes: the longest prefix of a path is its room.
# Third-party packages are free.
MAY_IMPORT = {
    "utils": GROUND,
    "utils/__init__.py": ("utils/run/memory.py",),
    "utils/media": GROUND,
    "utils/clip": (*GROUND, "utils/media"),
    "utils/checkpoint": GROUND,
    "utils/run": (*GROUND, "utils/checkpoint"),  # it saves
    "utils/evaluation": (*GROUND, "utils/run"),
    "utils/report": ("utils",),
    "utils/search": ("utils",),  # above reports; train.py hands it its parser
    "models/blocks": (*GROUND, "utils/checkpoint", "utils/clip/face_regions.py"),  # numbers alone
    "models/backbones": ("models/blocks", *GROUND, "utils/checkpoint"),
    "models/method.py": ("utils",),
    "models/m2sd": ("models/blocks", "models/backbones", "models/method.py", "utils"),
    "models": ("models", "utils"),
    "models/judging": ("models", "losses", "loaders", "preprocess", "utils"),
    "models/export": ("models", "loaders", "utils"),
    # an entry point: it hands networks to those who know the methods
    "utils/checkpoint/__main__.py": (*GROUND, "utils/checkpoint", "models/export"),
    "losses": ("losses", "utils"),
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
    "preprocess/features": ("preprocess/faces/mouth.py", "preprocess/work", "models/backbones", "utils"),
    "preprocess/perturb": ("preprocess/faces", "preprocess/work", "preprocess/clip", "utils"),
    "preprocess": (
        "preprocess/faces", "preprocess/work", "preprocess/clip", "preprocess/demo", "preprocess/perturb",
        "preprocess/features", "utils",
    ),
    # an entry point: it reads a data set's tables by the loaders' own readers before the work begins
    "preprocess/prepare.py": (
        *("preprocess/work", "preprocess/clip", "preprocess/faces", "utils"),
        *("loaders/__init__.py", "loaders/listing.py"),
    ),
    "train.py": ("models", "losses", "loaders", "utils"),
    "test.py": ("models", "losses", "loaders", "preprocess", "utils"),
}  # fmt: skip
LOSS_PARTS = tuple(
    f"losses/{path.name}" for path in (ROOT / "losses").glob("[!_]*.py") if path.stem not in MODELS
)
MAY_IMPORT |= {f"models/{name}": MAY_IMPORT["models/m2sd"] for name in MODELS}
MAY_IMPORT |= {f"losses/{name}.py": (f"models/{name}", *LOSS_PARTS, "utils") for name in MODELS}
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


@functools.cache
def all_imports():
    """(file, line, imported file) of the whole project."""
    return [
        (path.relative_to(ROOT).as_posix(), line, target) for path in FILES for line, target in _imports(path)
    ]


def test_rooms_import_what_their_row_allows():
    assert len(FILES) > 150
    wrong = []
    for path, line, target in all_imports():
        room = _room(path)
        own = room if not room.endswith(".py") and room.count("/") else path
        allowed = (own, *MAY_IMPORT[room])
        if not any(_is_within(target, prefix) for prefix in allowed):
            wrong.append(f"{path}:{line} ({room}) imports {target}")
    assert wrong == []


def test_a_command_imports_no_other_command():
    commands = {path.relative_to(ROOT).as_posix() for path in (ROOT / "preprocess").glob("[!_]*.py")}
    assert "preprocess/prepare.py" in commands
    wrong = [f"{path}:{line} imports {target}" for path, line, target in all_imports()
             if target in commands and path != target]  # fmt: skip
    assert wrong == []


def test_a_data_set_imports_no_other_data_set():
    menu = {target for path, _, target in all_imports() if path == "loaders/__init__.py"}
    assert len(menu) == len(DATASETS)
    wrong = [f"{p}:{line} imports {target}" for p, line, target in all_imports() if {p, target} <= menu]
    assert wrong == []


def test_a_method_imports_no_other_method():
    methods = MODELS.keys()
    wrong = []
    for path, line, target in all_imports():
        owner, other = Path(path).parts, Path(target).parts
        if owner[0] in ("models", "losses") and other[0] in ("models", "losses"):
            own, their = (Path(parts[1]).stem for parts in (owner, other))
            if own in methods and their in methods and own != their:
                wrong.append(f"{path}:{line} imports {target}")
    assert wrong == []


def test_no_imports_go_in_a_circle():
    below = {}
    for path, _, target in all_imports():
        below.setdefault(path, set()).add(target)
    finished, circles = set(), []

    def visit(path, way):
        if path in way:
            circles.append(" -> ".join((*way[way.index(path) :], path)))
        elif path not in finished:
            for target in sorted(below.get(path, set()) - {path}):
                visit(target, (*way, path))
            finished.add(path)

    for path in sorted(below):
        visit(path, ())
    assert circles == []


def test_every_model_has_its_objective():
    assert MODELS.keys() == LOSSES.keys()


def test_tests_have_no_part_in_the_program():
    assert (ROOT / "tests" / "run.sh").stat().st_mode & 0o111
    wrong = [
        path for path in FILES if re.search(r"^\s*(from|import) tests\b", path.read_text(), re.MULTILINE)
    ]
    assert wrong == []


# each process of `test.py --robustness` imports "perturb.variants", and that of `test.py --video` "annotate"
WITHOUT_TORCH = ("loaders", "loaders.splits.files", "loaders.audit.audit", "preprocess.perturb.variants")
WITHOUT_TORCH += ("preprocess.demo.__main__", "preprocess.ffpp_audio", "preprocess.pack", "preprocess.verify")
WITHOUT_TORCH += ("preprocess.prepare", "preprocess.work.batch", "models.judging.annotate")


def test_what_prepares_audits_and_draws_loads_no_pytorch():
    """It takes four seconds and hundreds of megabytes in every process."""
    source = f"import {', '.join(WITHOUT_TORCH)}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False, cwd=ROOT).returncode == 0
