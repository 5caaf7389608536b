"""The tables of every data set as spreadsheets, Windows and pandas leave them: read, or refused by name."""

import json
import re

import pytest

from loaders import DATASETS
from loaders.listing import ListingConfig
from loaders.splits.protocols import mrdf5
from tests.clip_factory import make_clip
from tests.trees import TREES
from tests.trees.manifest import write_manifest
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.errors import DatasetError
from utils.files import read_text

WITH_TABLES = sorted(set(TREES) - {"avlips", "deepfaketimit", "ravdess"})
FORMATS = {
    "byte order mark and CR LF": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    "CR of an old Mac": lambda text: text.replace("\n", "\r").encode(),
    "blank lines": lambda text: f"\n{text}\n\n".encode(),
}


def is_table(path):
    return path.suffix in {".csv", ".json", ".txt"}


def listed(name, root):
    return DATASETS[name](root, ListingConfig()).clips


@pytest.fixture(params=WITH_TABLES)
def prepared(request, tmp_path):
    """(name, root) of a prepared tree of empty clips of each data set that has tables."""
    tree = TREES[request.param](tmp_path / "raw", EmptyFiles())
    return request.param, prepare_empty(tree, tmp_path / "prepared")


def test_every_table_may_come_from_another_system(prepared):
    name, root = prepared
    before = listed(name, root)
    tables = {path: read_text(path) for path in root.rglob("*") if is_table(path)}
    assert tables
    for change in FORMATS.values():
        for path, text in tables.items():
            path.write_bytes(change(text))
        assert listed(name, root) == before


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named_with_the_file(prepared, encoding):
    name, root = prepared
    for path in (path for path in sorted(root.rglob("*")) if is_table(path)):
        path.write_bytes(read_text(path).encode(encoding))
    with pytest.raises(DatasetError, match=r"\.(csv|json|txt): is UTF-16 text; save it as UTF-8"):
        listed(name, root)


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs")])
@pytest.mark.parametrize("name", ["deepspeak", "dfdc", "fakeavceleb", "kodf", "manifest"])
def test_another_separator_is_named_with_file_and_remedy(tmp_path, name, separator, word):
    root = prepare_empty(TREES[name](tmp_path / "raw", EmptyFiles()), tmp_path / "prepared")
    for path in root.rglob("*.csv"):
        path.write_text(read_text(path).replace(",", separator), encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"\.csv, line 1: no column .* not by {word}: choose the comma"):
        listed(name, root)


@pytest.mark.parametrize("name", ["deepspeak", "dfdc", "fakeavceleb", "kodf", "manifest"])
def test_an_index_column_changes_nothing(tmp_path, name):
    root = prepare_empty(TREES[name](tmp_path / "raw", EmptyFiles()), tmp_path / "prepared")
    before = listed(name, root)
    for path in root.rglob("*.csv"):
        head, *rows = read_text(path).splitlines()
        rows = [f"{number},{row}" for number, row in enumerate(rows)]
        path.write_text("\n".join([f"Unnamed: 0,{head}", *rows]), encoding="utf-8")
    assert listed(name, root) == before


def test_lists_of_paths_with_a_byte_order_mark(tmp_path):
    root = prepare_empty(write_manifest(tmp_path / "raw", EmptyFiles(), form="lists"), tmp_path / "prepared")
    before = listed("manifest", root)
    for path in root.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert listed("manifest", root) == before


def test_an_exclusion_list_of_a_spreadsheet_excludes_its_first_line_too(tmp_path):
    root = prepare_empty(write_manifest(tmp_path / "raw", EmptyFiles()), tmp_path / "prepared")
    names = [clip.clip_id for clip in listed("manifest", root)]
    path = tmp_path / "exclude.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(names[:2]).encode())
    left = DATASETS["manifest"](root, ListingConfig(exclude_list=path)).clips
    assert [clip.clip_id for clip in left] == names[2:]


def test_fold_files_with_a_byte_order_mark(tmp_path):
    persons = [f"id{number:05}" for number in range(5)]
    folder = touch_clip(tmp_path / "a")
    clips = [
        make_clip(folder, clip_id=f"{person} {kind}", category=kind, identity=f"fakeavceleb/{person}")
        for person in persons
        for kind in "ABCD"
    ]
    texts = {n: "\n".join(["source", *(p for i, p in enumerate(persons) if i != n - 1)]) for n in range(1, 6)}
    found = []
    for mark, newline in (("", "\n"), ("\ufeff", "\r\n")):
        for number, text in texts.items():
            content = mark + text.replace("\n", newline)
            (tmp_path / f"train_{number}.txt").write_bytes(content.encode())
        found.append(mrdf5("fakeavceleb", clips, 1, files=tmp_path, seed=0))
    assert found[0] == found[1]


@pytest.mark.parametrize("word", ["071", ["071"], ["071", "54"]])
def test_a_bad_pair_of_ffpp_is_named_with_its_place(tmp_path, word):
    root = prepare_empty(TREES["ffpp"](tmp_path / "raw", EmptyFiles()), tmp_path / "prepared")
    path = root / "splits/train.json"
    pairs = json.loads(path.read_text())
    path.write_text(json.dumps([*pairs, word]))
    with pytest.raises(DatasetError, match=rf"{re.escape(str(path))}, pair {len(pairs)}: expected pairs"):
        listed("ffpp", root)


@pytest.mark.parametrize("line", ["1\tCeleb-real/id0_0000.mp4", "1.0 Celeb-real\\id0_0000.mp4"])
def test_the_list_of_celebdf_with_tabs_or_backslashes(tmp_path, line):
    root = prepare_empty(TREES["celebdf"](tmp_path / "raw", EmptyFiles()), tmp_path / "prepared")
    clip = next(clip for clip in listed("celebdf", root) if clip.category == "Celeb-real")
    name = clip.clip_id.rpartition("/")[2]
    (root / "List_of_testing_videos.txt").write_text(line.replace("id0_0000", name) + "\n")
    (tested,) = (clip for clip in listed("celebdf", root) if clip.split == "test")
    assert tested.clip_id == clip.clip_id
