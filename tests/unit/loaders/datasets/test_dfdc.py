"""DFDC and its preview: labels in every spelling, unknown modalities, parts, pairs, and layouts."""

import dataclasses
import json
import logging
from collections import Counter

import pytest

from loaders.datasets.dfdc import PUBLISHED_COUNTS, list_dfdc
from loaders.datasets.dfdc_preview import list_dfdc_preview
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig, draw_split
from tests.trees.dfdc import write_dfdc, write_dfdc_metadata, write_dfdc_preview
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.errors import DatasetError

ALLOW = ListingConfig(allow_missing=True)


def counts(clips):
    return Counter((clip.split or "", clip.category, clip.method) for clip in clips)


@pytest.fixture
def dfdc(tmp_path):
    """A prepared DFDC tree of empty files."""
    tree = write_dfdc(tmp_path / "raw", EmptyFiles())
    return prepare_empty(tree, tmp_path / "prepared")


def metadata_of(root, part=0):
    return root / f"train/dfdc_train_part_{part}/metadata.json"


def edit(path, change):
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))


def test_all_parts_are_found_with_labels_in_every_spelling(tmp_path, dfdc):
    tree = write_dfdc(tmp_path / "raw", EmptyFiles())
    listing = list_dfdc(dfdc, ListingConfig())
    assert counts(listing.clips) == tree.counts
    assert not listing.missing
    spellings = {
        fields["label"]
        for part in range(2)
        for fields in json.loads(metadata_of(dfdc, part).read_text()).values()
    }
    assert spellings == {"REAL", "FAKE", "real", "fake"}


def test_a_fake_has_a_label_but_neither_modality_is_made_up(dfdc):
    for clip in list_dfdc(dfdc, ListingConfig()).clips:
        expected = (1, None, None) if clip.category == "fake" else (0, 0, 0)
        assert (clip.label, clip.video_label, clip.audio_label) == expected


def test_a_fake_and_its_original_are_one_person_and_a_part_one_group(dfdc):
    listing = list_dfdc(dfdc, ListingConfig())
    clips = {clip.clip_id: clip for clip in listing.clips}
    name, fields = next(
        (name, fields)
        for name, fields in json.loads(metadata_of(dfdc).read_text()).items()
        if "original" in fields
    )
    folder = "dfdc/train/dfdc_train_part_0/"
    fake, original = (clips[folder + file.removesuffix(".mp4")] for file in (name, fields["original"]))
    assert fake.identity == fake.pair_key == original.identity == original.pair_key
    assert {clip.split_group for clip in listing.clips if clip.split == "train"} == {
        f"dfdc/train/dfdc_train_part_{part}" for part in range(4)
    }


def test_a_fake_without_its_original_is_a_fake_of_a_person_of_its_own(dfdc):
    """In Kaggle's sample most originals are not among the videos."""
    name = next(
        name for name, fields in json.loads(metadata_of(dfdc).read_text()).items() if "original" in fields
    )
    edit(metadata_of(dfdc), lambda entries: entries[name].update(original="zzzz.mp4"))
    clips = {clip.clip_id: clip for clip in list_dfdc(dfdc, ListingConfig()).clips}
    fake = clips["dfdc/train/dfdc_train_part_0/" + name.removesuffix(".mp4")]
    assert (fake.label, fake.identity, fake.split) == (1, "dfdc/zzzz", "train")


def test_a_drawn_split_keeps_parts_whole(dfdc):
    listing = list_dfdc(dfdc, ListingConfig())
    split = draw_split(listing, SplitConfig(split_source="identity", test_fraction=0.3, val_fraction=0.2))
    parts = {}
    for clip in listing.clips:
        parts.setdefault(clip.split_group, set()).add(split.split_of[clip.clip_id])
    assert all(len(found) == 1 for found in parts.values())
    assert set.union(*parts.values()) == {"train", "val", "test"}


def test_parts_stay_together_where_an_original_lies_in_another(dfdc, caplog):
    name = next(n for n, f in json.loads(metadata_of(dfdc, 1).read_text()).items() if "original" not in f)

    def lend(entries):
        fake = next(fields for fields in entries.values() if "original" in fields)
        fake["original"] = name

    edit(metadata_of(dfdc, 0), lend)
    with caplog.at_level(logging.WARNING):
        clips = list_dfdc(dfdc, ListingConfig()).clips
    assert "1 fakes lie in another part than their original" in caplog.text
    assert len({clip.split_group for clip in clips if clip.split == "train"}) == 3


@pytest.mark.parametrize("place", ["", "train/", "train/dfdc_train_part_00/"])
def test_parts_are_found_wherever_they_were_unpacked(tmp_path, place):
    tree = write_dfdc(tmp_path / "raw", EmptyFiles(), num_parts=1)
    root = tree.source / "DFDC"
    moved = root / "moved"
    (root / "train/dfdc_train_part_0").rename(moved)
    (root / place).mkdir(parents=True, exist_ok=True)
    moved.rename(root / place / "dfdc_train_part_0")
    prepared = prepare_empty(dataclasses.replace(tree, source=root), tmp_path / "prepared")
    assert counts(list_dfdc(prepared, ListingConfig()).clips) == tree.counts


@pytest.mark.parametrize(
    "name", ["train_sample_videos", "deepfake-detection-challenge/train_sample_videos", "my part", "."]
)
def test_any_folder_with_a_metadata_file_next_to_videos_is_a_part(tmp_path, name, caplog):
    tree = write_dfdc(tmp_path / "raw", EmptyFiles(), num_parts=2)
    source = tmp_path / "download"
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (tree.source / "DFDC/train/dfdc_train_part_1").rename(source / name)
    (source / "test_videos").mkdir()
    (source / "test_videos/aaaaaaaaaa.mp4").touch()  # without labels
    prepared = prepare_empty(dataclasses.replace(tree, source=source), tmp_path / "prepared")
    clips = list_dfdc(prepared, ListingConfig()).clips
    assert sorted(clip.label for clip in clips) == [0, 0, 1, 1]
    assert not (prepared / "test_videos").exists()
    # with one part only, no group could be split
    assert {clip.split_group for clip in clips} == {""}
    assert "one train part alone" in caplog.text
    split = draw_split(list_dfdc(prepared, ListingConfig()), SplitConfig(val_fraction=0.5))
    assert set(split.split_of.values()) == {"train", "val"}


def test_metadata_of_another_kind_in_a_folder_of_another_name_is_passed_over(dfdc, caplog):
    before = list_dfdc(dfdc, ListingConfig()).clips
    (dfdc / "other").mkdir()
    (dfdc / "other/metadata.json").write_text('{"a.mp4": {"is_fake": 1}}')
    assert list_dfdc(dfdc, ListingConfig()).clips == before
    assert "other/metadata.json is not read: it gives no label to 'a.mp4'" in caplog.text


@pytest.mark.parametrize("words", [("0.0", "1.0"), ("False", "True"), ("REAL", "Fake")])
def test_labels_of_a_table_in_other_words(dfdc, words):
    before = list_dfdc(dfdc, ListingConfig()).clips
    path = dfdc / "test/labels.csv"
    rows = [line.split(",") for line in path.read_text().split()[1:]]
    lines = [f"{number},{name},{words[int(label)]}" for number, (name, label) in enumerate(rows)]
    path.write_text("\n".join([",filename,label", *lines]))
    assert list_dfdc(dfdc, ListingConfig()).clips == before


@pytest.mark.parametrize(("kept", "splits"), [("test", {"test"}), ("validation", {"val"})])
def test_one_folder_alone_is_enough(tmp_path, kept, splits):
    tree = write_dfdc(tmp_path / "raw", EmptyFiles())
    for name in {"train", "validation", "test"} - {kept}:
        (tree.source / "DFDC" / name).rename(tmp_path / name)
    listing = list_dfdc(prepare_empty(tree, tmp_path / "out"), ListingConfig())
    assert {clip.split for clip in listing.clips} == splits


def test_published_size(tmp_path):
    write_dfdc_metadata(tmp_path)
    first = next(iter(json.loads(metadata_of(tmp_path).read_text())))
    touch_clip(metadata_of(tmp_path).parent / first.removesuffix(".mp4"))
    listing = list_dfdc(tmp_path, ALLOW)
    found = Counter((clip.split, clip.label) for clip in listing.all_clips)
    assert found == {
        (split, label): count for split, both in PUBLISHED_COUNTS.items() for label, count in enumerate(both)
    }
    assert sum(found.values()) == 119_154 + 4_000 + 5_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e[next(iter(e))].update(label="MAYBE"), "label is 'MAYBE', expected 0, 1, real or fake"),
        (lambda e: e[next(iter(e))].pop("label"), "expected an object with a label"),
        (lambda e: e[next(iter(e))].update(split="test"), "split is 'test', expected 'train'"),
        (lambda e: [fields.pop("original", None) for fields in e.values()], "needs the name of its original"),
        (lambda e: e.update({"../x.mp4": {"label": "REAL"}}), "outside the data root"),
    ],
)
def test_a_bad_entry_of_a_part_is_named(dfdc, change, message):
    edit(metadata_of(dfdc), change)
    with pytest.raises(DatasetError, match=message) as caught:
        list_dfdc(dfdc, ListingConfig())
    assert "dfdc_train_part_0/metadata.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,label\na.mp4,2\n", "line 2: label is '2', expected 0, 1, real or fake"),
        ("filename,label\na.mp4,1\na.mp4,1\n", "line 3: dfdc/test/a is listed twice"),
        ("name,label\na.mp4,1\n", "no column filename; its columns are name, label"),
    ],
)
def test_bad_labels_are_named(dfdc, text, message):
    (dfdc / "test/labels.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        list_dfdc(dfdc, ListingConfig())


def test_wrong_roots_and_missing_files_are_named(tmp_path, dfdc):
    with pytest.raises(DatasetError, match="neither dfdc_train_part_"):
        list_dfdc(tmp_path, ListingConfig())
    (dfdc / "validation/labels.csv").unlink()
    with pytest.raises(DatasetError, match="no such file .the labels of DFDC's validation folder"):
        list_dfdc(dfdc, ListingConfig())
    metadata_of(dfdc).write_text("[]")
    with pytest.raises(DatasetError, match="expected a JSON dict, found a list"):
        list_dfdc(dfdc, ListingConfig())


# ------------------------------------------------------------------ preview


@pytest.fixture
def preview(tmp_path):
    tree = write_dfdc_preview(tmp_path / "raw", EmptyFiles())
    return prepare_empty(tree, tmp_path / "preview")


def test_preview_counts_and_fields(tmp_path, preview):
    listing = list_dfdc_preview(preview, ListingConfig())
    assert counts(listing.clips) == write_dfdc_preview(tmp_path / "raw", EmptyFiles()).counts
    clips = {clip.clip_id: clip for clip in listing.clips}
    fake = clips["dfdc_preview/method_A/1224068/1224068_A/1225085_1224068_A_001"]
    real = clips["dfdc_preview/original_videos/1224068/1224068_A_001"]
    assert (fake.label, fake.video_label, fake.audio_label) == (1, 1, 0)  # faces swapped, voices genuine
    assert (fake.identity, fake.source_ids) == ("dfdc_preview/1224068", ("dfdc_preview/1225085",))
    assert (real.identity, real.source_ids) == ("dfdc_preview/1224068", ())
    assert fake.pair_key == real.pair_key == "dfdc_preview/1224068_A"


def test_preview_has_no_validation_and_carves_it_from_train_by_pairs(preview):
    listing = list_dfdc_preview(preview, ListingConfig())
    assert {clip.split for clip in listing.clips} == {"train", "test"}
    split = draw_split(listing, SplitConfig(val_fraction=0.3))
    sizes = Counter(split.split_of.values())
    assert sizes == {"train": 12, "val": 6, "test": 6}
    assert not split.dropped


def test_preview_persons_linked_all_around_are_not_grouped(preview, caplog):
    def chain(entries):
        actors = sorted({int(f["target_id"]) for f in entries.values() if f["set"] == "train"})
        for fields in entries.values():
            if fields["label"] == "fake" and fields["set"] == "train":
                fields["swapped_id"] = actors[actors.index(int(fields["target_id"])) - 1]

    edit(preview / "dataset.json", chain)
    with caplog.at_level(logging.WARNING):
        listing = list_dfdc_preview(preview, ListingConfig())
    assert "6 of the 6 persons of its train set are linked by swaps" in caplog.text
    assert listing.donor_rule == "keep"
    sizes = Counter(draw_split(listing, SplitConfig(val_fraction=0.3)).split_of.values())
    assert sizes == {"train": 12, "val": 6, "test": 6}


def test_the_released_codes_layout_is_read(tmp_path):
    tree = write_dfdc_preview(tmp_path / "DFDC-Official", EmptyFiles())
    metadata = tmp_path / "DFDC-Official/dfdc_preview_set/dataset.json"
    for key in json.loads(metadata.read_text()):
        folder = tmp_path / "DFDC-Official/dfdc_preview_set_features" / key.removesuffix(".mp4")
        touch_clip(folder, audio_name="audio.wav")
    listing = list_dfdc_preview(tmp_path / "DFDC-Official", ListingConfig())
    assert counts(listing.clips) == tree.counts
    assert all("dfdc_preview_set_features" in clip.folder.parts for clip in listing.clips)


def test_preview_of_published_size(tmp_path):
    actors = [str(1000 + index) for index in range(66)]
    entries = {}
    for index in range(1_131 + 4_119):
        actor, donor = actors[index % 66], actors[index % 66 ^ 1]
        fake = index >= 1_131
        name = f"{actor}_A_{index:04d}.mp4"
        key = f"method_A/{actor}/{actor}_A/{donor}_{name}" if fake else f"original_videos/{actor}/{name}"
        entries[key] = {
            "label": "fake" if fake else "real",
            "set": "test" if index % 66 > 50 else "train",
            "target_id": actor,
            "swapped_id": donor,
            "augmentations": [],
        }
        if not fake:
            entries[key]["swapped_id"] = None
    (tmp_path / "dataset.json").write_text(json.dumps(entries))
    touch_clip(tmp_path / next(iter(entries)).removesuffix(".mp4"))
    clips = list_dfdc_preview(tmp_path, ALLOW).all_clips
    assert Counter(clip.label for clip in clips) == {0: 1_131, 1: 4_119}
    assert len({clip.identity for clip in clips}) == 66


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "Fale"}, "label is 'Fale'"),
        ({"set": "val"}, "set is 'val', expected train or test"),
        ({"label": "real"}, "label 'real' does not fit the folder method_A"),
        ({"swapped_id": None}, "has no swapped_id"),
        ({"target_id": ""}, "has no target_id"),
    ],
)
def test_a_bad_entry_of_the_preview_is_named(preview, change, message):
    key = "method_A/1224068/1224068_A/1225085_1224068_A_001.mp4"
    edit(preview / "dataset.json", lambda entries: entries[key].update(change))
    with pytest.raises(DatasetError, match=message) as caught:
        list_dfdc_preview(preview, ListingConfig())
    assert key in str(caught.value)


def test_a_wrong_preview_root_is_named(tmp_path):
    with pytest.raises(DatasetError, match="neither dataset.json nor dfdc_preview_set/dataset.json"):
        list_dfdc_preview(tmp_path, ListingConfig())
