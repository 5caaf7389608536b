"""The audit's parts against values worked by hand."""

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import soundfile

from loaders.audit import duplicates
from loaders.audit.audit import Audit, find_near_identical
from loaders.audit.duplicates import MAX_PICTURE_DISTANCE, MAX_SOUND_DISTANCE, find_copies
from loaders.audit.facts import measure_clip
from loaders.audit.leaks import find_identical_files, find_person_leaks, require_no_leak
from loaders.audit.page import write_html
from loaders.audit.shortcuts import (
    Resamples,
    RuleResult,
    correct,
    find_shortcuts,
    held_out_scores,
    held_out_shares,
    judge_rule,
    shortcut_findings,
)
from loaders.batches.data_config import DataConfig
from loaders.batches.silence import (
    block_levels_db,
    leading_digital_silence_s,
    leading_quiet_s,
    leading_silence_s,
)
from loaders.batches.windows import ClipDataset
from loaders.listing import Listing
from loaders.splits.drawing import Split
from tests.clip_factory import clip_info, make_clip, write_clip_folder
from tests.trees.media import Media
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME, read_info_values
from utils.errors import ClipError, DatasetError
from utils.evaluation.metrics import area_under_roc
from utils.media.sound import iterate_audio
from utils.media.writer import VideoWriter

RATE = 48_000


def tone(seconds, level_db=0.0):
    return 10 ** (level_db / 20) * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)


# --- silence ---


@pytest.mark.parametrize(
    ("before_db", "silence_s", "digital_s"), [(-300, 0.1, 0.1), (-60, 0.1, 0.0), (-30, 0.0, 0.0)]
)
def test_leading_silence_is_what_lies_40_db_below_the_loud_part(before_db, silence_s, digital_s):
    levels = block_levels_db(np.concatenate([tone(0.1, before_db), tone(0.9)]), RATE)
    assert leading_silence_s(levels) == pytest.approx(silence_s)
    assert leading_digital_silence_s(levels) == pytest.approx(digital_s)


def test_papers_trim_to_the_first_sample_beyond_an_amplitude():
    sound = np.zeros(16_000, np.float32)
    sound[4_000], sound[8_000] = 0.0005, -0.0006
    assert leading_quiet_s(sound, 16_000) == 0.5
    assert leading_quiet_s(np.zeros(16_000, np.float32), 16_000) == 0


def test_a_gain_does_not_change_the_leading_silence_and_a_silent_clip_has_none():
    sound = np.concatenate([tone(0.05, -60), tone(0.5)])
    quiet = [leading_silence_s(block_levels_db(gain * sound, RATE)) for gain in (1.0, 0.01)]
    assert quiet == pytest.approx([0.05, 0.05])
    assert leading_silence_s(block_levels_db(np.zeros(RATE), RATE)) == 0
    assert leading_silence_s(np.zeros(0)) == 0


@pytest.mark.parametrize("training", [True, False])
def test_trim_silence_starts_windows_after_it(tmp_path, training):
    folder = write_clip_folder(tmp_path / "clip", num_frames=40)
    sound, rate = soundfile.read(folder / AUDIO_NAME)
    sound[: round(0.3 * rate)] = 0  # 7.5 frames at 25 per second
    soundfile.write(folder / AUDIO_NAME, sound, rate, subtype="PCM_16")
    config = DataConfig(window_s=0.8, windows_per_clip=3, trim_silence=True)
    starts = []
    for trim in (True, False):
        dataset = ClipDataset(
            [make_clip(folder)], dataclasses.replace(config, trim_silence=trim), training=training
        )
        keys = [(0, (epoch, 0)) for epoch in range(40)] if training else dataset.evaluation_keys()
        windows = [dataset[key] for key in keys]
        # the upper half of a frame shows its number in binary
        rows = [window.video[0, 8, 4::8, 0].numpy() > 120 for window in windows]
        starts.append([int((row << np.arange(8)).sum()) for row in rows])
        assert all(len(window.video) == 20 for window in windows)
    assert (min(starts[0]), max(starts[0])) == (8, 20)
    assert (min(starts[1]), max(starts[1])) == (0, 20)


def test_trim_silence_and_the_published_window_exclude_each_other():
    with pytest.raises(ValueError, match="trim_silence"):
        DataConfig(window="released", windows_per_clip=1, trim_silence=True)


# --- AUC, intervals, rules ---


def test_auc_by_hand():
    # fakes 3 and 2 against reals 1 and 2: three pairs won, one tie
    assert area_under_roc(np.array([1, 1, 0, 0]), np.array([3.0, 2.0, 1.0, 2.0])) == 3.5 / 4


def test_the_interval_is_that_of_a_loop_over_resamples_of_identities():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(12), 5)
    labels = np.tile([0, 1, 1, 0, 1], 12)
    values = rng.integers(0, 6, 60) + labels + rng.normal(size=12)[clusters].round()
    resamples = Resamples(12, num_resamples=300)
    aucs = []
    for counts in resamples.counts.T.astype(int):
        rows = np.concatenate([np.repeat(np.flatnonzero(clusters == c), n) for c, n in enumerate(counts)])
        aucs.append(area_under_roc(labels[rows], values[rows]))
    shift = np.mean(aucs) - area_under_roc(labels, values)
    expected = np.percentile(aucs, (2.5, 97.5)) - shift
    assert resamples.auc_interval(values, labels, clusters) == pytest.approx(expected, abs=1e-5)


def test_values_are_binned_without_moving_the_interval():
    rng = np.random.default_rng(1)
    clusters = rng.integers(0, 50, 5000)
    labels = rng.integers(0, 2, 5000)
    values = rng.normal(size=5000) + 0.5 * labels
    low, high = Resamples(50).auc_interval(values, labels, clusters)
    assert low < area_under_roc(labels, values) < high
    assert high - low < 0.1


def test_clips_of_one_person_are_not_counted_as_many():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(20), 30)
    labels = (clusters % 2).astype(int)  # each person has one class
    values = rng.normal(size=20)[clusters] + 0.01 * rng.normal(size=600)
    of_persons = Resamples(20).auc_interval(values, labels, clusters)
    of_clips = Resamples(600).auc_interval(values, labels, np.arange(600))
    assert of_persons[1] - of_persons[0] > 3 * (of_clips[1] - of_clips[0])


def judge(values, labels, clusters, rule="loudness"):
    clusters = np.asarray(clusters)
    arrays = np.asarray(values, float), np.asarray(labels), clusters
    return judge_rule(rule, "all", *arrays, Resamples(int(clusters.max()) + 1))


def test_states_of_a_rule():
    labels, persons = np.tile([0, 1], 20), np.repeat(np.arange(20), 2)
    assert judge(np.full(40, 7.0), labels, persons).state == "constant"
    assert judge(np.full(40, math.nan), labels, persons).state == "unknown"
    found = judge(-labels, labels, persons)
    assert (found.state, found.auc, found.low, found.high) == ("found", 0.0, 0.0, 0.0)
    assert judge(np.tile([1.0, 1, 2, 2], 10), labels, persons).state == "ok"


def test_few_persons_prove_nothing():
    labels, persons = np.tile([0, 1], 3), np.repeat(np.arange(3), 2)
    result = judge(labels, labels, persons)
    assert (result.state, result.auc, result.low) == ("open", 1.0, None)
    rng = np.random.default_rng(3)
    labels, persons = np.tile([0, 1], 8), np.repeat(np.arange(8), 2)
    noise = [judge(rng.normal(size=16), labels, persons) for _ in range(20)]
    assert max(result.auc for result in noise) > 0.65
    assert all(result.state != "found" for result in correct(noise))


def test_holm_by_hand():
    # 0.01 * 4 < 0.05, 0.015 * 3 < 0.05, 0.03 * 2 > 0.05: the last two are not significant
    base = RuleResult(rule="loudness", group="all", state="found", num_fake=9, num_real=9, auc=0.9)
    states = [
        r.state for r in correct([dataclasses.replace(base, p_value=p) for p in (0.03, 0.01, 0.04, 0.015)])
    ]
    assert states == ["open", "found", "open", "found"]


def test_learned_scores_find_a_codec_and_a_combination_but_not_noise():
    rng = np.random.default_rng(4)
    labels, persons = np.tile([0, 1], 60), np.repeat(np.arange(60), 2)
    codecs = np.where(labels == 1, "vp9/opus", "h264/aac")
    assert judge(held_out_shares(codecs, labels, persons), labels, persons, "codec").auc == 1.0
    first = rng.integers(0, 2, 120)
    both = np.stack([first, first ^ labels], axis=1).astype(float)  # each alone is a coin, together all
    assert abs(area_under_roc(labels, both[:, 0]) - 0.5) < 0.15
    assert judge(held_out_scores(both, labels, persons), labels, persons, "classifier").state == "found"
    noise = judge(held_out_scores(rng.normal(size=(120, 5)), labels, persons), labels, persons, "classifier")
    assert noise.state != "found"
    assert np.isnan(held_out_scores(both[:6], labels[:6], persons[:6])).all()


PHONE = {"transfer": "hlg", "primaries": "bt2020", "depth": 10}


@pytest.mark.parametrize("colour", [PHONE, PHONE | {"transfer": "bt709", "primaries": "bt709"}])
def test_colours_and_fields_that_only_real_clips_have_are_found(tmp_path, monkeypatch, colour):
    """As clip.json tells them: what an ordinary file has is left out there. 10 bit alone are enough."""
    kinds = []
    changes = {"source_colour": colour, "interlaced": True}
    for category, values in (("RealVideo-RealAudio", changes), ("FakeVideo-RealAudio", {})):
        folder = write_clip_folder(tmp_path / category, num_frames=4)
        (folder / "clip.json").write_text(json.dumps(clip_info(**values)))
        clip = make_clip(folder, label=len(kinds), category=category)
        kinds.append((clip, measure_clip(clip)))
    clips = [dataclasses.replace(kinds[n % 2][0], identity=f"test/{n}") for n in range(40)]
    monkeypatch.setattr("loaders.audit.shortcuts.held_out_scores", lambda features, *_: features[:, -1])
    results = {r.rule: r for r in find_shortcuts(clips, [kinds[n % 2][1] for n in range(40)])}
    assert results["colour"].state == results["interlaced"].state == "found"
    assert results["colour"].strength == results["interlaced"].strength == 1.0
    assert results["codec"].state == "constant"
    assert results["classifier"].auc in (0.0, 1.0)  # it is given the colours, too


def test_a_landmark_backend_of_one_class_is_found(tmp_path):
    """All fakes were prepared by one backend, and all real clips by the other, before it was a flag."""
    kinds = []
    for of_label in ({"tools": {"mediapipe": "0.10.21"}}, {"settings": {"landmark_backend": "landmarker"}}):
        folder = write_clip_folder(tmp_path / str(len(kinds)), num_frames=4)
        (folder / "clip.json").write_text(json.dumps(clip_info(**of_label)))
        clip = make_clip(folder, label=len(kinds), category=("RealVideo", "FakeVideo")[len(kinds)])
        kinds.append((clip, measure_clip(clip)))
    for backends, state in (
        (lambda n: n % 2, "found"),
        (lambda n: n // 2 % 2, "ok"),
        (lambda n: 0, "constant"),
    ):
        clips = [dataclasses.replace(kinds[n % 2][0], identity=f"test/{n}") for n in range(40)]
        results = find_shortcuts(clips, [kinds[backends(n)][1] for n in range(40)])
        assert {r.group: r.state for r in results if r.rule == "landmark_backend"}["all"] == state
        found = [f for f in shortcut_findings(results) if f.kind == "shortcut_landmark_backend"]
        assert len(found) == (state == "found")
        assert all("with one --landmark_backend" in finding.remedy for finding in found)


def test_colour_and_fields_of_a_clip_of_another_tool_are_unknown(tmp_path):
    facts = measure_clip(make_clip(write_clip_folder(tmp_path / "clip", num_frames=4)))
    assert facts.names == {"codec": "", "colour": "", "landmark_backend": ""}
    assert math.isnan(facts.numbers["interlaced"])


def test_a_finding_names_rule_direction_and_remedy():
    labels, persons = np.tile([0, 1], 20), np.repeat(np.arange(20), 2)
    result = judge(3.0 - labels, labels, persons, "leading_silence")
    (finding,) = shortcut_findings([result])
    assert finding.kind == "shortcut_leading_silence"
    assert "--trim_silence" in finding.remedy
    assert finding.examples == ["all: AUC 1.000 (1.000, 1.000), less = fake; median 2 in fakes, 3 in reals"]


# --- leaks ---


def listing_of(tmp_path, *clips, **changes):
    made = [make_clip(tmp_path / name, **values) for name, values in clips]
    return Listing("test", made, **changes)


def split_of(listing, *parts, **changes):
    names = {clip.clip_id: part for clip, part in zip(listing.clips, parts, strict=True) if part}
    return Split("test", names, {clip.clip_id: clip.identity for clip in listing.clips}, set(), **changes)


def kinds(listing, split):
    return [(finding.kind, finding.is_note) for finding in find_person_leaks(listing, split)]


def test_persons_pairs_and_groups_in_two_splits_are_named(tmp_path):
    clips = (
        ("a", {"identity": "test/1", "pair_key": "test/x"}),
        ("b", {"identity": "test/1", "pair_key": "test/x"}),
        ("c", {"identity": "test/2", "source_ids": ("test/3",), "pair_key": "", "split_group": "test/2-3"}),
        ("d", {"identity": "test/3", "pair_key": "", "split_group": "test/2-3"}),
    )
    listing = listing_of(tmp_path, *clips)
    assert kinds(listing, split_of(listing, "train", "train", "val", "val")) == []
    assert kinds(listing, split_of(listing, "train", "test", "val", "val")) == [
        ("leak_identity", False),
        ("leak_pair", False),
    ]
    torn = split_of(listing, "train", "train", "val", "test")
    assert kinds(listing, torn) == [("leak_donor", False), ("leak_split_group", False)]
    # dropped: in no part
    assert kinds(listing, split_of(listing, "train", "train", None, "test")) == []
    with pytest.raises(DatasetError, match=r"test/3: test \(1 clip, e.g. test/d\), val"):
        require_no_leak(listing, torn)
    kept = split_of(listing, "train", "train", "val", "test", donor_rule="keep")
    assert ("leak_donor", True) in kinds(listing, kept)


def test_an_official_split_that_overlaps_by_design_is_a_note(tmp_path):
    clips = (("a", {"identity": "test/1", "split": "train"}), ("b", {"identity": "test/1", "split": "test"}))
    listing = listing_of(tmp_path, *clips)
    split = split_of(listing, "train", "test", known_overlap="shares actors")
    assert ("leak_identity", True) in kinds(listing, split)
    require_no_leak(listing, split)
    drawn = split_of(listing, "test", "train")  # draw_split hands the excuse to official splits only
    assert ("leak_identity", False) in kinds(listing, drawn)


def write_info(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"face_boxes": [[1.0, 2.0, 3.0]] * 50, **values}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(fields.items()))
    (folder / "clip.json").write_text(f"{{\n{lines}\n}}\n")


def test_the_same_raw_file_in_two_splits_stops_a_training(tmp_path):
    clips = [(name, {"identity": f"test/{name}", "pair_key": ""}) for name in "abc"]
    for name, digest in zip("abc", ("1" * 64, "2" * 64, "1" * 64), strict=True):
        write_info(tmp_path / name, source_sha256=digest)
    listing = listing_of(tmp_path, *clips)
    require_no_leak(listing, split_of(listing, "train", "test", "train"))
    with pytest.raises(DatasetError, match="same raw video.*test/c.*test/a.*exclude_list"):
        require_no_leak(listing, split_of(listing, "train", "test", "test"))
    require_no_leak(listing, split_of(listing, "train", "test", None))


def test_silent_sounds_are_not_identical_files(tmp_path):
    files = {VIDEO_NAME: "", AUDIO_NAME: "3" * 64}
    clips = [(name, {"identity": f"test/{name}", "pair_key": ""}) for name in "ab"]
    listing = listing_of(tmp_path, *clips)
    split = split_of(listing, "train", "test")
    for silent in (True, False):
        for name in "ab":
            write_info(tmp_path / name, files=files, silent=silent)
        if silent:
            require_no_leak(listing, split)
    with pytest.raises(DatasetError, match="same extracted sound"):
        require_no_leak(listing, split)


def test_clip_json_is_read_without_its_boxes_and_says_what_is_wrong(tmp_path):
    write_info(tmp_path / "a", source_sha256="4" * 64, num_frames=50)
    assert read_info_values(tmp_path / "a") == {"num_frames": 50, "source_sha256": "4" * 64}
    assert read_info_values(tmp_path / "none") == {}
    (tmp_path / "a" / "clip.json").write_text('{"face_boxes": [[1,')
    with pytest.raises(ClipError, match=r"clip.json: is not a valid clip.json"):
        read_info_values(tmp_path / "a")


def test_identical_files_are_found_by_any_checksum():
    checksums = {"test/a": {"raw sound": "5", "sound": "6"}, "test/b": {"raw sound": "5", "sound": "7"}}
    parts = {"test/a": "train", "test/b": "val"}
    assert [f.kind for f in find_identical_files(parts, checksums)] == ["leak_identical_raw_sound"]
    assert find_identical_files(dict.fromkeys(parts, "val"), checksums) == []


# --- copies ---


def write_crop(folder, frames, waveform, crf, bit_rate):
    """A clip folder whose picture and sound went through an encoder."""
    folder.mkdir()
    size = frames.shape[1]
    for name in (VIDEO_NAME, "sound.mp4"):
        with VideoWriter(folder / name, fps=Fraction(25), width=size, height=size, crf=crf) as writer:
            if name != VIDEO_NAME:
                writer.add_audio_stream(RATE, bit_rate)
            for frame in frames:
                writer.write(frame)
            if name != VIDEO_NAME:
                writer.write_audio(waveform)
    decoded = np.concatenate([samples for _, samples in iterate_audio(folder / "sound.mp4", RATE)])
    decoded = decoded[: len(waveform)]
    soundfile.write(folder / AUDIO_NAME, decoded, RATE, subtype="PCM_16")
    np.save(folder / LANDMARKS_NAME, np.zeros((len(frames), 478, 2), np.float32))
    return folder


def test_a_copy_is_found_after_encoding_again_and_other_clips_do_not_match(tmp_path):
    media, clips, parts = Media(seed=5), [], []
    for identity in range(6):
        for take in range(2):
            frames, waveform = media.make(identity)
            name = f"{identity}_{take}"
            folders = [write_crop(tmp_path / name, frames, waveform, 18, 64_000)]
            if (identity, take) in {(1, 0), (4, 1)}:
                folders.append(write_crop(tmp_path / f"copy_of_{name}", frames, waveform, 36, 24_000))
            for folder in folders:
                clips.append(make_clip(folder, identity=f"test/{folder.name}"))
                parts.append("test" if folder.name.startswith("copy") else ("train", "val")[identity % 2])
    facts = [measure_clip(clip) for clip in clips]
    names = [clip.folder.name for clip in clips]
    for kind, limit in (("picture", MAX_PICTURE_DISTANCE), ("sound", MAX_SOUND_DISTANCE)):
        matches = find_copies(np.stack([getattr(fact, kind) for fact in facts]), parts, limit)
        pairs = {tuple(sorted((names[a], names[b]))) for a, b in matches.pairs}
        assert pairs == {("1_0", "copy_of_1_0"), ("4_1", "copy_of_4_1")}, kind
    listing = Listing("test", clips)
    findings, _ = find_near_identical(clips, split_of(listing, *parts), facts)
    assert [f.kind for f in findings] == ["leak_near_identical_picture", "leak_near_identical_sound"]
    # within one split a copy is not a leak
    assert find_near_identical(clips, split_of(listing, *["train"] * len(clips)), facts)[0] == []


def test_the_index_finds_what_comparing_all_finds(monkeypatch):
    rng = np.random.default_rng(6)
    points = 20 * rng.standard_normal((900, 12)) @ rng.standard_normal((12, 200))
    points[450:] = points[:450] + rng.choice([0.05, 2.0], (450, 1)) * points.std() * rng.standard_normal(
        (450, 200)
    )
    splits = ["train"] * 300 + ["val"] * 150 + ["test"] * 450
    everything = find_copies(points, splits, 0.22)
    monkeypatch.setattr(duplicates, "COMPARE_ALL_UP_TO", 0)
    indexed = find_copies(points, splits, 0.22)
    assert 150 < len(everything.pairs) < 300
    assert indexed.pairs.tolist() == everything.pairs.tolist()
    assert indexed.num_compared < everything.num_compared
    assert indexed.num_passed_over == 0


def test_copies_alone_are_still_copies():
    twice = np.tile(np.random.default_rng(7).normal(0, 30, (1, 64)), (2, 1))
    assert find_copies(twice, ["train", "test"], 0.22).pairs.tolist() == [[0, 1]]


# --- report ---


def test_the_page_escapes_names_and_needs_nothing_from_outside(tmp_path):
    labels, persons = np.tile([0, 1], 20), np.repeat(np.arange(20), 2)
    rules = [judge(labels, labels, persons, "duration"), judge(np.zeros(40), labels, persons, "loudness")]
    result = Audit(shortcut_findings(rules), rules, {"train": {"real": 20, "<b>&": 20}}, 20, {"leaks_s": 1.0})
    about = {
        "dataset": "test",
        "caveat": "audited on <i>",
        "num_clips": 40,
        "num_missing": 2,
        "num_excluded": 0,
        "split_checksum": "8" * 64,
        "command": "audit",
    }
    rules_by_name = {rule.rule: rule for rule in rules}
    rules.extend(
        dataclasses.replace(rules_by_name["loudness"], rule=name, state="unknown", auc=None)
        for name in ("codec",)
    )
    write_html(tmp_path / "audit.html", result, about)
    page = (tmp_path / "audit.html").read_text().replace("<meta http-equiv=", "<meta ")
    assert "shortcut_duration" in page
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert '<p class="caveat">Audited on &lt;i&gt;</p>' in page
    assert "constant: 0.5 by definition" in page
    assert not any(word in page for word in ("http", "src=", "<script", "@import"))
