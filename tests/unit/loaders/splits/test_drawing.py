import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from loaders.listing import Listing, ListingConfig, select_clips
from loaders.splits.drawing import SPLITS, SplitConfig, require_disjoint
from loaders.splits.files import make_split, read_split, seen_by_run, split_checksum, write_split
from tests.clip_factory import make_clip
from utils.errors import DatasetError, UsageError
from utils.evaluation.seen import sentence_of_seen


def split_of(clips, dataset="d", *, donor_rule="keep", known_overlap="", **flags):
    """The split of some clips under flags."""
    listing = Listing(dataset, list(clips), donor_rule=donor_rule, known_overlap=known_overlap)
    return make_split(listing, SplitConfig(**flags))


def clips_of(num_identities, *, per_identity=3, strata=4, donors=True):
    """Identities in strata like FakeAVCeleb's cells; each identity's last clip has the next one's face."""
    clips = []
    for i in range(num_identities):
        identity = f"d/id{i:05d}"
        for k in range(per_identity):
            donor = (f"d/id{(i + 1) % num_identities:05d}",) if donors and k == per_identity - 1 else ()
            values = {"identity": identity, "source_ids": donor, "stratum": f"s{i % strata}", "dataset": "d"}
            clips.append(make_clip(Path(f"{i}_{k}"), clip_id=f"d/{i}_{k}", **values))
    return clips


def persons(split, part):
    return {split.identity_of[clip_id] for clip_id, name in split.split_of.items() if name == part}


def test_fakeavcelebs_500_identities_split_70_10_20_in_every_cell():
    clips = clips_of(500, strata=10)
    split = split_of(clips)
    assert [len(persons(split, part)) for part in SPLITS] == [350, 50, 100]
    strata = {clip.identity: clip.stratum for clip in clips}
    assert set(Counter(strata[p] for p in persons(split, "test")).values()) == {10}
    assert set(Counter(strata[p] for p in persons(split, "val")).values()) == {5}


def test_nobody_is_in_two_splits_and_everybody_is_in_one():
    clips = clips_of(31)
    split = split_of(clips, val_fraction=0.2, test_fraction=0.25)
    train, val, test = (persons(split, part) for part in SPLITS)
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train | val | test) == 31
    assert (len(val), len(test)) == (6, 8)


def test_the_split_depends_on_the_seed_alone():
    clips = clips_of(40)
    first = split_of(clips)
    assert split_of(clips[::-1]).split_of == first.split_of
    assert split_of(clips, split_seed=1).split_of != first.split_of


def test_donor_disjoint_clips_share_no_face_with_training():
    clips = clips_of(40)
    split = split_of(clips)
    trained_on = {
        person
        for c in clips
        if split.split_of[c.clip_id] == "train"
        for person in (c.identity, *c.source_ids)
    }
    held_out = [c for c in clips if split.split_of[c.clip_id] != "train"]
    marked = {c.clip_id for c in held_out if c.clip_id in split.donor_disjoint}
    assert marked == {c.clip_id for c in held_out if not set(c.source_ids) & trained_on}
    assert 0 < len(marked) < len(held_out)
    assert not any(split.split_of[clip_id] == "train" for clip_id in split.donor_disjoint)


def test_the_data_sets_own_split_is_used_unless_it_leaks():
    own = [
        make_clip(Path(str(i)), clip_id=f"d/{i}", identity=f"d/id{i}", split=SPLITS[i % 3]) for i in range(6)
    ]
    assert split_of(own).split_of["d/1"] == "val"
    leaky = [*own, make_clip(Path("x"), clip_id="d/x", identity="d/id0", split="test")]
    with pytest.raises(DatasetError, match="d/id0 is in train .* and in test"):
        split_of(leaky)
    with pytest.raises(DatasetError, match="names no split"):
        split_of(clips_of(10), split_source="metadata")


def test_split_files_come_back_and_notice_changes(tmp_path):
    clips, path = clips_of(20), tmp_path / "splits" / "d.csv"
    split = split_of(clips, donor_rule="drop")
    write_split(tmp_path / "splits", split)
    assert read_split(path) == split
    assert path.read_text().startswith(f"# sha256={split_checksum(split)}\n")
    again = split_of(clips, split_file=(path,))
    assert (again.split_of, again.dropped) == (split.split_of, split.dropped)
    with pytest.raises(UsageError, match=r"other needs exactly one file, but .* is about d"):
        split_of(clips, "other", split_file=(path,))
    more = [*clips, make_clip(Path("x"), clip_id="d/x")]
    with pytest.raises(DatasetError, match="does not list 1 clips of d, e.g. d/x"):
        split_of(more, split_file=(path,))
    path.write_text(path.read_text().replace(",test,", ",train,", 1))
    with pytest.raises(DatasetError, match="checksum"):
        read_split(path)


def test_too_few_identities_are_an_error():
    with pytest.raises(DatasetError, match="too few for a"):
        split_of(clips_of(2))


def test_a_fake_whose_two_persons_fall_apart_is_dropped_and_counted():
    clips = clips_of(40)
    split = split_of(clips, donor_rule="drop")
    part = {c.identity: split.split_of[c.clip_id] for c in clips if not c.source_ids}
    torn = {c.clip_id for c in clips if c.source_ids and part[c.identity] != part[c.source_ids[0]]}
    assert 0 < len(torn) < 40
    assert set(split.dropped) == torn
    assert split.split_of.keys().isdisjoint(torn)
    assert split.describe_dropped() == [f"d: {len(torn)} clips are in no part: its donor is in another part"]
    for a in SPLITS:
        for b in SPLITS:
            if a < b:
                people = [{q for c in split.select(clips, x) for q in c.persons} for x in (a, b)]
                assert people[0].isdisjoint(people[1])
    assert not split_of(clips, donor_rule="drop", donors="keep").dropped


def test_persons_who_lend_each_other_their_faces_are_drawn_together():
    clips = [
        make_clip(
            Path("x"),
            clip_id=f"d/{i}_{k}",
            identity=f"d/p{i:02d}",
            label=k,
            video_label=k,
            source_ids=(f"d/p{i ^ 1:02d}",) if k else (),
            dataset="d",
        )
        for i in range(40)
        for k in range(2)
    ]
    for flags in ({}, {"fold": "1/5"}):
        split = split_of(clips, donor_rule="drop", **flags)
        assert not split.dropped
        assert len(split.split_of) == 80
    own = [dataclasses.replace(clip, split="test" if clip.identity > "d/p29" else "train") for clip in clips]
    split = split_of(own, donor_rule="drop", val_fraction=0.2)
    assert not split.dropped
    assert Counter(split.split_of.values()) == {"train": 48, "val": 12, "test": 20}


def test_a_donor_who_is_never_on_screen_is_in_one_part_only():
    clips = [
        make_clip(
            Path(f"{i}_{k}"),
            clip_id=f"d/{i}_{k}",
            identity=f"d/p{i}",
            label=k,
            video_label=k,
            source_ids=("d/stranger",) if k else (),
            dataset="d",
        )
        for i in range(10)
        for k in range(2)
    ]
    split = split_of(clips, donor_rule="drop")
    parts = {split.split_of[c.clip_id] for c in clips if c.source_ids and c.clip_id in split.split_of}
    assert parts == {"train"}
    assert len(split.dropped) == 3


def test_pairs_stay_together():
    """As in DeepfakeTIMIT: each subject has the other one's face."""
    clips = []
    for pair in range(16):
        for a, b in ((2 * pair, 2 * pair + 1), (2 * pair + 1, 2 * pair)):
            for k, donor in enumerate([(), (f"d/s{b}",)]):
                clips.append(
                    make_clip(
                        Path("x"),
                        clip_id=f"d/{a}_{k}",
                        identity=f"d/s{a}",
                        source_ids=donor,
                        label=k,
                        video_label=k,
                        split_group=f"d/pair{pair}",
                        dataset="d",
                    )
                )
    split = split_of(clips, donor_rule="drop", val_fraction=0.125, test_fraction=0.25)
    assert not split.dropped
    groups = [{c.split_group for c in split.select(clips, part)} for part in SPLITS]
    assert [len(group) for group in groups] == [10, 2, 4]
    first = next(c.clip_id for c in clips if c.split_group == "d/pair0")
    split.split_of[first] = {"train": "test", "val": "test", "test": "train"}[split.split_of[first]]
    with pytest.raises(DatasetError, match="is in"):
        require_disjoint(split)


def test_validation_is_carved_from_training_where_the_data_set_has_none():
    own = [
        make_clip(
            Path(str(i)),
            clip_id=f"d/{i}",
            identity=f"d/p{i // 2}",
            dataset="d",
            split="test" if i >= 40 else "train",
        )
        for i in range(60)
    ]
    split = split_of(own, val_fraction=0.2)
    assert {c.clip_id for c in split.select(own, "test")} == {f"d/{i}" for i in range(40, 60)}
    assert len(split.select(own, "val")) == 8
    train, val = ({c.identity for c in split.select(own, part)} for part in ("train", "val"))
    assert train.isdisjoint(val)


def test_an_overlap_by_design_is_a_warning(caplog):
    own = [make_clip(Path(str(i)), clip_id=f"d/{i}", identity="d/star", split=SPLITS[i]) for i in range(3)]
    with pytest.raises(DatasetError, match="d/star is in train"):
        split_of(own)
    assert len(split_of(own, known_overlap="the list shares celebrities").split_of) == 3
    assert "the list shares celebrities" in caplog.text
    others = [make_clip(Path("x"), clip_id=f"d/y{i}", identity=f"d/y{i}", split="train") for i in range(9)]
    drawn = split_of(own + others, known_overlap="the list shares celebrities", split_source="identity")
    assert drawn.known_overlap == ""
    assert len({drawn.split_of[clip.clip_id] for clip in own}) == 1


def test_every_person_is_tested_in_exactly_one_fold():
    clips = clips_of(23)
    tested = []
    for k in range(1, 6):
        split = split_of(clips, fold=f"{k}/5")
        train, val, test = (persons(split, part) for part in SPLITS)
        assert len(train | val | test) == len(train) + len(val) + len(test)
        assert val == persons(split_of(clips, fold=f"{k % 5 + 1}/5"), "test")
        tested += sorted(test)
    assert len(tested) == len(set(tested)) == 23
    with pytest.raises(ValueError, match="fold must look like 2/5"):
        SplitConfig(fold="6/5")
    with pytest.raises(ValueError, match="fold must look like 2/5"):
        SplitConfig(fold="1/2")


def with_methods(num_identities):
    return [
        make_clip(
            Path("x"),
            clip_id=f"d/{i}_{method}",
            identity=f"d/p{i:03d}",
            method=method,
            label=int(method != "real"),
            video_label=int(method != "real"),
            dataset="d",
        )
        for i in range(num_identities)
        for method in ("real", "wav2lip", "faceswap", "fsgan")
    ]


def test_a_held_out_method_is_seen_in_testing_only():
    clips = with_methods(20)
    split = split_of(clips, hold_out_method=("wav2lip",))
    methods = {part: {c.method for c in split.select(clips, part)} for part in SPLITS}
    assert methods["train"] == methods["val"] == {"real", "faceswap", "fsgan"}
    assert methods["test"] == {"real", "wav2lip"}
    assert sorted(set(split.dropped.values())) == [
        "its method is held out",
        "its method is not the held-out one",
    ]
    assert len(split.dropped) + len(split.split_of) == len(clips)


def test_held_out_methods_of_several_data_sets_are_as_the_chosen_methods(tmp_path, caplog):
    """Each data set of a union may know some of them; one that knows none is an error, in both flags."""
    clips = with_methods(20)
    split = split_of(clips, hold_out_method=("wav2lip", "stylegan"))
    assert split.split_of == split_of(clips, hold_out_method=("wav2lip",)).split_of
    known = "d has no such fakes; it has faceswap, fsgan, wav2lip"
    assert f"--hold_out_method stylegan: {known}" in caplog.text
    with pytest.raises(DatasetError, match=f"^--hold_out_method stylegan: {known}$"):
        split_of(clips, hold_out_method=("stylegan",))
    with pytest.raises(DatasetError, match=f"^--methods stylegan: {known}$"):
        select_clips("d", tmp_path, clips, ListingConfig(methods=("stylegan",)))


def test_clips_that_a_run_has_used_are_counted_and_told(tmp_path):
    clips = clips_of(20, donors=False)
    split, other = (split_of(clips, split_seed=seed) for seed in (1, 2))
    write_split(tmp_path / "splits", split)
    checkpoint, checksums = tmp_path / "best.pt", {"d": split_checksum(split)}
    sizes = Counter(split.split_of.values())
    counts = {"num_clips": 60, "num_train": sizes["train"], "num_val": sizes["val"]}
    for used in (split, other):  # the run's own parts count, whatever --split_file says
        assert seen_by_run(used, clips, checkpoint, checksums) == counts
    assert sentence_of_seen(counts) == (
        f"The checkpoint was trained on {sizes['train']} of these 60 clips, and chosen, with its thresholds, "
        f"on {sizes['val']} of these 60 clips: these figures say nothing about new clips."
    )
    new = seen_by_run(split, split.select(clips, "test"), checkpoint, checksums)
    assert new == {"num_clips": sizes["test"], "num_train": 0, "num_val": 0}
    elsewhere = seen_by_run(split, clips, checkpoint, {"another": "0"})
    assert elsewhere == {"num_clips": 60, "num_train": 0, "num_val": 0}
    assert seen_by_run(split, clips, checkpoint, {}) is None  # published weights: unknown
    assert sentence_of_seen(new) == sentence_of_seen(elsewhere) == sentence_of_seen(None) == ""
    (tmp_path / "splits" / "d.csv").unlink()
    lost = seen_by_run(other, clips, checkpoint, checksums)
    assert lost == {"num_clips": 60, "num_train": None, "num_val": None}
    assert "may be training clips" in sentence_of_seen(lost)


def mrdf_clips(num_identities, *, fakes_per_category=3):
    """FakeAVCeleb in small: one real clip and one fake voice a person, several of the other categories."""
    counts = {
        "RealVideo-RealAudio": 1,
        "RealVideo-FakeAudio": 1,
        "FakeVideo-RealAudio": fakes_per_category,
        "FakeVideo-FakeAudio": fakes_per_category,
    }
    return [
        make_clip(
            Path("x"),
            clip_id=f"fakeavceleb/{category}/{i}_{k}",
            identity=f"fakeavceleb/id{i:05d}",
            category=category,
            label=int("Fake" in category),
            dataset="fakeavceleb",
        )
        for category, count in counts.items()
        for i in range(num_identities)
        for k in range(count)
    ]


def test_mrdfs_folds_have_1600_and_400_clips_and_their_files_come_back(tmp_path):
    clips = mrdf_clips(500)
    split = split_of(clips, "fakeavceleb", protocol="mrdf5", fold="2")
    train, val, test = (split.select(clips, part) for part in SPLITS)
    assert (len(train) + len(val), len(test)) == (1600, 400)
    assert set(Counter(c.category for c in test).values()) == {100}
    assert set(Counter(c.category for c in train + val).values()) == {400}
    assert len(val) == 160
    assert all(c.clip_id.endswith("_0") for c in train + val + test)
    assert not persons(split, "train") & persons(split, "test")
    assert split.dropped["fakeavceleb/FakeVideo-FakeAudio/0_2"].endswith("first clip of the category")

    write_split(tmp_path, split)
    folder = tmp_path / "fakeavceleb"
    lines = (folder / "train_2.txt").read_text().splitlines()
    assert len(lines) == 401
    again = split_of(clips, "fakeavceleb", protocol="mrdf5", fold="2/5", protocol_files=folder, split_seed=7)
    assert {c.clip_id for c in again.select(clips, "test")} == {c.clip_id for c in test}
    tested = [
        persons(split_of(clips, "fakeavceleb", protocol="mrdf5", fold=str(k)), "test") for k in range(1, 6)
    ]
    assert len(set.union(*tested)) == sum(map(len, tested)) == 500


def test_mrdfs_fold_files_are_read_as_its_code_reads_them(tmp_path):
    """The first line is passed over, whatever it says, and so are lines without an id."""
    clips = mrdf_clips(200)
    lines = ["subjects", "id00076", "id00166,x", "", "foo"]
    for first, expected in ((0, {"id00076", "id00166"}), (1, {"id00166"})):
        for k in range(1, 6):
            (tmp_path / f"train_{k}.txt").write_text("\n".join(lines[first:]) + "\n")
        config = {"protocol": "mrdf5", "fold": "1", "protocol_files": tmp_path}
        split = split_of(clips, "fakeavceleb", **config)
        trained = [clip for part in ("train", "val") for clip in split.select(clips, part)]
        assert {clip.identity.partition("/")[2] for clip in trained} == expected


def test_mrdfs_fold_files_that_do_not_fit_are_named(tmp_path):
    clips = mrdf_clips(10)
    with pytest.raises(UsageError, match="is for fakeavceleb, not for kodf"):
        split_of(clips, "kodf", protocol="mrdf5", fold="1")
    with pytest.raises(DatasetError, match=r"train_1.txt: no such fold file"):
        split_of(clips, "fakeavceleb", protocol="mrdf5", fold="1", protocol_files=tmp_path)
    for k in range(1, 6):
        (tmp_path / f"train_{k}.txt").write_text("source\nid00001,x\nid99999,y\n")
    with pytest.raises(DatasetError, match=r"1 of its 2 persons are not in the data set, e.g. id99999"):
        split_of(clips, "fakeavceleb", protocol="mrdf5", fold="1", protocol_files=tmp_path)
    with pytest.raises(ValueError, match="needs --fold"):
        SplitConfig(protocol="mrdf5")


def test_flags_without_effect_are_known():
    assert "val_fraction" in SplitConfig(split_file=(Path("x"),)).unused()
    assert "test_fraction" in SplitConfig(fold="1/5").unused()
    assert "val_fraction" not in SplitConfig(protocol="mrdf5", fold="1").unused()
    assert SplitConfig().unused() == {}
