import json
import logging
import shutil
from collections import Counter

import pytest

from loaders.datasets.ffpp import METHODS, list_ffpp
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig, draw_split
from preprocess.work.raw_layouts import read_raw_dataset
from tests.trees.ffpp import ACTOR_FAKES, published_pairs, write_ffpp
from tests.trees.media import EmptyFiles
from tests.trees.prepared import prepare_empty, touch_clip
from utils.errors import DatasetError, UsageError

FF_METHODS = ("Deepfakes", "NeuralTextures")


@pytest.fixture
def prepared(tmp_path):
    tree = write_ffpp(tmp_path / "raw", EmptyFiles())
    return prepare_empty(tree, tmp_path / "prepared", "**/c23/**/*.mp4")


def counts_of(clips):
    return Counter((clip.split or "", clip.category, clip.method) for clip in clips)


def test_published_size(tmp_path):
    """720/140/140 originals, and as many fakes of each method: 140 in test."""
    tree = write_ffpp(tmp_path / "raw", EmptyFiles(), pairs=published_pairs(), methods=METHODS)
    root = prepare_empty(tree, tmp_path / "prepared", "**/c23/**/*.mp4")
    listing = list_ffpp(root, ListingConfig(methods=METHODS))
    assert not listing.missing
    for method in ("real", *METHODS):
        found = [
            sum(c.method == method and c.split == s for c in listing.clips) for s in ("train", "val", "test")
        ]
        assert found == [720, 140, 140]
    everything = list_ffpp(root, ListingConfig())
    assert counts_of(everything.clips) == tree.counts
    split = draw_split(everything, SplitConfig())
    assert not split.dropped
    assert Counter(split.split_of.values())["test"] == 6 * 140 + 4


def test_first_number_is_the_target_and_second_the_source(prepared):
    clips = {clip.clip_id: clip for clip in list_ffpp(prepared, ListingConfig()).clips}
    fake = clips["ffpp/manipulated_sequences/Deepfakes/c23/videos/071_054"]
    assert (fake.identity, fake.target_id, fake.source_ids) == ("ffpp/071", "ffpp/071", ("ffpp/054",))
    assert fake.pair_key == "ffpp/original_sequences/youtube/c23/videos/071"
    assert fake.pair_key in clips
    assert (fake.label, fake.video_label, fake.audio_label) == (1, 1, 0)
    back = clips["ffpp/manipulated_sequences/Deepfakes/c23/videos/054_071"]
    originals = [clips[f"ffpp/original_sequences/youtube/c23/videos/{name}"] for name in ("054", "071")]
    assert {clip.split_group for clip in (fake, back, *originals)} == {"ffpp/054+071"}
    assert {clip.split for clip in (fake, back, *originals)} == {"train"}


def test_pairs_stay_together_in_a_drawn_split(prepared):
    listing = list_ffpp(prepared, ListingConfig(methods=FF_METHODS))
    split = draw_split(listing, SplitConfig(split_source="identity", val_fraction=0.2, test_fraction=0.3))
    sequences = [clip for clip in listing.clips if clip.clip_id in split.split_of]
    assert len(sequences) == len(listing.clips)  # no fake is torn from its donor
    parts = {}
    for clip in sequences:
        parts.setdefault(clip.split_group, set()).add(split.split_of[clip.clip_id])
    assert {len(names) for names in parts.values()} == {1}


def test_the_actors_long_names_break_nothing_and_count_as_test(prepared):
    clips = list_ffpp(prepared, ListingConfig()).clips
    actors = {clip.clip_id.rpartition("/")[2]: clip for clip in clips if clip.stratum == "actors"}
    assert len(actors) == 4
    fake = actors[ACTOR_FAKES[0]]
    assert (fake.category, fake.split, fake.split_group) == ("DeepFakeDetection", "test", "")
    assert (fake.identity, fake.source_ids) == ("ffpp/actor01", ("ffpp/actor15",))
    assert fake.pair_key == "ffpp/original_sequences/actors/c23/videos/01__walking_outside"
    assert fake.pair_key == actors["01__walking_outside"].clip_id
    odd = prepared / "manipulated_sequences/DeepFakeDetection/c23/videos/01_02"
    touch_clip(odd)
    with pytest.raises(DatasetError, match="01_02: expected a name such as 01_02__walking_outside__"):
        list_ffpp(prepared, ListingConfig())


def test_reals_come_with_their_own_fakes(prepared, caplog):
    """A method of FF++ is judged against the sequences of YouTube, not against the actors."""
    listing = list_ffpp(prepared, ListingConfig(methods=("Deepfakes",)))
    assert {(clip.stratum, clip.method) for clip in listing.clips} == {
        ("youtube", "real"),
        ("youtube", "Deepfakes"),
    }
    everything = list_ffpp(prepared, ListingConfig())
    assert {c.clip_id for c in listing.all_clips} == {c.clip_id for c in everything.clips}
    actors = list_ffpp(prepared, ListingConfig(methods=("DeepFakeDetection",)))
    assert {clip.stratum for clip in actors.clips} == {"actors"}
    with caplog.at_level(logging.INFO):
        list_ffpp(prepared, ListingConfig())
    assert "leaves out the actors" in caplog.text
    with pytest.raises(DatasetError, match="--methods Magic: ffpp has no such fakes"):
        list_ffpp(prepared, ListingConfig(methods=("Magic",)))


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_missing_split_file_is_an_error(prepared, name):
    (prepared / f"splits/{name}.json").unlink()
    with pytest.raises(
        DatasetError,
        match=rf"splits/{name}.json: no such file; copy train.json, .* the official split is needed",
    ):
        list_ffpp(prepared, ListingConfig())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"071": "054"}', ": expected a JSON list"),
        ("[[71, 54]]", r", pair 0: expected pairs such as .* found \[71, 54\]"),
        ('[["071", "054", "055"]]', ", pair 0: expected pairs"),
        ('[["071", "100"]]', ", pair 0: sequence 071 is also in train.json"),
        ("[[", ": is not JSON"),
    ],
)
def test_a_bad_split_file_is_named(prepared, content, message):
    (prepared / "splits/val.json").write_text(content)
    with pytest.raises(DatasetError, match=rf"val.json{message}"):
        list_ffpp(prepared, ListingConfig())


def test_one_compression_at_a_time(tmp_path):
    tree = write_ffpp(tmp_path / "raw", EmptyFiles(), compression="raw")
    root = prepare_empty(tree, tmp_path / "prepared")  # also the one clip of c40
    listing = list_ffpp(root, ListingConfig(variant="c0"))  # papers say c0, the folder is raw
    assert counts_of(listing.clips) == tree.counts
    assert all("/raw/" in str(clip.folder) and "/c0/" in clip.clip_id for clip in listing.clips)
    with pytest.raises(
        DatasetError, match="no clip of c23; prepared there: c0, c40; choose another --variant"
    ):
        list_ffpp(root, ListingConfig())
    with pytest.raises(UsageError, match="--variant c24: ffpp has no such version; it has c23, c0, c40"):
        list_ffpp(root, ListingConfig(variant="c24"))
    shutil.rmtree(root / "manipulated_sequences")
    with pytest.raises(DatasetError, match="no fake clip of c0"):
        list_ffpp(root, ListingConfig(variant="c0"))


def test_the_released_codes_layout(tmp_path):
    top = tmp_path / "FaceForensics++"
    clips = top / "video_data/c40_features"
    (top / "splits").mkdir(parents=True)
    for name, pairs in {"train": [["071", "054"]], "val": [["000", "003"]], "test": [["033", "097"]]}.items():
        (top / f"splits/{name}.json").write_text(json.dumps(pairs))
        for target, source in (pairs[0], pairs[0][::-1]):
            touch_clip(clips / f"original_sequences/youtube/{target}", "audio.wav")
            fakes = clips / "manipulated_sequences/Deepfakes/c40/videos"
            touch_clip(fakes / f"{target}_{source}", "audio.wav")
            (fakes / f"{target}_{source}.mp4").touch()
    actors = clips / "manipulated_sequences/DeepFakeDetection/c40/videos"
    touch_clip(actors / ACTOR_FAKES[0], "audio.wav")  # breaks the published reader
    for root in (tmp_path, top):
        listing = list_ffpp(root, ListingConfig(variant="c40"))
        assert counts_of(listing.clips) == {
            **{
                (split, kind, kind): 2 for split in ("train", "val", "test") for kind in ("real", "Deepfakes")
            },
            ("test", "DeepFakeDetection", "DeepFakeDetection"): 1,
        }
        assert "ffpp/original_sequences/youtube/c40/videos/071" in {clip.clip_id for clip in listing.clips}
    with pytest.raises(DatasetError, match="no clip of c23; prepared there: c40; choose another"):
        list_ffpp(tmp_path, ListingConfig())


def test_what_is_missing_or_not_listed_is_counted(prepared, caplog):
    videos = prepared / "manipulated_sequences/Deepfakes/c23/videos"
    (videos / "071_054/landmarks.npy").unlink()
    touch_clip(videos / "123_456")
    touch_clip(prepared / "manipulated_sequences/Unheard/c23/videos/071_054")
    with pytest.raises(DatasetError, match=r"1 of 28 listed clips .* \(Deepfakes 1\)"):
        list_ffpp(prepared, ListingConfig())
    with caplog.at_level(logging.WARNING):
        listing = list_ffpp(prepared, ListingConfig(allow_missing=True))
    assert [clip.clip_id.rpartition("/")[2] for clip in listing.missing] == ["071_054"]
    assert "2 prepared clips are not used" in caplog.text
    assert "Deepfakes 1, manipulated_sequences/Unheard 1" in caplog.text


def test_whole_sequences_that_were_never_fetched_are_missing(prepared):
    """The official split lists 1000 sequences; many download a few."""
    videos = [f"{number}*" for number in ("000", "003")]
    for folder in [found for name in videos for found in prepared.glob(f"*_sequences/*/c23/videos/{name}")]:
        shutil.rmtree(folder)
    with pytest.raises(DatasetError, match=r"6 of 28 listed clips .*--allow_missing"):
        list_ffpp(prepared, ListingConfig())
    listing = list_ffpp(prepared, ListingConfig(allow_missing=True))
    assert (len(listing.clips), len(listing.missing)) == (22, 6)
    assert Counter(clip.category for clip in listing.missing) == {"real": 2, **dict.fromkeys(FF_METHODS, 2)}


def test_sequences_of_one_video_in_two_parts_are_reported(prepared, caplog):
    videos = {"071": "-abc 0", "999": "-abc 1", "033": "def 0", "097": "def 1"}
    (prepared / "conversion_dict.json").write_text(json.dumps(videos))
    with caplog.at_level(logging.WARNING):
        list_ffpp(prepared, ListingConfig())
    assert "1 YouTube videos have sequences in more than one part" in caplog.text


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(DatasetError, match="neither original_sequences nor"):
        list_ffpp(tmp_path, ListingConfig())
    (tmp_path / "original_sequences/youtube/c23/videos").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"splits/train.json: no such file"):
        list_ffpp(tmp_path, ListingConfig())


def test_masks_are_no_videos_and_each_sound_is_the_targets(tmp_path):
    tree = write_ffpp(tmp_path / "raw", EmptyFiles())
    raw = read_raw_dataset("ffpp", tree.source)
    assert not [path for path in raw.videos if "masks" in path.parts]
    sounds = {path.as_posix(): sound.as_posix() for path, sound in raw.sounds.items()}
    assert sounds["original_sequences/youtube/c23/videos/071.mp4"] == "sound/071.wav"
    assert sounds["manipulated_sequences/Deepfakes/c23/videos/071_054.mp4"] == "sound/071.wav"
    assert sounds["manipulated_sequences/Deepfakes/c23/videos/054_071.mp4"] == "sound/054.wav"
    assert not [name for name in sounds if "actors" in name or "DeepFakeDetection" in name]


def test_a_wrong_raw_folder_says_what_was_expected(tmp_path):
    with pytest.raises(DatasetError, match=r"holds no ffpp.*original_sequences/\*/raw/videos/\*.mp4"):
        read_raw_dataset("ffpp", tmp_path)
