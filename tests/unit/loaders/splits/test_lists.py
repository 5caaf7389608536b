"""Names of clips in other people's lists."""

from pathlib import Path

import pytest

from loaders.splits.lists import ClipNames, read_list
from tests.clip_factory import make_clip
from utils.errors import DatasetError


def names_of(*paths):
    return ClipNames("d", [make_clip(Path(path), clip_id=f"d/{path}") for path in paths])


def found(names, *wanted, below=""):
    return [clip and clip.clip_id.removeprefix("d/") for clip in names.find_all(wanted, below)]


def test_a_clip_is_found_by_its_id_and_by_paths_of_other_machines():
    names = names_of("real/Asian (East)/id1/00109", "real/Asian (East)/id1/00110")
    wanted = "real/Asian (East)/id1/00109"
    for prefix in ("", "d/", "FakeAVCeleb/", "/data/raw/FakeAVCeleb/"):
        for name in (wanted, f"{wanted}.mp4", f"{wanted}.MP4".replace("/", "\\")):
            assert found(names, prefix + name) == [wanted], prefix + name
    assert found(names, "real/Asian_East/id1/00109.mp4", "real/Asian-East/id1/00111.mp4") == [wanted, None]


def test_an_id_is_its_own_clip_whatever_other_clips_are_called():
    names = names_of("x", "d/x", "x.mp4", "y")
    ids = ["d/x", "d/d/x", "d/x.mp4", "d/y"]
    assert [clip.clip_id for clip in names.find_all(ids)] == ids
    assert found(names, "d/x", "root/y") == ["x", "y"]


def test_a_name_that_could_be_two_clips_is_none():
    names = names_of("x/a_b", "x/a-b", "x/c_d")
    assert found(names, "x/a_b", "x/a b", "x/c-d") == ["x/a_b", None, "x/c_d"]


def test_one_prefix_is_dropped_of_all_names_and_no_other():
    names = names_of("a", "b/c")
    assert found(names, "root/a", "elsewhere/a", "root/b/c") == ["a", None, "b/c"]
    assert found(names, "a", "other/a") == ["a", None]


def test_a_list_may_leave_out_the_folder_of_its_part():
    names = names_of("train/id1/v/1/real", "val/id1/v/1/real", "val/id2/v/1/real")
    assert found(names, "id1/v/1/real.mp4", below="train") == ["train/id1/v/1/real"]
    assert found(names, "id1/v/1/real.mp4", "id2/v/1/real.mp4", below="val") == [
        "val/id1/v/1/real",
        "val/id2/v/1/real",
    ]


def test_the_folder_that_finds_most_is_taken():
    """As of AV-Deepfake1M's validation part, some of whose clips are in its training part, too."""
    names = names_of("train/id1/v/1/real", "val/id1/v/1/real", "val/id2/v/1/real")
    wanted = ["id1/v/1/real.mp4", "id2/v/1/real.mp4"]
    found = names.find_below(wanted, ["train", "val"])
    assert [clip and clip.clip_id for clip in found] == ["d/val/id1/v/1/real", "d/val/id2/v/1/real"]
    assert names.find_below(["val/id2/v/1/real"], ["train"])[0].clip_id == "d/val/id2/v/1/real"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("path,label\nx/a.mp4,0.0\nx/b.mp4,1.0\n", ["x/a.mp4", "x/b.mp4"]),  # AVH-Align, SSR-DFD
        (",full_path,category\n7,F/Asian (East)/a.mp4,A\n", ["F/Asian (East)/a.mp4"]),
        ("# sha256=0\n# donor_rule=keep\ndataset,clip_id,split\nd,d/a,test\n", ["d/a"]),  # ours
        ("x/a.mp4\r\n\r\nx/b b.mp4\r\n", ["x/a.mp4", "x/b b.mp4"]),  # IDForge
        ("1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n",
         ["YouTube-real/00170.mp4", "Celeb-synthesis/id0_id1_0000.mp4"]),
        ("0,x/a,120\n1,x/b,99\n", ["x/a", "x/b"]),
        ("a\nb\n", ["a", "b"]),
    ],
)  # fmt: skip
def test_published_forms_of_lists_are_read(tmp_path, text, names):
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode())
    rows = read_list(path)
    assert [row.name for row in rows] == names
    assert rows[0].where.startswith(f"{path}, line ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no clip"),
        ("path,label\n", "lists no clip"),
        ("path,path\na,b\n", "line 1: a column is there twice"),
        ("path,label\nx/a.mp4\n", "line 2: has 1 values, the header has 2"),
        ("path,label\n,1\n", "line 2: expected the path of a clip, found ''"),
        ("1,2\n3,4\n", "line 1: expected the path of a clip"),
        ('path,label\n"x,1\n', "is not a readable CSV"),
    ],
)
def test_what_is_no_list_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_list(path)
