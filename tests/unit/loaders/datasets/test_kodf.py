import logging
import unicodedata
from collections import Counter

import pytest

from loaders.datasets.kodf import list_kodf
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig, draw_split
from preprocess.work.raw_layouts import read_raw_dataset
from tests.trees.kodf import METHODS, PARTS, fake_name, person_id, write_international, write_kodf
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.errors import DatasetError
from utils.files import read_text


def prepared_aihub(tmp_path, **options):
    tree = write_kodf(tmp_path / "raw", EmptyFiles(), **options)
    return tree, prepare_empty(tree, tmp_path / "prepared")


def counts_of(clips):
    return Counter((clip.split or "", clip.category, clip.method) for clip in clips)


def table(root, part, kind):
    """A table of a prepared tree, whatever the form of its name."""
    prefix, word, *_ = PARTS[part]
    name = f"{part}/라벨링데이터/{prefix}_meta_data/{kind}_{word}_메타데이터.csv"
    return next(p for form in ("NFC", "NFD") if (p := root / unicodedata.normalize(form, name)).is_file())


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    "encodings", [("utf-8-sig", "utf-8-sig"), ("utf-8", "utf-8"), ("cp949", "cp949"), ("utf-8-sig", "cp949")]
)
def test_encodings_and_forms_of_names_give_the_same_records(tmp_path, form, encodings):
    tree, root = prepared_aihub(tmp_path, form=form, encodings=encodings)
    listing = list_kodf(root, ListingConfig())
    assert counts_of(listing.clips) == tree.counts
    assert not listing.missing
    fake = next(clip for clip in listing.clips if clip.clip_id.endswith(f"/{fake_name(7, 8, 'fsgan')}"))
    real = f"kodf/validate/real/{person_id(7)}/{person_id(7)}_001"
    assert fake.clip_id == f"kodf/validate/fsgan/{person_id(7)}/{fake_name(7, 8, 'fsgan')}"
    assert (fake.identity, fake.source_ids) == (f"kodf/{person_id(7)}", (f"kodf/{person_id(8)}",))
    assert (fake.pair_key, fake.stratum, fake.split) == (real, "여성", "test")
    assert (fake.label, fake.video_label, fake.audio_label) == (1, 1, 0)  # no voice of KoDF is forged
    assert real in {clip.clip_id for clip in listing.clips}


def test_utf8_that_was_read_as_cp949_is_an_error_and_not_an_empty_list(tmp_path):
    _, root = prepared_aihub(tmp_path)
    real = table(root, "1.Training", "원본영상")
    # what a reader with the wrong encoding makes of it: it decodes, but "영상ID" is gone
    nonsense = "영상ID,UUID,인물성별\n".encode().decode("cp949", errors="replace")
    real.write_text(nonsense + "a_001.mp4,a,x\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"no column 영상ID.*its columns are"):
        list_kodf(root, ListingConfig())
    real.write_bytes("영상ID,UUID,인물성별\n".encode("utf-16"))
    with pytest.raises(DatasetError, match="is UTF-16 text"):
        list_kodf(root, ListingConfig())


def test_a_table_without_rows_is_an_error(tmp_path):
    _, root = prepared_aihub(tmp_path, parts=("2.Validation",))
    real = table(root, "2.Validation", "원본영상")
    real.write_text("영상ID,UUID,인물성별\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="6 clips are listed, but none of them is real"):
        list_kodf(root, ListingConfig())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("변조모델", "모델", "no column 변조모델"),
        (",fsgan,", ",magic,", "line 3: unknown method 'magic', expected one of dfl"),
        (f",{person_id(7)},", ",,", "타겟UUID is empty"),
        (f"{fake_name(7, 8, 'fsgan')}.mp4", "../x.mp4", "outside the data root"),
    ],
)
def test_a_bad_table_is_named(tmp_path, old, new, message):
    _, root = prepared_aihub(tmp_path, encodings=("utf-8", "utf-8"))
    path = table(root, "2.Validation", "변조영상")
    text = path.read_text(encoding="utf-8")
    lines = [text.splitlines()[0], *sorted(text.splitlines()[1:], key=lambda line: "fsgan" in line)]
    lines = [lines[0], lines[1], *[line for line in lines if "fsgan" in line]]
    assert old in "\n".join(lines)
    path.write_text("\n".join(lines).replace(old, new), encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        list_kodf(root, ListingConfig(allow_missing=True))


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(DatasetError, match="neither train_meta_data .* it holds nothing"):
        list_kodf(tmp_path, ListingConfig())
    with pytest.raises(DatasetError, match=r"holds no kodf, also not in .*KoDF.*train_meta_data"):
        read_raw_dataset("kodf", tmp_path)
    _, root = prepared_aihub(tmp_path / "data")
    table(root, "1.Training", "변조영상").unlink()
    with pytest.raises(DatasetError, match=r"expected one 변조영상_..._메타데이터.csv, found 원본영상"):
        list_kodf(root, ListingConfig())


def test_official_parts_are_used_only_where_both_are_there_and_share_nobody(tmp_path, caplog):
    _, root = prepared_aihub(tmp_path / "both", encodings=("utf-8", "utf-8"))
    split = draw_split(list_kodf(root, ListingConfig()), SplitConfig(val_fraction=0.2))
    assert set(split.split_of.values()) == {"train", "val", "test"}  # validation is carved from Training

    tree, one = prepared_aihub(tmp_path / "one", parts=("2.Validation",))
    with caplog.at_level(logging.WARNING):
        listing = list_kodf(one, ListingConfig())
    assert counts_of(listing.clips) == tree.counts
    assert {clip.split for clip in listing.clips} == {None}
    assert "only the part validate is there" in caplog.text

    path = table(root, "2.Validation", "원본영상")
    path.write_text(path.read_text(encoding="utf-8").replace(f",{person_id(7)},", f",{person_id(1)},"))
    with caplog.at_level(logging.WARNING):
        listing = list_kodf(root, ListingConfig())
    assert "1 persons are in Training and in Validation" in caplog.text
    assert {clip.split for clip in listing.clips} == {None}


def test_persons_of_fakes_never_straddle_a_drawn_split(tmp_path):
    _, root = prepared_aihub(tmp_path)
    listing = list_kodf(root, ListingConfig())
    split = draw_split(listing, SplitConfig(split_source="identity", test_fraction=0.3, val_fraction=0.2))
    parts = {}
    for clip in listing.clips:
        if clip.clip_id in split.split_of:
            for person in clip.persons:
                parts.setdefault(person, set()).add(split.split_of[clip.clip_id])
    assert {len(names) for names in parts.values()} == {1}
    # nine persons whose donors form two rings: some fakes must have been torn, and are counted
    assert set(split.dropped.values()) == {"its donor is in another part"}
    assert len(split.dropped) + len(split.split_of) == len(listing.clips)


def test_perturbed_clips_are_left_out_and_counted(tmp_path, caplog):
    tree, root = prepared_aihub(tmp_path, form="NFC")
    raw = read_raw_dataset("kodf", tree.source)
    assert not [path for path in raw.videos if "탐지방해" in unicodedata.normalize("NFC", str(path))]
    for number in range(3):
        touch_clip(root / "1.Training/원천데이터/train_탐지방해/변조영상/01_noise" / f"{number}")
    with caplog.at_level(logging.INFO):
        assert counts_of(list_kodf(root, ListingConfig()).clips) == tree.counts
    assert "3 perturbed clips left out (train_탐지방해)" in caplog.text


def test_missing_clips_keep_their_ids_and_are_counted(tmp_path):
    """The tables do not say in which numbered folder a clip lies: its id must not depend on that."""
    _, root = prepared_aihub(tmp_path, form="NFC")
    everything = {clip.clip_id for clip in list_kodf(root, ListingConfig()).clips}
    gone = next(root.glob(f"1.Training/원천데이터/train_원본/원본2/{person_id(3)}/*"))
    gone.rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"1 of 27 listed clips \(3.7%\) are not prepared \(real 1\)"):
        list_kodf(root, ListingConfig())
    listing = list_kodf(root, ListingConfig(allow_missing=True))
    assert len(listing.missing) == 1
    assert {clip.clip_id for clip in listing.all_clips} == everything


def test_a_clip_listed_twice_counts_once(tmp_path, caplog):
    tree, root = prepared_aihub(tmp_path, encodings=("utf-8", "utf-8"))
    path = table(root, "1.Training", "변조영상")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines, lines[-1]]), encoding="utf-8")
    with caplog.at_level(logging.INFO):
        assert counts_of(list_kodf(root, ListingConfig()).clips) == tree.counts
    assert "1 rows list a clip again" in caplog.text


def test_the_international_distribution(tmp_path, caplog):
    tree = write_international(tmp_path / "raw", EmptyFiles())
    root = prepare_empty(tree, tmp_path / "prepared")
    clips = list_kodf(root, ListingConfig()).clips
    assert counts_of(clips) == tree.counts
    fake = next(clip for clip in clips if clip.method == "audio-driven")
    assert fake.clip_id == (
        f"kodf/synthesized_videos/audio-driven/20201103/{person_id(4)}/{fake_name(4, 5, 'audio-driven')}"
    )
    assert (fake.identity, fake.source_ids) == (f"kodf/{person_id(4)}", (f"kodf/{person_id(5)}",))

    # another code than the folder's: the folder counts, and it is said
    place = root / f"synthesized_videos/dfl/20201103/{person_id(0)}"
    touch_clip(place / fake_name(0, 1, "fo", 7))
    with caplog.at_level(logging.WARNING):
        clips = list_kodf(root, ListingConfig()).clips
    assert "1 clips have another method code" in caplog.text
    assert Counter(clip.method for clip in clips)["dfl"] == tree.counts["", "dfl", "dfl"] + 1
    touch_clip(place / "holiday")
    with pytest.raises(DatasetError, match=r"holiday: expected the name \d+_<source person>_<code>"):
        list_kodf(root, ListingConfig())


@pytest.mark.parametrize("under", [".", "features_mtcnn"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_the_released_codes_layout(tmp_path, under, encoding, form):
    root = tmp_path / under
    (root / "validate_meta_data").mkdir(parents=True)
    names = [f"{person_id(index)}_{index:03d}" for index in range(4)]
    rows = ["영상ID,UUID", *(f"{name}.mp4,x" for name in names)]
    (root / "validate_meta_data/real.csv").write_bytes("\n".join(rows).encode(encoding))
    for index, name in enumerate(names):
        folder = unicodedata.normalize(form, f"원본{1 + index % 2}")
        touch_clip(root / folder / person_id(index) / name, "audio.wav")
    rows = ["folder,folder2,filename"]
    for index, (folder2, place) in enumerate((("", "0"), ("3", "3"), ("3.0", "3"), ("003", "3"))):
        name = fake_name(index, (index + 1) % 4, "fsgan")
        rows.append(f"fsgan{index % 2 + 1},{folder2},{name}.mp4")
        touch_clip(root / f"fsgan{index % 2 + 1}" / place / name, "audio.wav")
    (root / "validate_meta_data/fake.csv").write_text("\n".join(rows), encoding="utf-8")
    listing = list_kodf(tmp_path, ListingConfig())
    assert counts_of(listing.clips) == {("", "real", "real"): 4, ("", "fsgan", "fsgan"): 4}
    fakes = [clip for clip in listing.clips if clip.label == 1]
    assert [clip.identity for clip in fakes] == [f"kodf/{person_id(index)}" for index in range(4)]
    assert fakes[0].source_ids == (f"kodf/{person_id(1)}",)

    (root / "validate_meta_data/fake.csv").write_text("folder,folder2,filename\nfsgan1,x,a.mp4\n")
    with pytest.raises(DatasetError, match=r"fake.csv, line 2: folder2 is 'x', expected a number"):
        list_kodf(tmp_path, ListingConfig())
    (root / "validate_meta_data/fake.csv").unlink()
    with pytest.raises(DatasetError, match=r"fake.csv: no such file.*holds real.csv"):
        list_kodf(tmp_path, ListingConfig())


def test_all_five_methods_are_in_the_tree(tmp_path):
    tree, _ = prepared_aihub(tmp_path)
    assert {method for _, _, method in tree.counts} == {"real", *METHODS}


def test_ids_that_a_spreadsheet_has_changed_are_mended_or_named(tmp_path):
    _, root = prepared_aihub(tmp_path)
    before = list_kodf(root, ListingConfig()).clips
    path = table(root, "1.Training", "변조영상")
    text = read_text(path)
    person = person_id(0)
    assert f",{person}," in text
    path.write_text(text.replace(f",{person},", f",{person.lstrip('0')}.0,"), encoding="utf-8")
    assert list_kodf(root, ListingConfig()).clips == before
    path.write_text(text.replace(f",{person},", ",3.06079E+18,"), encoding="utf-8")
    with pytest.raises(
        DatasetError, match=r"line 2: '3\.06079E.18' was an id before a spreadsheet rounded it"
    ):
        list_kodf(root, ListingConfig())
