"""Lists of published size: metadata of all clips; one of each kind is prepared (with empty files).

FF++, DFDC, its preview, DeepfakeTIMIT, Celeb-DF and RAVDESS have theirs in their own files.
"""

from collections import Counter

from loaders.datasets.deepspeak import list_deepspeak
from loaders.datasets.fakeavceleb import PUBLISHED_COUNTS, list_fakeavceleb
from loaders.datasets.kodf import list_kodf
from loaders.listing import ListingConfig
from loaders.splits.drawing import SPLITS, SplitConfig
from loaders.splits.files import make_split
from tests.clip_factory import ROWS
from tests.trees.deepspeak import FAKE_HEADER
from tests.trees.prepared import touch_clip

ALL = ListingConfig(allow_missing=True)


def test_fakeavceleb_1_2_has_500_persons_and_every_category(tmp_path):
    """500 persons; the fakes are spread over them as evenly as their number allows."""
    lines = ["source,target1,target2,method,category,type,race,gender,path,"]
    for kind, letter, method, _ in ROWS:
        for number in range(PUBLISHED_COUNTS[kind]):
            person = f"id{number % 500:05d}"
            place = f"{kind}/African/men/{person}"
            name = f"{number // 500:05d}_{letter}.mp4"
            values = (person, "-", "-", method, letter, kind, "African", "men", name, f"FakeAVCeleb/{place}")
            lines.append(",".join(values))
    (tmp_path / "meta_data.csv").write_text("\n".join(lines) + "\n")
    touch_clip(tmp_path / "RealVideo-RealAudio/African/men/id00000/00000_A")
    listing = list_fakeavceleb(tmp_path, ALL)
    assert Counter(clip.category for clip in listing.all_clips) == PUBLISHED_COUNTS
    assert len(listing.all_clips) == 21_544
    assert len({clip.identity for clip in listing.all_clips}) == 500
    reals = [clip for clip in listing.all_clips if clip.label == 0]
    split = make_split(listing, SplitConfig())
    assert [len(split.select(reals, part)) for part in SPLITS] == [350, 50, 100]
    for fold in range(1, 6):
        split = make_split(listing, SplitConfig(protocol="mrdf5", fold=str(fold)))
        sizes = Counter(split.split_of.values())
        assert (sizes["train"] + sizes["val"], sizes["test"]) == (1600, 400)


def test_kodfs_validation_part_has_6093_real_and_16894_fake_clips(tmp_path):
    tables = tmp_path / "2.Validation/라벨링데이터/validate_meta_data"
    tables.mkdir(parents=True)
    (tmp_path / "2.Validation/원천데이터").mkdir()
    real, fake = ["영상ID,UUID,인물성별"], ["영상ID,타겟영상,타겟UUID,변조모델,인물성별"]
    methods = ("dfl", "dffs", "fsgan", "fo", "audio-driven")
    for number in range(6_093):
        real.append(f"{number % 40:020X}_{number // 40:03d}.mp4,{number % 40:020X},남성")
    for number in range(16_894):
        person, method = f"{number % 40:020X}", methods[number % 5]
        donor = f"{(number % 40) ^ 1:020X}"
        name = f"{person}_{donor}_{number % 5 + 1}_{number:05d}.mp4"
        fake.append(f"{name},{person}_000.mp4,{person},{method},남성")
    (tables / "원본영상_validation_메타데이터.csv").write_text("\n".join(real), encoding="utf-8-sig")
    (tables / "변조영상_validation_메타데이터.csv").write_text("\n".join(fake), encoding="cp949")
    person = f"{0:020X}"
    touch_clip(tmp_path / f"2.Validation/원천데이터/validate_원본/원본1/{person}/{person}_000")
    listing = list_kodf(tmp_path, ALL)
    assert Counter(clip.label for clip in listing.all_clips) == {0: 6_093, 1: 16_894}
    assert len(listing.clips) == 1
    # one part alone is not a split: it is drawn by person, and pairs who exchange faces stay together
    split = make_split(listing, SplitConfig())
    assert not split.dropped
    assert set(split.split_of.values()) == set(SPLITS)


def test_deepspeak_1_1_has_6667_real_and_6796_fake_clips_of_220_persons(tmp_path):
    real, fake, parts = ["video-file,identity"], [FAKE_HEADER], ["identity,split"]
    parts += [f"{person},{'train' if person < 170 else 'test'}" for person in range(220)]
    real += [f"{number % 220}-{number}.mp4,{number % 220}" for number in range(6_667)]
    for number in range(6_796):
        target = number % 220
        source = target ^ 1  # pairs: both in train, or both in test
        name = f"wav2lip--{source}-{target}--{number}-{number}--0.mp4"
        fake.append(f"{name},lip-sync,wav2lip,{source}.0,{target},{number},{number},,,none,scripted")
    for name, lines in (("real", real), ("fake", fake), ("split-def", parts)):
        (tmp_path / f"annotations-{name}.csv").write_text("\n".join(lines) + "\n")
    touch_clip(tmp_path / "0-0")
    listing = list_deepspeak(tmp_path, ALL)
    assert Counter(clip.label for clip in listing.all_clips) == {0: 6_667, 1: 6_796}
    assert len({clip.identity for clip in listing.all_clips}) == 220
    split = make_split(listing, SplitConfig())
    assert not split.dropped
    test = {split.identity_of[clip_id] for clip_id, part in split.split_of.items() if part == "test"}
    assert len(test) == 50
