import csv
import logging

import pytest

from loaders.datasets.fakeavceleb import CATEGORIES, list_fakeavceleb
from loaders.listing import ListingConfig, summarize
from tests.clip_factory import ROWS, write_clip_folder, write_fakeavceleb_tree, write_metadata
from utils.errors import DatasetError

ALLOW = ListingConfig(allow_missing=True)


@pytest.fixture
def one_clip_tree(tmp_path):
    """A root with one prepared clip in an "Asian (East)" folder; the metadata is the test's."""
    write_clip_folder(tmp_path / "RealVideo-FakeAudio/Asian (East)/women/id00001/00001_fake", num_frames=3)
    return tmp_path


def row(**changes):
    values = {
        "source": "id00001",
        "target1": "-",
        "target2": "-",
        "method": "rtvc",
        "category": "B",
        "type": "RealVideo-FakeAudio",
        "race": "Asian (East)",
        "gender": "women",
        "name": "00001_fake.mp4",
        "folder": "FakeAVCeleb/RealVideo-FakeAudio/Asian (East)/women/id00001",
    } | changes
    return tuple(values.values())


def test_ten_value_rows_give_every_field(prepared_root):
    listing = list_fakeavceleb(prepared_root, ListingConfig())
    assert len(listing.clips) == 12 * len(ROWS)
    by_category = {kind: [c for c in listing.clips if c.category == kind] for kind in CATEGORIES}
    assert {len(clips) for clips in by_category.values()} == {12}
    for kind, (_, video_label, audio_label) in CATEGORIES.items():
        for clip in by_category[kind]:
            labels = (clip.video_label, clip.audio_label, clip.label)
            assert labels == (video_label, audio_label, int(video_label or audio_label))
            assert (clip.folder / "landmarks.npy").is_file()
    swap = by_category["FakeVideo-RealAudio"][0]
    assert (swap.identity, swap.source_ids, swap.method) == (
        "fakeavceleb/id10000",
        ("fakeavceleb/id10007",),
        "faceswap",
    )
    assert swap.stratum == "African/men"
    assert swap.clip_id == "fakeavceleb/FakeVideo-RealAudio/African/men/id10000/00000_C"


def test_the_renamed_columns_are_read_too(one_clip_tree):
    names = (
        "source",
        "target1",
        "target2",
        "method",
        "category",
        "type",
        "race",
        "gender",
        "filename",
        "path",
    )
    values = dict(zip(names, row(), strict=True))
    with (one_clip_tree / "meta_data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, values)
        writer.writeheader()
        writer.writerow(values)
    (clip,) = list_fakeavceleb(one_clip_tree, ListingConfig()).clips
    assert clip.clip_id.endswith("id00001/00001_fake")
    assert (clip.video_label, clip.audio_label, clip.label) == (0, 1, 1)


HEADER = "source,target1,target2,method,category,type,race,gender"
FOLDER = "FakeAVCeleb/RealVideo-FakeAudio/Asian (East)/women/id00001"


@pytest.mark.parametrize(
    ("header", "values"),
    [
        (f"{HEADER},path", "00001_fake.mp4,{folder}"),  # the tenth column has no name at all
        (f"{HEADER},path,Unnamed: 9", "00001_fake.mp4,{folder}"),
        (f"{HEADER},file,directory", "00001_fake.mp4,{folder}"),
        (f"{HEADER},directory,file", "{folder},00001_fake.MP4"),
        (f"{HEADER},path", "{folder}/00001_fake.mp4"),
        (f"{HEADER},name,full_path", "00001_fake.mp4,{folder}/00001_fake.mp4"),
        (f"{HEADER},path,", "00001_fake.mp4,{windows}"),
        (f"{HEADER},path,,split,,", "00001_fake.mp4,{folder},train,,"),
    ],
)
@pytest.mark.parametrize("index", [False, True])
def test_name_and_folder_are_found_in_whatever_columns_they_are(one_clip_tree, header, values, index):
    values = ",".join(row()[:8]) + "," + values.format(folder=FOLDER, windows=FOLDER.replace("/", "\\"))
    if index:
        header, values = f",{header}", f"0,{values}"
    (one_clip_tree / "meta_data.csv").write_bytes(f"\ufeff{header}\r\n{values}\r\n".encode())
    (clip,) = list_fakeavceleb(one_clip_tree, ListingConfig()).clips
    assert clip.clip_id == "fakeavceleb/RealVideo-FakeAudio/Asian (East)/women/id00001/00001_fake"


def test_a_corrected_table_without_rows_gives_way_to_the_original(one_clip_tree, caplog):
    write_metadata(one_clip_tree / "meta_data.csv", [row()])
    (one_clip_tree / "FakeAVCeleb_metadata_corrected.csv").write_text("type,file_path,video_label\n")
    assert len(list_fakeavceleb(one_clip_tree, ListingConfig()).clips) == 1
    assert "FakeAVCeleb_metadata_corrected.csv: lists no clip" in caplog.text


def test_the_released_codes_csv_and_layout(tmp_path):
    features = tmp_path / "landmark_features/features_mediapipe"
    name = "FakeVideo-FakeAudio/African/men/id00076/00109_2_id00701_wavtolip"
    write_clip_folder(features / name, num_frames=3)
    csv_path = tmp_path / "FakeAVCeleb_metadata_corrected.csv"
    windows = name.replace("/", "\\")
    csv_path.write_text(f"type,file_path,video_label\nval,{windows}.mp4,1.0\n", encoding="utf-8")
    (clip,) = list_fakeavceleb(tmp_path, ListingConfig()).clips
    assert clip.folder == features / name
    assert (clip.split, clip.category, clip.label) == ("val", "FakeVideo-FakeAudio", 1)
    assert (clip.identity, clip.source_ids) == ("fakeavceleb/id00076", ("fakeavceleb/id00701",))


def test_sanitised_folder_names_are_found(one_clip_tree):
    old = one_clip_tree / "RealVideo-FakeAudio/Asian (East)"
    old.rename(old.with_name("Asian-East"))
    write_metadata(one_clip_tree / "meta_data.csv", [row()])
    (clip,) = list_fakeavceleb(one_clip_tree, ListingConfig()).clips
    assert clip.clip_id == "fakeavceleb/RealVideo-FakeAudio/Asian (East)/women/id00001/00001_fake"


def test_a_file_listed_twice_counts_once_and_is_logged(one_clip_tree, caplog):
    write_metadata(one_clip_tree / "meta_data.csv", [row(), row()])
    with caplog.at_level(logging.INFO):
        assert len(list_fakeavceleb(one_clip_tree, ListingConfig()).clips) == 1
    assert "1 rows list a file again" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "RealVideo"}, "line 2: unknown type 'RealVideo'"),
        ({"category": "A"}, "category 'A' does not fit"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"folder": "FakeAVCeleb/elsewhere"}, "line 2: expected a .* folder with RealVideo-FakeAudio in it"),
        ({"folder": "FakeAVCeleb/RealVideo-FakeAudio/../../.."}, "line 2: the path .* outside the data root"),
        ({"name": "clip"}, "line 2: expected a file name .mp4 and a folder"),
        ({"source": ""}, "line 2: source is empty"),
    ],
)
def test_a_bad_row_is_named(one_clip_tree, changes, message):
    write_metadata(one_clip_tree / "meta_data.csv", [row(**changes)])
    with pytest.raises(DatasetError, match=message):
        list_fakeavceleb(one_clip_tree, ListingConfig())


def test_wrong_roots_and_files_are_named(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        list_fakeavceleb(tmp_path / "nowhere", ListingConfig())
    with pytest.raises(DatasetError, match="neither meta_data.csv nor"):
        list_fakeavceleb(tmp_path, ListingConfig())
    (tmp_path / "meta_data.csv").write_text("source,method\na,b\n")
    with pytest.raises(DatasetError, match="no column target1, category"):
        list_fakeavceleb(tmp_path, ListingConfig())
    (tmp_path / "meta_data.csv").write_bytes("source,길\n".encode("cp949"))
    with pytest.raises(DatasetError, match="its columns are source, 길"):
        list_fakeavceleb(tmp_path, ListingConfig())


def test_missing_clips_are_an_error_above_two_percent_and_counted_below(tmp_path, caplog):
    root = write_fakeavceleb_tree(tmp_path, num_identities=2, num_frames=2)
    gone = root / "FakeVideo-RealAudio/African/men/id10000/00000_C/landmarks.npy"
    gone.unlink()
    with pytest.raises(
        DatasetError,
        match=r"1 of 8 listed clips \(12.5%\) are not prepared \(FakeVideo-RealAudio 1\).*--allow_missing",
    ):
        list_fakeavceleb(root, ListingConfig())
    with caplog.at_level(logging.WARNING):
        listing = list_fakeavceleb(root, ALLOW)
    assert "1 of 8 listed clips" in caplog.text
    assert (len(listing.clips), len(listing.missing)) == (7, 1)
    table = "\n".join(summarize(listing, {})[1:])
    assert [line.split()[-4:] for line in table.splitlines() if "FakeVideo-RealAudio" in line] == [
        ["1", "1", "0", "1"]
    ]


def test_a_row_that_points_nowhere_is_never_skipped_silently(one_clip_tree):
    write_metadata(one_clip_tree / "meta_data.csv", [row(), row(name="other.mp4")])
    with pytest.raises(DatasetError, match="id00001/other; run preprocess.prepare"):
        list_fakeavceleb(one_clip_tree, ListingConfig())


def test_excluded_clips_are_counted_and_unknown_exclusions_refused(prepared_root, tmp_path, caplog):
    exclusions = tmp_path / "exclude.txt"
    wanted = "fakeavceleb/RealVideo-RealAudio/African/men/id10000/00000"
    exclusions.write_text(f"# reviewed\n{wanted}  # shows two people\n")
    listing = list_fakeavceleb(prepared_root, ListingConfig(exclude_list=exclusions))
    assert [clip.clip_id for clip in listing.excluded] == [wanted]
    assert wanted not in {clip.clip_id for clip in listing.clips}
    exclusions.write_text("fakeavceleb/typo\n")
    with pytest.raises(DatasetError, match="fakeavceleb/typo"):
        list_fakeavceleb(prepared_root, ListingConfig(exclude_list=exclusions))
    exclusions.write_text("fakeavcelebb/typo\n")  # perhaps of another data set
    list_fakeavceleb(prepared_root, ListingConfig(exclude_list=exclusions))
    assert "1 lines are not clips of fakeavceleb, such as 'fakeavcelebb/typo'" in caplog.text
