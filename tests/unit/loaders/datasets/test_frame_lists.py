"""The lists of Exposing the Deception, read as they were published."""

import re
from collections import Counter

import pytest

from loaders import DATASETS
from loaders.listing import ListingConfig
from tests.frame_trees import AUTHOR, build_frame_lists
from utils.errors import DatasetError, UsageError

CORRUPTED = "FF++/manipulated_sequenceswap=manipulated_sequences/FaceSwap"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("lists") / "FF++"
    return root, build_frame_lists(root, frames=2)


def listing_of(root, *prefixes, **config):
    return DATASETS["frame_lists"](root, ListingConfig(path_prefix=prefixes, **config))


def test_the_published_lists_have_the_right_counts(tree):
    root, counts = tree
    listing = listing_of(root, f"{AUTHOR}=", CORRUPTED)
    found = Counter(f"{clip.split}_{'fake' if clip.label else 'real'}.txt" for clip in listing.clips)
    assert dict(found) == counts
    assert not listing.missing
    assert not listing.unlisted
    assert Counter(clip.method for clip in listing.clips if clip.split == "test") == {
        "real": 2, "Deepfakes": 2, "Face2Face": 2, "FaceSwap": 2, "NeuralTextures": 2
    }  # fmt: skip
    swapped = next(c for c in listing.clips if c.method == "FaceSwap" and c.folder.name == "030_031.mp4")
    assert swapped.identity.endswith("030")
    assert swapped.source_ids[0].endswith("031")
    assert swapped.frames == tuple(f"{number}.png" for number in range(len(swapped.frames)))
    assert swapped.audio_label is None
    original = next(clip for clip in listing.clips if clip.folder.name == "030.mp4")
    assert swapped.unit == original.unit  # a drawn split keeps a pair together


def test_wrong_roots_are_one_error_that_says_what_to_pass(tree):
    root, counts = tree
    with pytest.raises(DatasetError) as told:
        listing_of(root)
    message = str(told.value)
    proposed = re.search(r"--path_prefix (.*)$", message)[1].split()
    assert set(proposed) == {f"{AUTHOR}=", CORRUPTED}
    assert f"of {sum(counts.values())} listed folders" in message
    assert len(listing_of(root, *proposed).clips) == sum(counts.values())


def test_frames_are_in_the_order_of_their_numbers_and_jpegs_count(tmp_path):
    folder = tmp_path / "real.mp4"
    folder.mkdir()
    for name in ("10.png", "9.png", "frame_100.jpg", "011.PNG", ".hidden.png", "notes.txt"):
        (folder / name).touch()
    (tmp_path / "train_real.txt").write_text("0,real.mp4,4\n")
    (clip,) = listing_of(tmp_path).clips
    assert clip.frames == ("9.png", "10.png", "011.PNG", "frame_100.jpg")


def test_fewer_frames_than_listed_and_folders_of_no_list_are_told(tmp_path, caplog):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").touch()
    (tmp_path / "test_fake.txt").write_text("1,a,1\n1,b,5\n")
    listing = listing_of(tmp_path)
    assert listing.unlisted == ["c"]
    assert "test_fake.txt, line 2: 5 frames are listed, 1 are there" in caplog.text


def test_a_folder_without_frames_is_missing(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/0.png").touch()
    (tmp_path / "test_fake.txt").write_text("1,a,1\n1,b,1\n")
    with pytest.raises(DatasetError, match="1 of 2 listed clips .* are not there.*--path_prefix"):
        listing_of(tmp_path)
    assert [clip.folder.name for clip in listing_of(tmp_path, allow_missing=True).missing] == ["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,a,1\n", "label 0 in a list of fake videos"),
        ("1\n", "expected label,path,frames"),
        ("1;a;3\n", "semicolons"),
        ("1,a,many\n", "expected a number of frames"),
        ("1,../a,1\n", "leads outside the data root"),
        ("1,a,1\n1,a,1\n", "listed twice"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.png").touch()
    (tmp_path / "test_fake.txt").write_text(text)
    with pytest.raises(DatasetError, match=message):
        listing_of(tmp_path)


def test_a_prefix_needs_an_equals_sign(tree):
    with pytest.raises(UsageError, match="OLD=NEW"):
        listing_of(tree[0], AUTHOR)


def test_a_link_out_of_the_root_needs_the_flag(tmp_path):
    (tmp_path / "elsewhere/a").mkdir(parents=True)
    (tmp_path / "elsewhere/a/0.png").touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "elsewhere/a")
    (root / "test_fake.txt").write_text("1,a,1\n")
    with pytest.raises(DatasetError, match="link leads out"):
        listing_of(root)
    assert listing_of(root, allow_links=True).clips
