"""What the parts of the sets of 2025 share, after a leak is planted: exact, or said to be unknown."""

import pytest

from loaders import DATASETS
from loaders.listing import MetadataConfig
from loaders.splits.drawing import SplitConfig
from loaders.splits.files import make_split
from loaders.splits.published import protocol_results
from tests.trees import TREES
from tests.trees.celebdf import write_celebdf_pp
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty
from utils.errors import DatasetError


@pytest.fixture
def root_of(tmp_path):
    """A function: the writer of a tree -> the root of its empty clips."""
    return lambda write: prepare_empty(write(tmp_path / "raw", EmptyFiles()), tmp_path / "prepared")


def listed(name, root):
    return DATASETS[name](root, MetadataConfig())


def shared_with_test(listing, split_of):
    """({kind: (how many the test has, how many of these training and validation have)}, the sentences)."""
    results = protocol_results(listing, split_of, None, tells_overlaps=True)
    found = {}
    for kind, row in results["overlaps"].items():
        if "reason" not in row:
            pairs = [pair["number"] for pair in row["shared"] if "test" in pair["parts"]]
            found[kind] = row["numbers"]["test"], sum(pairs)
    return found, results["said"]


def test_idforge_a_shot_of_a_training_person_in_the_test_list(root_of):
    root = root_of(TREES["idforge"])
    clean = listed("idforge", root)
    found, _ = shared_with_test(clean, make_split(clean, SplitConfig()).split_of)
    assert found == {
        "persons": (1, 0),
        "donors": (1, 0),
        "videos": (1, 0),
        "families": (1, 0),
        "files": (5, 0),
    }
    with (root / "IDForge_v1/test.csv").open("a") as file:
        file.write("face_tts/id01/id01_02/id01_scene_0085_7_roop.mp4\n")
    listing = listed("idforge", root)
    with pytest.raises(DatasetError, match="idforge/id01 is in train .* and in test"):
        make_split(listing, SplitConfig())
    split = make_split(listing, SplitConfig(), check=False)
    found, said = shared_with_test(listing, split.split_of)
    assert found == {
        "persons": (2, 1),
        "donors": (2, 1),
        "videos": (2, 1),
        "families": (2, 1),
        "files": (6, 0),
    }
    assert "persons on screen: 1 are in both, of 2 of train and 2 of test, e.g. id01" in said


def test_celebdf_pp_a_fake_of_a_training_celebrity_in_the_test_list(root_of):
    """id0 is tested, with the face of id1; id1 to id3 are trained on, with the faces of id2, id3 and id0."""
    root = root_of(write_celebdf_pp)
    clean = listed("celebdf", root)
    parts = {clip.clip_id: clip.split for clip in clean.clips}
    found, _ = shared_with_test(clean, parts)
    assert found == {"persons": (1, 0), "donors": (2, 2), "families": (1, 0), "files": (6, 0)}
    with (root / "List_of_testing_videos.txt").open("a") as file:
        file.write("0 Celeb-synthesis/FaceReenact/LIA/id2_id3_0000.mp4\n")
    listing = listed("celebdf", root)
    found, said = shared_with_test(listing, {clip.clip_id: clip.split for clip in listing.clips})
    assert found == {"persons": (2, 1), "donors": (4, 4), "families": (2, 1), "files": (7, 0)}
    assert "persons on screen: 1 are in both, of 3 of train and 2 of test, e.g. id2" in said


def test_polyglotfake_a_recording_in_two_parts(root_of):
    """Clips 1 and 2 are cut from one recording; a drawn split keeps them together, this one does not."""
    listing = listed("polyglotfake", root_of(TREES["polyglotfake"]))
    drawn = make_split(listing, SplitConfig(val_fraction=0.25, test_fraction=0.25)).split_of
    found, _ = shared_with_test(listing, drawn)
    assert found["families"][1] == found["videos"][1] == 0
    tested = {clip.clip_id for clip in listing.clips if clip.clip_id.rpartition("/")[2].startswith("en_1")}
    assert len(tested) == 3
    split_of = {clip.clip_id: "test" if clip.clip_id in tested else "train" for clip in listing.clips}
    found, _ = shared_with_test(listing, split_of)
    assert found["videos"] == (1, 1)


@pytest.mark.parametrize("name", ["mavos_dd", "avlips", "deepfake_eval_2024"])
def test_of_sets_without_persons_it_is_said_that_leaks_are_unknown(root_of, name):
    listing = listed(name, root_of(TREES[name]))
    found, said = shared_with_test(listing, {clip.clip_id: clip.split for clip in listing.clips})
    assert found.keys() == {"files"}
    assert said == ["it names neither persons nor families: what its parts share is unknown"]


def test_mavos_dd_a_clip_in_two_parts_is_refused(root_of):
    root = root_of(TREES["mavos_dd"])
    table = root / "mavos_dd.csv"
    line = next(line for line in table.read_text().splitlines() if ",train," in line)
    table.write_text(f"{table.read_text()}{line.replace(',train,', ',test,')}\n")
    with pytest.raises(DatasetError, match="is listed twice"):
        listed("mavos_dd", root)


def test_deepfake_eval_2024_and_avlips_have_no_clip_in_two_parts(root_of, tmp_path):
    root = root_of(TREES["deepfake_eval_2024"])
    table = root / "video-metadata-publish-with-links.csv"
    table.write_text(table.read_text() + "0000.mp4,2024-03-01,Fake,Real,x,Test,https://x.y/0\n")
    with pytest.raises(DatasetError, match="is listed twice"):
        listed("deepfake_eval_2024", root)
    avlips = tmp_path / "avlips"
    tree = TREES["avlips"](avlips / "raw", EmptyFiles())
    assert {clip.split for clip in listed("avlips", prepare_empty(tree, avlips / "prepared")).clips} == {
        "test"
    }
