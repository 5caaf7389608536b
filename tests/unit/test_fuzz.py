"""The fuzzing command's own promises: it sees what it says it sees, and a case can be made again."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import media
from tests.fuzz.__main__ import parse_args, short, table
from tests.fuzz.cases import BROKEN, KINDS, PROCESSED, REFUSED, Case, Outcome, kind_of, numbers_of, ordinal_of
from tests.fuzz.mutate import NASTY_TEXTS, damage, mutate_json, mutate_table
from tests.fuzz.prepare_runs import Listener, snapshot, with_expectation
from tests.fuzz.sandbox import Limits, start, wait_for_any
from utils.errors import DatasetError


def outcome_of(work, folder, **limits):
    """(status, reason) of some work in a child with limits."""
    folder.mkdir(exist_ok=True)
    limits = Limits(**{"seconds": 20.0, "memory_mb": 512, **limits})
    children = [start("case", lambda: "some work", work, folder, limits)]
    while True:
        for _, result in wait_for_any(children, limits):
            return result["status"], result["reason"]


def refuse():
    raise DatasetError("metadata.csv: no such file")


def raise_another():
    raise KeyError("x")


def kill_itself():
    os.kill(os.getpid(), 9)


def take_memory():
    return str(len(bytearray(2 << 30)))


def take_an_hour():
    time.sleep(3600)


def take_the_processor():
    while True:
        pass


def fill_a_disk():
    with Path("large").open("wb") as file:
        for _ in range(100):
            file.write(bytes(1 << 20))


def ask_the_network():
    with socket.socket() as connection:
        connection.connect_ex(("127.0.0.1", 9))
    return ""


def start_a_program():
    subprocess.run([sys.executable, "-c", "pass"], check=False)
    return ""


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: "", (PROCESSED, "")),
        (lambda: "too small", (REFUSED, "too small")),
        (refuse, (REFUSED, "DatasetError: metadata.csv: no such file")),
        (raise_another, (BROKEN, "KeyError")),
        (kill_itself, (BROKEN, "crashes: its process ended with signal SIGKILL")),
        (lambda: os._exit(3), (BROKEN, "crashes: its process ended with status 3")),
        (take_memory, (BROKEN, "MemoryError")),
        (take_an_hour, (BROKEN, "hangs")),
        (take_the_processor, (BROKEN, "hangs")),
        (fill_a_disk, (BROKEN, "")),
        (ask_the_network, (BROKEN, "it socket.connect")),
        (start_a_program, (BROKEN, "it subprocess.Popen")),
        (lambda: str(os.system("true") or ""), (BROKEN, "it os.system")),
        (lambda: Path("inside").write_text("x") and "", (PROCESSED, "")),
    ],
)
def test_the_sandbox_sees(tmp_path, work, expected):
    slow = work in (take_an_hour, take_the_processor)
    status, reason = outcome_of(work, tmp_path / "work", seconds=1.0 if slow else 20.0)
    assert (status, reason[: len(expected[1])]) == expected


@pytest.mark.parametrize(
    "work",
    [
        lambda path: path.write_text("x") and "",
        lambda path: path.mkdir() or "",
        lambda path: path.symlink_to("x") or "",
        lambda path: Path("x").write_text("x") and Path("x").rename(path) and "",
        lambda path: (path.parent / "there").unlink() or "",
    ],
)
def test_the_sandbox_sees_what_is_written_outside(tmp_path, work):
    (tmp_path / "there").touch()
    status, reason = outcome_of(lambda: work(tmp_path / "outside"), tmp_path / "work")
    assert status == BROKEN
    assert str(tmp_path) in reason


def test_a_visit_and_a_change_are_noticed(tmp_path):
    listener = Listener()
    assert listener.num_visits() == 0
    with socket.create_connection(("127.0.0.1", listener.port)):
        assert listener.num_visits() == 1
    (tmp_path / "secret").write_text("a")
    before = snapshot([tmp_path])
    assert snapshot([tmp_path]) == before
    (tmp_path / "secret").write_text("b")
    assert snapshot([tmp_path]) != before


def test_a_sound_file_must_be_taken_and_a_bomb_refused():
    outcome = Outcome(Case(0, 0), "x", REFUSED, "no")
    assert with_expectation(outcome, PROCESSED).status == BROKEN
    assert with_expectation(outcome, REFUSED).status == with_expectation(outcome, "").status == REFUSED
    assert with_expectation(Outcome(Case(0, 0), "x", PROCESSED), REFUSED).status == BROKEN


def test_a_number_is_one_case_of_one_kind():
    places = [(kind_of(number), ordinal_of(number)) for number in range(200)]
    assert len(set(places)) == 200
    for kind in KINDS:
        assert numbers_of(7, [kind]) == [number for number in range(200) if kind_of(number) == kind][:7]
        assert [ordinal for name, ordinal in places if name == kind] == list(
            range(places.count((kind, 0)) and sum(k == kind for k, _ in places))
        )
    assert numbers_of(10, KINDS) == list(range(10))


@pytest.mark.parametrize("number", [0, 10, 15])
def test_the_same_seed_and_number_make_the_same_files(tmp_path, number):
    (tmp_path / "base").mkdir()
    for suffix in media.CONTAINERS:
        (tmp_path / "base" / f"valid{suffix}").write_bytes(bytes(range(256)) * 20)
    found = []
    for name in ("a", "b"):
        what = Case(7, number).make(media.RECIPES, tmp_path / "base", tmp_path / name)
        found.append((what, {p.name: p.read_bytes() for p in (tmp_path / name).iterdir() if p.is_file()}))
    assert found[0] == found[1]


def test_damage_is_drawn_from_the_generator_alone():
    table_text, json_text = b"a,b\n1,2\n3,4\n", b'[{"a": [1, 2], "b": {"c": "d"}}]'
    for seed in range(60):
        for make, data in ((damage, bytes(1000)), (mutate_table, table_text), (mutate_json, json_text)):
            one, other = (make(np.random.default_rng(seed), data) for _ in range(2))
            assert one == other
    assert len(set(NASTY_TEXTS)) == len(NASTY_TEXTS)


def test_the_summary_counts_reasons_without_names():
    assert short("DatasetError: /tmp/a/b.csv, line 17: label is '2', expected 0") == short(
        "DatasetError: /tmp/c.csv, line 2: label is 'x', expected 0"
    )
    cases = [Case(0, number) for number in range(3)]
    lines = table(
        [
            Outcome(cases[0], "a", PROCESSED),
            Outcome(cases[1], "b", REFUSED, "no"),
            Outcome(cases[2], "c", BROKEN),
        ]
    )
    assert any(line.startswith("all") and line.split()[1:5] == ["3", "1", "1", "1"] for line in lines)
    assert "     1  no" in lines


@pytest.mark.parametrize("flags", ["--cases 0", "--kind spam", "--case -1", "--seconds 0", "--case_s 1"])
def test_flags_that_make_no_sense_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        parse_args(flags.split())
    assert "error" in capsys.readouterr().err
