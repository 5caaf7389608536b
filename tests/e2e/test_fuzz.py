"""A short run of python -m tests.fuzz; a long one is a matter of minutes and of another seed."""

import pytest

from tests.commands import run_command


@pytest.mark.slow
def test_hostile_files_of_every_kind_break_no_promise(tmp_path):
    result = run_command("-m", "tests.fuzz", "--cases", 60, "--seed", 11, "--keep", tmp_path / "kept")
    assert result.returncode == 0, result.stdout + result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("all")]
    cases, processed, refused, broken = map(int, line.split()[1:5])
    assert (cases, broken) == (60, 0)
    assert processed >= 5
    assert refused >= 20
    assert not (tmp_path / "kept").exists()
