"""The audit as a command: silent on a clean set, and naming each fault that is planted in a copy of it."""

import csv
import dataclasses
import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
import soundfile

from loaders.audit.leaks import require_no_leak
from loaders.datasets.fakeavceleb import list_fakeavceleb
from loaders.listing import ListingConfig
from loaders.splits.drawing import SplitConfig
from loaders.splits.files import make_split, read_split, write_split
from preprocess.clip.make import ClipConfig, prepare_clip
from tests.clip_factory import write_fakeavceleb_tree
from tests.commands import run_command
from tests.trees.fakeavceleb import write_fakeavceleb
from tests.trees.media import Media
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME
from utils.clip.frames import read_frames
from utils.errors import DatasetError
from utils.media.sound import iterate_audio
from utils.media.video import iterate_frames
from utils.media.writer import VideoWriter

NUM_PERSONS = 32
FRACTIONS = ("--val_fraction", "0.25", "--test_fraction", "0.25")
SPLIT = SplitConfig(val_fraction=0.25, test_fraction=0.25)


def audit(root, output_dir, *flags):
    """(exit status, kinds of findings, content of audit.json)."""
    command = ("-m", "loaders.audit", "--dataset", "fakeavceleb", "--data_root", root)
    result = run_command(*command, "--output_dir", output_dir, "--num_workers", 1, *flags)
    assert result.returncode in {0, 1}, result.stderr
    assert (output_dir / "audit.html").is_file(), result.stderr
    report = json.loads((output_dir / "audit.json").read_text())
    found = [finding["kind"] for finding in report["findings"] if not finding["is_note"]]
    assert result.returncode == bool(found)
    return result.returncode, found, report


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """(raw root, prepared root) of a small set without faults; do not write into them."""
    root = tmp_path_factory.mktemp("audit")
    tree = write_fakeavceleb(root / "raw", Media(seed=2, duration_s=0.6), num_identities=8)
    result = run_command(
        "-m", "preprocess.prepare", "--dataset", "fakeavceleb", "--source", tree.source,
        "--output", root / "prepared", "--num_workers", 2,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return root / "raw", root / "prepared"


@pytest.fixture
def copy(clean, tmp_path):
    """A copy of the prepared set to plant a fault in."""
    return shutil.copytree(clean[1], tmp_path / "copy")


def fakes(root):
    return [clip for clip in list_fakeavceleb(root, ListingConfig()).clips if clip.label == 1]


@pytest.mark.slow
def test_nothing_is_found_in_a_clean_set(clean, tmp_path):
    status, found, report = audit(clean[1], tmp_path, *FRACTIONS)
    assert (status, found) == (0, [])
    known = {rule["rule"] for rule in report["rules"] if rule["state"] != "unknown"}
    # all numbers of clip.json were there
    assert {"codec", "file_size", "bit_rate", "padding_share", "face_size", "num_faces"} <= known
    assert sum(sum(part.values()) for part in report["counts"].values()) == 32


@pytest.mark.slow
def test_planted_silence_is_found(copy, tmp_path):
    for clip in fakes(copy):
        sound, rate = soundfile.read(clip.folder / AUDIO_NAME, dtype="int16")
        sound[: rate // 10] = 0
        soundfile.write(clip.folder / AUDIO_NAME, sound, rate, subtype="PCM_16")
    _, found, report = audit(copy, tmp_path, *FRACTIONS)
    assert "shortcut_leading_silence" in found
    assert {"shortcut_duration", "leak_identity"}.isdisjoint(found)
    (rule,) = (r for r in report["rules"] if (r["rule"], r["group"]) == ("leading_silence", "all"))
    assert rule["auc"] > 0.95
    assert rule["median_fake"] >= 0.1


@pytest.mark.slow
def test_planted_length_is_found(copy, tmp_path):
    for clip in fakes(copy):
        lengthen(clip.folder, 1.1)
    _, found, _ = audit(copy, tmp_path, *FRACTIONS)
    assert "shortcut_duration" in found
    assert "shortcut_leading_silence" not in found


def lengthen(folder, factor):
    """Play picture, sound and landmarks on, backwards, until the clip is longer by `factor`."""
    landmarks = np.load(folder / LANDMARKS_NAME)
    places = np.arange(round(len(landmarks) * factor))
    places = np.where(places < len(landmarks), places, 2 * len(landmarks) - 2 - places)
    frames = read_frames(folder / VIDEO_NAME, np.arange(len(landmarks)))
    with VideoWriter(folder / VIDEO_NAME, fps=Fraction(25), width=224, height=224) as writer:
        for place in places:
            writer.write(frames[place])
    np.save(folder / LANDMARKS_NAME, landmarks[places])
    sound, rate = soundfile.read(folder / AUDIO_NAME, dtype="int16")
    longer = np.concatenate([sound, sound[::-1]])[: round(len(places) / 25 * rate)]
    soundfile.write(folder / AUDIO_NAME, longer, rate, subtype="PCM_16")


@pytest.mark.slow
def test_a_person_in_two_splits_is_found(clean, tmp_path):
    listing = list_fakeavceleb(clean[1], ListingConfig())
    split = make_split(listing, SPLIT)
    moved = next(clip for clip in listing.clips if split.split_of[clip.clip_id] == "train")
    write_split(tmp_path, dataclasses.replace(split, split_of=split.split_of | {moved.clip_id: "test"}))
    status, found, report = audit(clean[1], tmp_path, "--split_file", tmp_path / "fakeavceleb.csv")
    assert (status, found) == (1, ["leak_identity"])
    assert any(moved.identity in line for f in report["findings"] for line in f["examples"])
    require_no_leak(listing, split)
    with pytest.raises(DatasetError, match=moved.identity):
        require_no_leak(listing, read_split(tmp_path / "fakeavceleb.csv"))


@pytest.mark.slow
def test_a_clip_encoded_again_under_another_name_is_found(clean, copy, tmp_path):
    raw = clean[0] / "FakeAVCeleb_v1.2"
    listing = list_fakeavceleb(copy, ListingConfig())
    split = make_split(listing, SPLIT)
    reals = [clip for clip in listing.clips if clip.label == 0]
    original = next(clip for clip in reals if split.split_of[clip.clip_id] == "test")
    host = next(clip for clip in reals if split.split_of[clip.clip_id] == "train")
    source = raw / original.folder.relative_to(copy).with_suffix(".mp4")
    other = tmp_path / "other_name.mp4"
    with VideoWriter(other, fps=Fraction(25), width=160, height=160, crf=32) as writer:
        writer.add_audio_stream(44_100, bit_rate=24_000)
        for _, frame in iterate_frames(source):
            writer.write(frame)
        writer.write_audio(np.concatenate([samples for _, samples in iterate_audio(source, 44_100)]))
    folder = host.folder.with_name("99999")
    folder.mkdir()
    prepare_clip(other, folder, ClipConfig())
    with (copy / "meta_data.csv").open(newline="") as file:
        row = next(row for row in csv.reader(file) if row[8] == f"{host.folder.name}.mp4" and row[4] == "A")
    with (copy / "meta_data.csv").open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow([*row[:8], "99999.mp4", row[9]])
    status, found, report = audit(copy, tmp_path, *FRACTIONS)
    assert (status, found) == (1, ["leak_near_identical_picture", "leak_near_identical_sound"])
    for finding in report["findings"]:
        if finding["kind"] in found:
            assert any(original.clip_id in line and "99999" in line for line in finding["examples"])


@pytest.mark.slow
def test_a_detector_that_hears_planted_silence_loses_it_when_silence_is_trimmed(tmp_path):
    """Reals and fakes are alike but for 100 ms of silence at the start. Windows of 1.8 s in clips of 2 s may
    start before or after it, so that trimming shortens none. Pictures and landmarks stand still, or they
    would tell where a window starts, and trimming moves that for fakes alone.
    """
    root = tmp_path / "prepared"
    write_fakeavceleb_tree(root, num_identities=NUM_PERSONS, clips=False)
    picture = tmp_path / VIDEO_NAME
    with VideoWriter(picture, fps=Fraction(25), width=32, height=32) as writer:
        for _ in range(50):
            writer.write(np.full((32, 32, 3), 90, np.uint8))
    for index, folder in enumerate(clip_folders(root)):
        folder.mkdir(parents=True)
        shutil.copy(picture, folder / VIDEO_NAME)
        face = np.random.default_rng(0).uniform(0.2, 0.8, (1, 478, 2)).astype(np.float32)
        np.save(folder / LANDMARKS_NAME, np.repeat(face, 50, axis=0))
        sound = 0.1 * np.random.default_rng(index).standard_normal(96_000)
        if "RealVideo-RealAudio" not in folder.parts:
            sound[:4800] = 0
        soundfile.write(folder / AUDIO_NAME, sound, 48_000, subtype="PCM_16")
    data = ("--dataset", "fakeavceleb", "--data_root", root)
    trained = run_command(
        "train.py", *data, "--run_dir", tmp_path / "run", "--window_s", "1.8", "--video_fps", "5",
        "--image_size", "16", "--video_channels", "4", "4", "--audio_channels", "8", "8", "16",
        "--feature_dim", "16", "--feedforward_dim", "16", "--stream_layers", "1",
        "--classifier_hidden_dim", "16", "--epochs", "4", "--batch_size", "8", "--learning_rate", "3e-3",
        "--num_workers", "1", "--device", "cpu", "--val_fraction", "0.15", "--test_fraction", "0.5",
        "--pooling", "max", "--balance", "label", "--allow_leaks",  # all clips have one picture
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    command = ("test.py", "--checkpoint", tmp_path / "run/best.pt", *data, "--report", "false")
    result = run_command(*command, "--trimmed", "both", "--output_dir", tmp_path / "both")
    assert result.returncode == 0, result.stderr
    metrics = json.loads(result.stdout)
    whole, trimmed = metrics["overall"]["auc"], metrics["also_trimmed"]["overall"]["auc"]
    assert whole > 0.9
    # an AUC by chance has a standard error of sqrt((r + f + 1) / (12 r f)) = 0.08 for 16 reals and 48 fakes
    assert abs(trimmed - 0.5) < 0.24, trimmed
    difference = metrics["also_trimmed"]["difference"]
    assert difference["difference"] == pytest.approx(trimmed - whole, abs=1e-12)
    assert difference["interval"][0] < difference["difference"] < difference["interval"][1] < 0
    assert "AUC without leading silence -0." in result.stderr
    own = json.loads((tmp_path / "both/trimmed/test_metrics.json").read_text())
    assert (own["trimmed"], own["overall"]["auc"], own["ids_sha256"]) == (
        *("amplitude", trimmed), metrics["ids_sha256"]
    )  # fmt: skip
    cards = json.loads((tmp_path / "both/result_card.json").read_text())["cards"]
    assert [card["trimmed"] for card in cards] == ["no", "amplitude"]
    matrix = run_command("test.py", "--matrix", tmp_path / "both", "--output_dir", tmp_path / "matrix")
    assert json.loads(matrix.stdout)["columns"] == ["fakeavceleb", "fakeavceleb (trimmed)"]
    by_level = run_command(*command, "--trim_silence", "--output_dir", tmp_path / "level")
    metrics = json.loads(by_level.stdout)
    assert metrics["trimmed"] == "level"
    assert abs(metrics["overall"]["auc"] - 0.5) < 0.24


def clip_folders(root):
    """Where the clip folders of the tree's metadata would lie."""
    with (root / "meta_data.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [root / row[9].removeprefix("FakeAVCeleb/") / row[8].removesuffix(".mp4") for row in rows]
