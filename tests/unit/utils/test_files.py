"""utils/files.py: the one walk through a tree, whose links may lead anywhere, and the one reader of text."""

from __future__ import annotations

import os
import resource

import pytest

from utils.errors import DatasetError
from utils.files import WriteError, read_lines, read_text, require_writable, walk_tree

EVERY_MODE = pytest.mark.parametrize("links", ["follow", "inside", "skip"])


@pytest.fixture
def root(tmp_path):
    """a/1.mp4, a/deep/2.mp4, b/3.mp4, x.txt, and a folder next to the root with 4.mp4."""
    for name in ("root/a/1.mp4", "root/a/deep/2.mp4", "root/b/3.mp4", "root/x.txt", "elsewhere/4.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "root"


def files_below(root, links):
    """Relative names of all files, in the order of the walk."""
    return [
        os.path.relpath(f"{place}/{name}", root)
        for place, _, files in walk_tree(root, links=links)
        for name in files
    ]


PLAIN = ["x.txt", "a/1.mp4", "a/deep/2.mp4", "b/3.mp4"]


@EVERY_MODE
def test_a_tree_without_links_is_listed_from_the_top_in_sorted_order(root, links):
    assert list(walk_tree(root, links=links)) == [
        (str(root), ["a", "b"], ["x.txt"]),
        (f"{root}/a", ["deep"], ["1.mp4"]),
        (f"{root}/a/deep", [], ["2.mp4"]),
        (f"{root}/b", [], ["3.mp4"]),
    ]


def test_the_order_does_not_depend_on_the_file_system(root, monkeypatch):
    scandir = os.scandir

    class Reversed(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(
        os, "scandir", lambda place: Reversed(sorted(scandir(place), key=lambda e: e.name)[::-1])
    )
    assert files_below(root, "follow") == PLAIN


@EVERY_MODE
def test_a_folder_that_the_caller_strikes_out_is_not_entered(root, links):
    (root / "b/endless").symlink_to("..")  # nor are its links looked at
    found = []
    for place, subfolders, _ in walk_tree(root, links=links):
        subfolders[:] = [name for name in subfolders if name != "b"]
        found.append(place)
    assert found == [str(root), f"{root}/a", f"{root}/a/deep"]


@EVERY_MODE
def test_a_link_to_itself_and_a_broken_link_are_listed_as_files(root, links):
    (root / "b/itself").symlink_to("itself")
    (root / "b/nothing").symlink_to("no such file")
    assert files_below(root, links) == [*PLAIN, "b/itself", "b/nothing"]


@EVERY_MODE
def test_a_link_to_a_file_is_listed(root, links):
    (root / "b/9.mp4").symlink_to("../a/1.mp4")
    assert files_below(root, links) == [*PLAIN, "b/9.mp4"]


def test_a_link_to_a_folder_of_the_tree_is_followed_once(root):
    (root / "c").symlink_to("a")
    for links in ("follow", "inside"):
        assert files_below(root, links) == [*PLAIN, "c/1.mp4", "c/deep/2.mp4"]
    assert files_below(root, "skip") == PLAIN
    assert next(walk_tree(root, links="skip"))[1] == ["a", "b"]


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ({"a/up": ".."}, "a/up: this link leads back to {root}"),  # to a parent
        ({"a/here": "."}, "a/here: this link leads back to {root}/a,"),
        ({"a/x": "../b", "b/y": "../a"}, "a/x/y: this link leads back to {root}/a,"),  # back and forth
        ({"up": ".."}, "root/up/root/up: this link leads back to {root}/up,"),  # to a folder above the root
        ({"c": "b", "d": "b"}, "{root}/c and {root}/d are links to the same folder"),  # two to one folder
    ],
)
@pytest.mark.parametrize("links", ["follow", "inside", "skip"])
def test_links_without_an_end_are_refused_after_few_files(root, made, named, links):
    for link, target in made.items():
        (root / link).symlink_to(target)
    if links == "skip":
        assert files_below(root, links) == PLAIN
        return
    if links == "inside" and "up" in made:
        named = "up: this link leads out of {root}, to "
    walk = walk_tree(root, links=links)
    seen = []
    with pytest.raises(DatasetError, match=named.format(root=root)):
        seen += walk
    assert len(seen) < 15


@pytest.mark.parametrize(
    ("link", "target"), [("b/out", "elsewhere"), ("b/5.mp4", "elsewhere/4.mp4"), ("b/9", "none")]
)
def test_a_link_out_of_the_root_is_an_error_where_links_must_stay_inside(root, link, target):
    (root / link).symlink_to(root.parent / target)
    with pytest.raises(
        DatasetError, match=f"{link}: this link leads out of {root}, to {root.parent / target}"
    ):
        list(walk_tree(root, links="inside"))
    followed = files_below(root, "follow")
    assert followed == [*PLAIN, "b/out/4.mp4" if link == "b/out" else link]


def test_a_folder_next_to_the_root_whose_name_begins_alike_is_outside(root):
    (root.parent / "root2").mkdir()
    (root / "out").symlink_to(root.parent / "root2")
    with pytest.raises(DatasetError, match="leads out"):
        list(walk_tree(root, links="inside"))


@EVERY_MODE
def test_the_root_itself_may_be_a_link(root, links, monkeypatch):
    (root.parent / "named").symlink_to(root)
    (root / "b/9.mp4").symlink_to(root / "a/1.mp4")
    assert files_below(root.parent / "named", links) == [*PLAIN, "b/9.mp4"]
    monkeypatch.chdir(root)
    assert files_below(".", links) == [*PLAIN, "b/9.mp4"]


def test_few_links_that_would_multiply_are_refused(root):
    """Two links in each of 40 folders to the next one would be 2^40 paths."""
    for number in range(40):
        folder = root / f"hidden/{number}"
        folder.mkdir(parents=True)
        for link in ("l", "r"):
            (folder / link).symlink_to(f"../{number + 1}")
    (root / "hidden/40").mkdir()
    with pytest.raises(DatasetError, match="links to the same folder"):
        list(walk_tree(root, links="inside"))


@EVERY_MODE
def test_a_root_that_is_not_there_or_a_file_is_an_error(root, links):
    for name in ("nowhere", "x.txt"):
        with pytest.raises(DatasetError, match=f"{name}: this folder cannot be read"):
            list(walk_tree(root / name, links=links))


@EVERY_MODE
def test_a_folder_that_cannot_be_read_is_an_error_and_one_that_is_gone_is_not(root, links, monkeypatch):
    scandir = os.scandir
    failures = {f"{root}/a": FileNotFoundError(2, "No such file or directory")}

    def scan(place):
        if place in failures:
            raise failures[place]
        return scandir(place)

    monkeypatch.setattr(os, "scandir", scan)
    assert files_below(root, links) == ["x.txt", "b/3.mp4"]
    failures[f"{root}/b"] = PermissionError(13, "Permission denied")
    with pytest.raises(DatasetError, match=r"root/b: this folder cannot be read \(Permission denied\)"):
        files_below(root, links)


def test_a_place_for_results_is_tried_before_the_work(tmp_path):
    require_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc"):
        with pytest.raises(WriteError, match="results cannot be written there"):
            require_writable(type(tmp_path)(place))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk
    try:
        with pytest.raises(WriteError, match="File too large"):
            require_writable(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# --- text from elsewhere


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("a,길\r\nb\r".encode(), "a,길\nb\n"),
        ("\ufeffa\n".encode(), "a\n"),
        ("a,길\n".encode("cp949"), "a,길\n"),
        (b"", ""),
    ],
)
def test_text_of_every_system_reads_alike(tmp_path, data, text):
    (tmp_path / "a.csv").write_bytes(data)
    assert read_text(tmp_path / "a.csv") == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("path,label\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("path,label\n".encode("utf-16-be"), "is UTF-16 text; save it as UTF-8"),
        (b"path,label\na.mp4,1\n" + bytes(4096), "line 3: has bytes of value 0"),
        (b"path,label\ncaf\xe9.mp4,1\n", "line 2: is neither UTF-8 nor cp949 text"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(tmp_path, data, message):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(DatasetError, match=rf"a\.csv.*{message}"):
        read_text(tmp_path / "a.csv")


def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\r\n\r\n  two\u2028x \rthree".encode())
    lines = [(where.rpartition(" ")[2], line) for where, line in read_lines(tmp_path / "a.txt")]
    assert lines == [("1", "one"), ("3", "two\u2028x"), ("4", "three")]
