"""The house style as a test: sizes of files and functions, and phrases that are not to come back."""

import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {"demo_data", "saved_models", "fuzz_failures", "__pycache__", "node_modules", "venv"}
TEXTS = {".py", ".sh", ".md", ".html", ".css", ".js"}
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_SCRIPT_LINES = 300  # train.py and test.py
MAX_UNFORMATTED = 10
# in two halves each, so that this file is not its own finding; "there is none" is plain English
BREAK = r"\s+(?:#\s*)?"  # between two words, even over the lines of a comment
PHRASES = [r"\ban" r"ew\b", rf"\bso{BREAK}ma" r"ny\b", r"\bbes" r"ide\b", r"\bbeh" r"ind\b"]  # fmt: skip
PHRASES += [rf"\bfor{BREAK}ev" r"er\b", rf"(?<!\bthere )\b(?:is|are){BREAK}no" r"ne\b"]  # fmt: skip


def _texts():
    """Path relative to the project -> content, of all code, templates and READMEs."""
    found = {}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if name not in NOT_OURS and not name.startswith("."))
        for path in (Path(folder, name) for name in sorted(names)):
            if path.suffix in TEXTS:
                found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    return found


TEXT_OF = _texts()
CODE = {name: text for name, text in TEXT_OF.items() if re.fullmatch(r"(?!tests/).+\.py", name)}


def test_the_walk_finds_the_code():
    assert {"train.py", "utils/types.py", "loaders/audit/audit.html", "tests/run.sh", "README.md"} <= set(
        TEXT_OF
    )
    assert len(CODE) > 100


def test_no_function_is_longer_than_a_screen():
    long = [
        f"{name}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for name, text in CODE.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert not long


def test_no_file_is_too_long():
    lines = {name: len(text.splitlines()) for name, text in CODE.items()}
    limits = {"train.py": MAX_SCRIPT_LINES, "test.py": MAX_SCRIPT_LINES}
    assert not {name: count for name, count in lines.items() if count > limits.get(name, MAX_FILE_LINES)}


def test_few_lines_escape_the_formatter():
    counts = {name: count for name, text in CODE.items() if (count := text.count("# fmt: skip"))}
    assert sum(counts.values()) <= MAX_UNFORMATTED, counts


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_does_not_come_back(phrase):
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}"
        for name, text in TEXT_OF.items()
        for match in re.finditer(phrase, text)
    ]
    assert not found, "\n".join(found)
