import logging
from collections import Counter

import pytest

from loaders.datasets.manifest import list_manifest
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig, draw_split
from preprocess.work.raw_layouts import read_raw_dataset
from tests.trees.manifest import write_manifest
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.errors import DatasetError


@pytest.fixture
def table(tmp_path):
    """A function: text of a manifest.csv -> its clips by path, all prepared."""

    def make(text):
        (tmp_path / "manifest.csv").write_text(text, encoding="utf-8")
        for name in ("a", "b", "c"):
            if not (tmp_path / name).exists():
                touch_clip(tmp_path / name)
        return {clip.clip_id: clip for clip in list_manifest(tmp_path, ListingConfig()).clips}

    return make


@pytest.mark.parametrize("form", ["table", "folders", "lists"])
def test_each_form_from_raw_to_listing(tmp_path, form):
    tree = write_manifest(tmp_path / "raw", EmptyFiles(), form=form)
    listing = list_manifest(prepare_empty(tree, tmp_path / "prepared"), ListingConfig())
    assert Counter((clip.split or "", clip.category, clip.method) for clip in listing.clips) == tree.counts
    assert not listing.missing
    assert {clip.clip_id for clip in listing.clips if "person 0" in clip.clip_id} == {
        "manifest/real/person 0/take.x",
        "manifest/fake/person 0/take.swap v2",
        "manifest/fake/person 0/take.tts",
    }


def test_a_row_without_a_person_is_a_clip_of_its_own(table):
    clips = table("path,label,identity,target_id\na,0,ann,\nb,1,,bob\nc,0,,\n").values()
    assert [clip.identity_is for clip in clips] == ["person", "person", "clip"]
    assert [clip.identity_is for clip in table("path,label\na,0\nb,1\nc,0\n").values()] == ["clip"] * 3


def test_all_columns(table):
    clips = table(
        "path,label,video_label,audio_label,identity,source_id,target_id,method,category,split,"
        "video_fake_segments,audio_fake_segments\n"
        "a.mp4,Real,0,real,7.0,,,,,train,,\n"
        "b.avi,1,fake,1,7,8;9,10,swap,mine,test,3-4;0.5-1.2,\n"
    )
    real, fake = clips["manifest/a"], clips["manifest/b"]
    assert (real.label, real.identity, real.category, real.method, real.split) == (
        0,
        "manifest/7",
        "real",
        "real",
        "train",
    )
    assert (fake.video_label, fake.audio_label, fake.identity, fake.target_id) == (
        1,
        1,
        "manifest/7",
        "manifest/10",
    )
    assert fake.source_ids == ("manifest/8", "manifest/9")
    assert (fake.method, fake.category, fake.split) == ("swap", "mine", "test")
    assert (fake.video_fake_segments, fake.audio_fake_segments) == (((0.5, 1.2), (3.0, 4.0)), None)


def test_labels_stay_unknown_unless_they_follow(table):
    clips = table(
        "path,label,video_label,audio_fake_segments\na.mp4,real,,\nb.mp4,fake,0,\nc.mp4,fake,,1-2\n"
    )
    labels = {name[-1]: (clip.video_label, clip.audio_label, clip.category) for name, clip in clips.items()}
    assert labels == {"a": (0, 0, "real"), "b": (0, 1, "fake-audio"), "c": (None, 1, "fake")}
    (clip,) = (clip for name, clip in table("path,label\na.mp4,fake\n").items())
    assert (clip.video_label, clip.audio_label) == (None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label,quality\na.mp4,0,1\n",
            "line 1: unknown column 'quality'; known are path, label, video_label",
        ),
        ("path,labels\na.mp4,0\n", "manifest.csv, line 1: no column label; its columns are path, labels"),
        ("path,label,label\na.mp4,0,1\n", "line 1: has the column label more than once"),
        ("path,label\na.mp4,2\n", "line 2: label is '2', expected 0, 1, real or fake"),
        ("path,label,audio_label\na.mp4,1,no\n", "audio_label is 'no'"),
        ("path,label,video_label\na.mp4,0,0\nb.mp4,0,1\n", "line 3: label 0 contradicts video_label 1"),
        ("path,label,video_label,audio_label\na.mp4,1,0,0\n", "line 2: label 1 contradicts video_label 0"),
        (
            "path,label,video_fake_segments\na.mp4,0,1-2\n",
            "video_fake_segments is filled in, but the video is labelled",
        ),
        ("path,label,video_fake_segments\na.mp4,1,2-1\n", "segment 2-1 must have 0 <= start <= end"),
        ("path,label,video_fake_segments\na.mp4,1,1:2\n", "write them as 0.5-1.2;3-4"),
        ("path,label,split\na.mp4,0,dev\n", "split is 'dev', expected train, val, test"),
        ("path,label,split\na.mp4,0,train\nb.mp4,1,\n", "line 3: no split, although other clips have one"),
        ("path,label,method\na.mp4,0,swap\n", "a real clip has the method 'swap'"),
        ("path,label,identity\na.mp4,0,1.23457E+19\n", "line 2: '1.23457E.19' was an id before"),
        ("path,label,source_id\na.mp4,1,7;1E+05\n", "line 2: '1E.05' was an id before"),
        ("path,label\na.mp4,0\na.avi,0\n", "line 3: manifest/a is listed twice"),
        ("path,label\n/data/a.mp4,0\n", "line 2: the path is empty or leads outside the data root"),
        ("path,label\na/..mp4,0\n", "line 2: the path is empty or leads outside the data root"),
        ("path,label\n", "manifest: its metadata lists no clip"),
        ("\n", "manifest.csv: is empty; its first line must name the columns path, label"),
        ("path;label;method\na.mp4;0;x\n", "line 1: no column path, label; .* by commas, not by semicolons"),
        ("path\tlabel\na.mp4\t0\n", r"line 1: .* not by tabs.*sep='\\t'"),
        ("sep=|\npath|label\na.mp4|0\n", "line 2: .* not by vertical bars"),
        ("path,label\nb.mp4,1\na, then b.mp4,0\n", "line 3: has 3 cells, but the header names 2 columns"),
        ('path,label,method\na.mp4,1,"swap\nb.mp4,1,x\n', "line 2: a quotation mark is not closed"),
    ],
)
def test_a_bad_table_is_named(table, text, message):
    with pytest.raises(DatasetError, match=message):
        table(text)


@pytest.mark.parametrize(
    "text",
    [
        ",path,label\n0,a.mp4,0\n1,b.mp4,1\n",
        "Unnamed: 0.1,Unnamed: 0,path,label\n0,0,a.mp4,0.0\n1,1,b.mp4,1.0\n",
        "level_0,index,path,label\n0,7,a.mp4,False\n1,8,b.mp4,True\n",
        "sep=,\n\npath,label,,\na.mp4,REAL,,\nb.mp4,FAKE,,\n,,,\n",
        '"path","label"\n"a.mp4"," 0 "\n"b.mp4","1"\n',
        "path,label\r\na.mp4,false\r\nb.mp4,true\r\n",
        "path,label\ra.mp4,real\rb.mp4,fake\r",
        "\ufeffpath, label\na.mp4, 0\nb.mp4, 1.00\n",
    ],
)
def test_tables_as_tools_write_them(table, text):
    assert {name: clip.label for name, clip in table(text).items()} == {"manifest/a": 0, "manifest/b": 1}


def test_clips_without_identity_are_persons_of_their_own_with_one_warning(table, caplog):
    with caplog.at_level(logging.WARNING):
        clips = table("path,label,identity\na.mp4,0,\nb.mp4,1,\nc.mp4,1,7\n")
    assert len({clip.identity for clip in clips.values()}) == 3
    assert [r.getMessage()[:45] for r in caplog.records] == ["manifest: 2 of 3 clips have no identity: each"]


def test_lists_keep_their_parts_and_drop_the_prefix_of_another_machine(tmp_path, caplog):
    tree = write_manifest(tmp_path / "raw", EmptyFiles(), form="lists")
    with caplog.at_level(logging.INFO):
        listing = list_manifest(prepare_empty(tree, tmp_path / "prepared"), ListingConfig())
    assert "test_fake.txt: its paths are read without data/me" in caplog.text
    assert Counter(draw_split(listing, SplitConfig()).split_of.values()) == {"train": 12, "val": 6, "test": 6}


def test_a_corrupt_path_in_a_list_is_missing_and_not_found_elsewhere(tmp_path):
    """As in the released FF++ lists, in which the FaceSwap lines of the test part lead nowhere."""
    for name in ("FF++/manipulated_sequences/FaceSwap/c23/000_003", "FF++/original/c23/000", "c23/000_003"):
        touch_clip(tmp_path / name)
    (tmp_path / "test.txt").write_text(
        "0,/home/x/FF++/original/c23/000.mp4,300\n1,/home/x/FF++/manipulated_sequenceswap/c23/000_003.mp4,80\n"
    )
    with pytest.raises(DatasetError, match=r"1 of 2 listed clips .*manipulated_sequenceswap/c23/000_003"):
        list_manifest(tmp_path, ListingConfig())
    listing = list_manifest(tmp_path, ListingConfig(allow_missing=True))
    assert [clip.clip_id for clip in listing.clips] == ["manifest/FF++/original/c23/000"]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("train_real.txt", "1,a.mp4,30", "train_real.txt, line 1: label 1 in a list of real videos"),
        ("train.txt", "a.mp4 1", "expected label,path or label,path,frames, got 'a.mp4 1'"),
        ("val.txt", "yes,a.mp4,30", "label is 'yes'"),
        ("val.txt", "\n0;a.mp4;30", "val.txt, line 2: expected label,path .* not by semicolons"),
        ("val.txt", "0,../a.mp4,30", "outside the data root"),
    ],
)
def test_a_bad_list_is_named(tmp_path, name, line, message):
    touch_clip(tmp_path / "a")
    (tmp_path / name).write_text(line + "\n")
    with pytest.raises(DatasetError, match=message):
        list_manifest(tmp_path, ListingConfig())


def test_a_clip_in_two_lists_is_an_error(tmp_path):
    touch_clip(tmp_path / "a")
    for part in ("train", "test"):
        (tmp_path / f"{part}.txt").write_text("0,a.mp4,30\n")
    with pytest.raises(DatasetError, match="manifest/a is listed twice"):
        list_manifest(tmp_path, ListingConfig())


def test_wrong_roots_are_named(tmp_path):
    with pytest.raises(
        DatasetError, match=r"neither manifest.csv nor train.txt.* nor real/ and fake/ is there"
    ):
        list_manifest(tmp_path, ListingConfig())
    touch_clip(tmp_path / "real/a")
    (tmp_path / "fake").mkdir()
    with pytest.raises(DatasetError, match="fake: no clip folder in it"):
        list_manifest(tmp_path, ListingConfig())


def test_clips_prepared_inside_the_root_are_no_raw_videos(tmp_path):
    tree = write_manifest(tmp_path, EmptyFiles())
    touch_clip(tmp_path / "prepared/real/person 0/take")
    assert all("prepared" not in path.parts for path in read_raw_dataset("manifest", tree.source).videos)


def test_a_raw_folder_of_another_kind_is_named(tmp_path):
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(
        DatasetError,
        match=r"holds no manifest; .*manifest.csv and .* or train\*.txt .* or videos \(real/.*, \.\.\.\)",
    ):
        read_raw_dataset("manifest", tmp_path)
