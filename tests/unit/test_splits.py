from collections import Counter
from pathlib import Path

import pytest

from loaders.splits import SPLITS, SplitConfig, make_split, read_split, split_checksum, write_split
from tests.clip_factory import make_clip
from utils.errors import DatasetError


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
    split = make_split("d", clips, SplitConfig())
    assert [len(persons(split, part)) for part in SPLITS] == [350, 50, 100]
    strata = {clip.identity: clip.stratum for clip in clips}
    assert set(Counter(strata[p] for p in persons(split, "test")).values()) == {10}
    assert set(Counter(strata[p] for p in persons(split, "val")).values()) == {5}


def test_nobody_is_in_two_splits_and_everybody_is_in_one():
    clips = clips_of(31)
    split = make_split("d", clips, SplitConfig(val_fraction=0.2, test_fraction=0.25))
    train, val, test = (persons(split, part) for part in SPLITS)
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train | val | test) == 31
    assert (len(val), len(test)) == (6, 8)


def test_the_split_depends_on_the_seed_alone():
    clips = clips_of(40)
    first = make_split("d", clips, SplitConfig())
    assert make_split("d", clips[::-1], SplitConfig()).split_of == first.split_of
    assert make_split("d", clips, SplitConfig(split_seed=1)).split_of != first.split_of


def test_donor_disjoint_clips_share_no_face_with_training():
    clips = clips_of(40)
    split = make_split("d", clips, SplitConfig())
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
    assert make_split("d", own, SplitConfig()).split_of["d/1"] == "val"
    leaky = [*own, make_clip(Path("x"), clip_id="d/x", identity="d/id0", split="test")]
    with pytest.raises(DatasetError, match="d/id0 is in train and in test"):
        make_split("d", leaky, SplitConfig())
    with pytest.raises(DatasetError, match="gives no split"):
        make_split("d", clips_of(10), SplitConfig(split_source="metadata"))


def test_split_files_come_back_and_notice_changes(tmp_path):
    clips, path = clips_of(20), tmp_path / "splits" / "d.csv"
    split = make_split("d", clips, SplitConfig())
    write_split(path, split)
    assert read_split(path, "d") == split
    assert path.read_text().startswith(f"# sha256={split_checksum(split)}\n")
    assert make_split("d", clips, SplitConfig(split_file=path)).split_of == split.split_of
    with pytest.raises(DatasetError, match="not of other"):
        read_split(path, "other")
    more = [*clips, make_clip(Path("x"), clip_id="d/x")]
    with pytest.raises(DatasetError, match="says nothing about 1 clips of d, e.g. d/x"):
        make_split("d", more, SplitConfig(split_file=path))
    path.write_text(path.read_text().replace(",test,", ",train,", 1))
    with pytest.raises(DatasetError, match="checksum"):
        read_split(path, "d")


def test_too_few_identities_are_an_error():
    with pytest.raises(DatasetError, match="too few for a"):
        make_split("d", clips_of(2), SplitConfig())
