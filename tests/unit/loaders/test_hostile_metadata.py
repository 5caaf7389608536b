"""What hostile metadata once did to this project: each was a crash, a hang or a lie, and is now a reason."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from loaders import DATASETS
from loaders.datasets.json_files import read_json, read_json_entries
from loaders.datasets.metadata import as_segments, inside
from loaders.listing import ListingConfig, select_clips
from loaders.splits.files import read_split
from loaders.splits.protocols import mrdf5
from preprocess.work.progress import failures_csv
from tests.clip_factory import make_clip
from tests.trees import TREES
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.errors import DatasetError
from utils.names import brief, parse_json

DEEP = b"[" * 100_000 + b"]" * 100_000


def listed(name, root, *, allow_links=False):
    return DATASETS[name](root, ListingConfig(allow_missing=True, allow_links=allow_links))


@pytest.fixture
def prepared_tree(tmp_path):
    """A function that writes a prepared tree of empty clips of a data set."""

    def write(name):
        return prepare_empty(TREES[name](tmp_path / "raw", EmptyFiles()), tmp_path / "prepared")

    return write


# --- JSON


@pytest.mark.parametrize(
    "text", [DEEP, b'{"a":' * 5000, b"9" * 5000, b'"\\ud800"', b'{"a": "\\udc00x"}', b"\xff", b""]
)
def test_json_fails_with_a_value_error_and_nothing_else(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_json(text)


def test_pairs_of_surrogates_are_characters():
    assert parse_json(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("text", [DEEP.decode(), "[" + '{"a":' * 5000, '[{"file": ' + "9" * 5000 + "}]"])
def test_metadata_that_nests_too_deep_is_refused(tmp_path, text):
    path = tmp_path / "metadata.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"metadata\.json"):
        read_json(path, list)
    with pytest.raises(DatasetError, match=r"metadata\.json"):
        list(read_json_entries(path, ("file",)))


def test_a_value_is_shown_in_brief_however_large_or_deep_it_is():
    deep = []
    for _ in range(900):
        deep = [deep]
    assert len(brief(deep)) < 200
    assert len(brief("x" * 10**6)) < 200
    assert len(brief({str(i): [i] * 100 for i in range(10**4)})) < 2000


@pytest.mark.parametrize(
    "values", [[[0, 10**400]], [["nan", 1]], [[0, float("nan")]], 7, [[1]], {"ab": 1}, [None]]
)
def test_segments_that_are_none_are_refused(values):
    with pytest.raises(DatasetError, match="where"):
        as_segments(values, "where")


# --- data sets


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        ("lavdf", "metadata.min.json", {"split": ["train"]}),
        ("lavdf", "metadata.min.json", {"split": {}}),
        ("lavdf", "metadata.min.json", {"file": 7}),
        ("lavdf", "metadata.min.json", {"original": ["x"]}),
        ("lavdf", "metadata.min.json", {"fake_periods": [[0, 10**400]]}),
        ("av_deepfake1m", "train_metadata.json", {"file": {"a": 1}}),
        ("av_deepfake1m", "train_metadata.json", {"modify_type": [["x"]]}),
        ("av_deepfake1m", "train_metadata.json", {"visual_fake_segments": 10**400}),
    ],
)
def test_an_entry_of_a_wrong_type_is_refused_with_its_place(prepared_tree, name, file, change):
    root = prepared_tree(name)
    path = next(root.rglob(file))
    entries = json.loads(path.read_text())
    entries[0] |= change
    path.write_text(json.dumps(entries))
    with pytest.raises(DatasetError, match="entry 0"):
        listed(name, path.parent)


@pytest.mark.parametrize(
    "key", ["original_videos", "x.mp4", "../x/y.mp4", "\ud800/x.mp4", "a\x00b/x.mp4", "a" * 300 + "/x.mp4"]
)
def test_a_key_that_is_no_path_of_a_clip_is_refused(prepared_tree, key):
    root = prepared_tree("dfdc_preview")
    path = next(root.rglob("dataset.json"))
    entries = json.loads(path.read_text())
    entries[key] = {"label": "real", "set": "train", "target_id": 1, "swapped_id": None}
    path.write_text(json.dumps(entries))
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        listed("dfdc_preview", root)


@pytest.mark.parametrize("name", ["celebdf", "deepfaketimit", "ravdess"])
def test_a_clip_in_the_root_itself_is_refused(prepared_tree, name):
    root = prepared_tree(name)
    (root / "landmarks.npy").touch()
    with pytest.raises(DatasetError, match="folder of its own"):
        listed(name, root)


@pytest.mark.parametrize("number", ["\u00b2", "9" * 5000, "\u2460"])
def test_a_number_that_python_cannot_read_is_refused(tmp_path, number):
    folder = tmp_path / "validate_meta_data"
    folder.mkdir()
    (folder / "real.csv").write_text("영상ID\n000001_001.mp4\n", encoding="utf-8")
    (folder / "fake.csv").write_text(
        f"folder,folder2,filename\nfsgan,{number},000001_000002_1_1.mp4\n", encoding="utf-8"
    )
    with pytest.raises(DatasetError, match=r"fake\.csv, line 2"):
        listed("kodf", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "C:\\x",
        "a" * 300,
        "a/" * 2000,
        "a\x00b",
        "a\x1b[2Jb",
        "a\nb",
        "\ud800",
        7,
        None,
    ],
)
def test_a_path_that_leaves_the_root_or_is_none_is_refused(text):
    with pytest.raises(DatasetError, match="where"):
        inside(text, "where")


@pytest.mark.parametrize("word", ["a\x00b", "a\x1bb", "\udcff", "a" * 5000])
@pytest.mark.parametrize("field", ["clip_id", "category", "method", "identity"])
def test_names_that_no_file_can_hold_are_refused(tmp_path, word, field):
    clips = [make_clip(touch_clip(tmp_path / "a")), make_clip(tmp_path / "b", **{field: word})]
    with pytest.raises(DatasetError, match="names must be UTF-8"):
        select_clips("test", tmp_path, clips, ListingConfig(allow_missing=True))


def test_a_folder_whose_name_is_no_utf8_is_refused(prepared_tree):
    root = prepared_tree("manifest")
    (root / "manifest.csv").unlink()
    for label in ("real", "fake"):
        touch_clip(root / label / "one")
    touch_clip(Path(os.fsdecode(os.fsencode(root / "real") + b"/\xff\xfe")))
    with pytest.raises(DatasetError, match="names must be UTF-8"):
        listed("manifest", root)


@pytest.mark.parametrize("path", ["../../outside.mp4", "/etc/x.mp4"])
def test_a_list_of_failures_names_no_folder_outside(prepared_tree, path):
    root = prepared_tree("ravdess")
    (root / "failures.csv").write_bytes(failures_csv([(path, "broken")]))
    with pytest.raises(DatasetError, match=r"failures\.csv, line 2"):
        listed("ravdess", root)


def test_links_back_and_forth_end(prepared_tree):
    root = prepared_tree("celebdf")
    for link in ("a", "b", "c"):
        (root / link).symlink_to(".")
    with pytest.raises(DatasetError, match="this link leads back to"):
        listed("celebdf", root)


@pytest.mark.parametrize("name", ["celebdf", "kodf", "deepspeak"])
def test_links_in_a_circle_lead_nowhere(prepared_tree, name):
    root = prepared_tree(name)
    before = len(listed(name, root).clips)
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert len(listed(name, root).clips) == before


@pytest.mark.parametrize(("name", "table"), [("kodf", "*.csv"), ("celebdf", "List_*.txt")])
def test_a_folder_in_the_place_of_a_table_is_refused(prepared_tree, name, table):
    root = prepared_tree(name)
    path = next(root.rglob(table))
    path.unlink()
    path.mkdir()
    with pytest.raises(DatasetError, match=re.escape(path.name)):
        listed(name, root)


def test_a_link_to_a_folder_elsewhere_is_followed_if_asked_to(prepared_tree, tmp_path):
    root = prepared_tree("ravdess")
    before = len(listed("ravdess", root).clips)
    (root / "Actor_01").rename(tmp_path / "elsewhere")
    (root / "Actor_01").symlink_to(tmp_path / "elsewhere")
    assert len(listed("ravdess", root, allow_links=True).clips) == before


def sign(path, text):
    path.write_bytes(b"# sha256=" + hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


HEAD = (
    b"# donor_rule=drop known_overlap=\n"
    b"dataset,clip_id,identity,source_ids,group,split,donor_disjoint,reason\n"
)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        HEAD + b"d,c\n",
        HEAD + b"d,c,i,,,train,0,,extra\n",
        HEAD + b'"' + b"a" * 200_000,
        HEAD,
        b"\n\n",
    ],
)
def test_a_split_file_that_is_none_is_refused_though_its_checksum_fits(tmp_path, text):
    sign(tmp_path / "split.csv", text)
    with pytest.raises(DatasetError, match=r"split\.csv"):
        read_split(tmp_path / "split.csv")


def test_lists_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "train_1.txt").write_bytes(b"source\n\xff\xfe\n")
    clip = make_clip(touch_clip(tmp_path / "a"))
    with pytest.raises(DatasetError, match=r"train_1\.txt"):
        select_clips("test", tmp_path, [clip], ListingConfig(exclude_list=tmp_path / "train_1.txt"))
    kinds = "ABCD"
    clips = [
        make_clip(tmp_path, clip_id=kind, category=kind, identity="fakeavceleb/id00001") for kind in kinds
    ]
    with pytest.raises(DatasetError, match=r"train_1\.txt"):
        mrdf5("fakeavceleb", clips, 1, files=tmp_path, seed=0)
