import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.run.memory import huge_page_variables, huge_pages_for_children

ROOT = Path(__file__).resolve().parents[4]
# page faults of ten windows' frames, after the first two, and torch's setting
SOURCE = """
import os, resource, numpy, utils
from utils.run.memory import keep_freed_memory
keep_freed_memory()
for index in range(12):
    if index == 2: before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    frames = [numpy.ones(60 * 224 * 224 * 3, numpy.uint8) for _ in range(2)]
    del frames
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, os.environ.get("THP_MEM_ALLOC_ENABLE"))
"""


def in_new_process(**variables):
    ours = {"THP_MEM_ALLOC_ENABLE", "TUNE_MEMORY"}
    known = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", SOURCE]
    printed = subprocess.check_output(command, cwd=ROOT, env=known | variables, text=True)
    faults, setting = printed.split()
    return int(faults), setting


@pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library is tuned")
def test_the_switch_turns_tuning_off():
    tuned_faults, setting = in_new_process()
    assert tuned_faults < 1000
    assert setting == "1"
    plain_faults, setting = in_new_process(TUNE_MEMORY="0")
    assert plain_faults > 5 * tuned_faults
    assert setting == "None"


def test_what_the_user_has_set_stays(monkeypatch):
    assert in_new_process(THP_MEM_ALLOC_ENABLE="0")[1] == "0"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    assert huge_page_variables() == {"GLIBC_TUNABLES": "glibc.malloc.check=0:glibc.malloc.hugetlb=1"}
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    assert huge_page_variables() == {}


@pytest.mark.parametrize("before", [None, "glibc.malloc.check=0"])
@pytest.mark.parametrize("switch", ["1", "0"])
def test_only_children_started_in_the_context_use_huge_pages(monkeypatch, before, switch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("TUNE_MEMORY", switch)
    if before:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
    with huge_pages_for_children():
        assert ("hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")) == (switch == "1")
    assert os.environ.get("GLIBC_TUNABLES") == before
