"""Long JSON lists are read in pieces: the entries do not depend on them, and faults are named."""

import json
import tracemalloc

import pytest

from loaders.datasets import json_files
from loaders.datasets.json_files import read_json_entries
from utils.errors import DatasetError
from utils.files import read_pieces

ENTRIES = [{"file": f"clip_é_{number}", "values": [[0.5, number]] * (number % 5)} for number in range(60)]


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of so few bytes that every entry is in several."""

    def use(size):
        monkeypatch.setattr(json_files, "read_pieces", lambda path: read_pieces(path, size))

    return use


@pytest.mark.parametrize("size", [7, 64, 1 << 20])
@pytest.mark.parametrize("style", [{}, {"indent": 2}, {"ensure_ascii": False}])
def test_entries_do_not_depend_on_the_pieces(tmp_path, small_pieces, size, style):
    path = tmp_path / "list.json"
    path.write_text("\ufeff\r\n" + json.dumps(ENTRIES, **style), encoding="utf-8")
    small_pieces(size)
    assert [entry for _, entry in read_json_entries(path, ("file",))] == ENTRIES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"file": "a"}, {"file": ]', "entry 1: is not JSON"),
        ('[{"file": "a"}, {"file": "b"}', "entry 2: is not JSON"),
        ('[{"file": "a"}, {"name": "b"}]', "entry 1: no key file; its keys are name"),
        (r'[{"file": "a"}, {"file": "\ud83d\ude00"}, {"file": "\ud83d"}]', "entry 2: is not JSON"),
        ("[1234567]", "entry 0: expected a JSON object, found 1234567"),
        ('{"file": "a"}', "expected a JSON list, found"),
        ("", "expected a JSON list, found ''"),
    ],
)
def test_a_fault_is_named(tmp_path, small_pieces, text, message):
    path = tmp_path / "list.json"
    path.write_text(text)
    for size in (1 << 20, 8):
        small_pieces(size)
        with pytest.raises(DatasetError, match=message):
            list(read_json_entries(path, ("file",)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[\n{"file": "\xff"}]', "line 2: is not UTF-8 text"),
        (b'[\n{"file": "a clip of a data set"}, \x00]', "line 2: has bytes of value 0"),
        (b'[{"file": "\xc3', "line 1: is not UTF-8 text"),
    ],
)
def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path, small_pieces, data, message):
    path = tmp_path / "list.json"
    path.write_bytes(data)
    for size in (1 << 20, 5):
        small_pieces(size)
        with pytest.raises(DatasetError, match=message):
            list(read_json_entries(path, ("file",)))


def test_a_long_list_takes_no_more_memory_than_some_pieces(tmp_path):
    path = tmp_path / "list.json"
    entry = json.dumps({"file": "x" * 400}) + ","
    path.write_text("[" + entry * 20_000 + entry[:-1] + "]")  # 8 MB
    tracemalloc.start()
    count = sum(1 for _ in read_json_entries(path, ("file",)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_001
    assert peak < 6e6
