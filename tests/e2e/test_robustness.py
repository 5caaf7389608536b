"""test.py --robustness and --shortcuts, from raw videos of a real face to the tables."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile

from preprocess.clip.make import ClipConfig, is_finished, prepare_clip
from preprocess.perturb.kinds import Perturbation
from preprocess.perturb.variants import change_of, make_variants
from tests.clip_factory import ROWS, make_clip, write_metadata
from tests.commands import ok, run_command
from tests.moving_face import moving_face
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, VIDEO_NAME, read_clip_info
from utils.clip.frames import read_frames
from utils.clip.generated import MARK_NAME, mark
from utils.errors import DatasetError
from utils.media.writer import VideoWriter

SIZES = (
    "--image_size 16 --video_channels 4 4 8 --audio_channels 8 8 8 --feature_dim 16 --feedforward_dim 16 "
    "--classifier_hidden_dim 16 --window_s 0.6 --batch_size 4 --num_workers 1 --val_fraction 0.34 "
    "--test_fraction 0.34 --epochs 1 --device cpu --domain_clips 0"
).split()


def write_raw(path, number, fake_video=False, fake_audio=False, num_frames=25):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    seconds = np.arange(num_frames * 48_000 // 25) / 48_000
    waveform = (0.1 * rng.standard_normal(len(seconds)) * np.abs(np.sin(9 * seconds + number))).astype(
        np.float32
    )
    if fake_audio:
        waveform += (0.1 * np.sin(2 * np.pi * 3000 * seconds)).astype(np.float32)
    with VideoWriter(path, fps=25, width=320, height=288) as writer:
        writer.add_audio_stream(48_000)
        for frame in moving_face(num_frames, size=(320, 288), path=lambda i: (150 + i + number, 140)):
            if fake_video:
                frame[100:180, 100:220, 2] = np.minimum(frame[100:180, 100:220, 2], 215) + 40
            writer.write(frame)
        writer.write_audio(waveform)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(raw, prepared, run folder) of three persons with one clip of each category."""
    root = tmp_path_factory.mktemp("set")
    rows = []
    for i in range(3):
        identity = f"id{10_000 + 7 * i:05d}"
        for kind, letter, method, _ in ROWS:
            folder, name = f"{kind}/African/men/{identity}", f"0000{i}_{letter}.mp4"
            rows.append(
                (identity, "-", "-", method, letter, kind, "African", "men", name, f"FakeAVCeleb/{folder}")
            )
            fakes = kind.startswith("FakeVideo"), kind.endswith("FakeAudio")
            write_raw(root / "raw" / folder / name, i, *fakes, num_frames=16)  # just a window
    write_metadata(root / "raw" / "meta_data.csv", rows)
    prepare = ("-m", "preprocess.prepare", "--dataset", "fakeavceleb", "--source", root / "raw")
    ok(run_command(*prepare, "--output", root / "prepared", "--num_workers", 2))
    ok(run_command("train.py", "--data_root", root / "prepared", "--run_dir", root / "run", *SIZES))
    return root / "raw", root / "prepared", root / "run"


@pytest.mark.slow
def test_robustness_and_shortcut_tables(trained, tmp_path):
    raw, prepared, run_dir = trained
    evaluate = ("test.py", "--checkpoint", run_dir / "best.pt", "--data_root", prepared)
    plain = json.loads(
        ok(run_command(*evaluate, "--output_dir", tmp_path / "plain", "--report", "false")).stdout
    )
    robustness = (
        *evaluate,
        "--output_dir",
        tmp_path / "robust",
        "--robustness",
        "--raw_root",
        raw,
        "--robustness_kinds",
        "blur+resampling",
        "--cache_dir",
        prepared.parent / "cache",
        "--shortcuts",  # the last one
    )
    first = ok(run_command(*robustness))
    result = json.loads((tmp_path / "robust" / "robustness.json").read_text())
    assert json.loads(first.stdout)["robustness"] == result
    assert json.loads(first.stdout)["overall"] == plain["overall"]
    per_kind = result["per_kind"]
    assert {kind: list(row["auc"]) for kind, row in per_kind.items()} == {
        "blur+resampling": ["0", "1", "2", "3", "4"],
    }
    for row in per_kind.values():
        assert row["auc"]["0"] == plain["overall"]["auc"]
        above = [auc for level, auc in row["auc"].items() if level != "0"]
        assert row["worst_auc"] == min(above)
        assert row["mean_auc"] == pytest.approx(sum(above) / len(above))
    with (tmp_path / "robust" / "robustness.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 5
    assert all(float(row["face_share"]) > 0.9 and row["num_lost"] == "0" for row in table)
    assert (tmp_path / "robust" / "robustness.png").read_bytes()[:4] == b"\x89PNG"
    whole = json.loads((tmp_path / "robust" / "test_metrics.json").read_text())
    assert whole["robustness"]["per_kind"].keys() == {"blur+resampling"}
    page = (tmp_path / "robust" / "report.html").read_text()
    assert "<h2>Robustness</h2>" in page
    assert "<td>landmarks only</td>" in page
    with (tmp_path / "robust" / "shortcuts.csv").open() as file:
        shortcuts = {row["change"]: float(row["auc"]) for row in csv.DictReader(file)}
    assert shortcuts.pop("untouched") == plain["overall"]["auc"]
    assert {"video only", "audio only", "landmarks only", "sound swapped within class"} <= shortcuts.keys()
    # nothing is left to tell the classes apart: this method's score does not read landmarks
    assert shortcuts["landmarks only"] == 0.5

    clips = sorted((prepared.parent / "cache").rglob("clip.json"))
    assert len(clips) == 4 * 4
    info = json.loads(clips[0].read_text())
    assert info["settings"]["perturbation"]["kind"] == "blur+resampling"
    times = [path.stat().st_mtime_ns for path in clips]
    again = ok(run_command(*robustness[:-1], "--report", "false"))
    assert "0 perturbed, 16 already there, 0 failed" in again.stderr
    assert [path.stat().st_mtime_ns for path in clips] == times
    assert json.loads((tmp_path / "robust" / "robustness.json").read_text()) == result


@pytest.mark.slow
def test_a_method_that_only_sees_reads_the_same_variants(trained, tmp_path):
    raw, prepared, _ = trained
    sizes = "--image_size 32 --fusion_dims 16 8 --frames_per_clip 2 --val_fraction 0.34 --test_fraction 0.34"
    flags = ("--model", "exposing_deception", "--preset", "demo", *sizes.split(), "--domain_clips", 0)
    run_dir = tmp_path / "run"
    ok(run_command("train.py", "--data_root", prepared, "--run_dir", run_dir, *flags, "--epochs", 1))
    evaluate = ("test.py", "--checkpoint", run_dir / "best.pt", "--data_root", prepared, "--report", "false")
    robustness = ("--robustness", "--raw_root", raw, "--robustness_kinds", "blur+resampling", "--shortcuts")
    result = ok(run_command(*evaluate, *robustness, "--cache_dir", prepared.parent / "cache"))
    auc = json.loads((run_dir / "robustness.json").read_text())["per_kind"]["blur+resampling"]["auc"]
    assert list(auc) == ["0", "1", "2", "3", "4"]
    assert auc["0"] == json.loads(result.stdout)["overall"]["auc"]
    with (run_dir / "shortcuts.csv").open() as file:
        shortcuts = {row["change"]: float(row["auc"]) for row in csv.DictReader(file)}
    assert shortcuts["untouched"] == auc["0"]


def test_flags_that_belong_together(trained, tmp_path):
    raw, prepared, run_dir = trained
    evaluate = (
        "test.py",
        "--checkpoint",
        run_dir / "best.pt",
        "--data_root",
        prepared,
        "--output_dir",
        tmp_path,
    )
    for flags, message in (
        (("--robustness",), "--raw_root"),
        (("--raw_root", raw), "no effect without --robustness"),
        (("--robustness", "--raw_root", raw, "--robustness_kinds", "fog"), "unknown perturbation fog"),
        (("--robustness", "--raw_root", raw, raw), "2 raw_root for 1 dataset"),
    ):
        result = run_command(*evaluate, *flags)
        assert (result.returncode, message in result.stderr) == (2, True), result.stderr


# --- variants without a model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_clip(tmp_path_factory):
    """(raw, prepared, Clip) of one video."""
    root = tmp_path_factory.mktemp("one")
    write_raw(root / "raw" / "a" / "clip.mp4", 3)
    folder = root / "prepared" / "a" / "clip"
    folder.mkdir(parents=True)
    prepare_clip(root / "raw" / "a" / "clip.mp4", folder, ClipConfig(crop_margin=1.4), name="a/clip.mp4")
    return root / "raw", root / "prepared", make_clip(folder)


def variants(one_clip, cache_dir, *perturbations):
    raw, prepared, clip = one_clip
    return make_variants(
        [clip],
        [Perturbation(*p) for p in perturbations],
        dataset="test",
        data_root=prepared,
        raw_root=raw,
        cache_dir=cache_dir,
        num_workers=1,
    )


def test_level_0_makes_the_same_bytes(one_clip, tmp_path):
    raw, prepared, clip = one_clip
    change = change_of(Perturbation("noise", 0), "a/clip.mp4")
    info = prepare_clip(
        raw / "a" / "clip.mp4", tmp_path, ClipConfig(crop_margin=1.4), name="a/clip.mp4", change=change
    )
    assert info == read_clip_info(clip.folder)
    (result,) = variants(one_clip, tmp_path / "cache", ("noise", 0))
    assert result.clips == [clip]


def test_a_variant_differs_in_its_perturbation_alone(one_clip, tmp_path):
    _, _, clip = one_clip
    blurred, delayed = variants(one_clip, tmp_path, ("h264", 5), ("av_offset", 2))
    before = {name: (clip.folder / name).read_bytes() for name in (VIDEO_NAME, AUDIO_NAME, LANDMARKS_NAME)}
    for result, changed in ((blurred, {VIDEO_NAME, LANDMARKS_NAME}), (delayed, {AUDIO_NAME})):
        folder = result.clips[0].folder
        assert folder == tmp_path / result.perturbation.name / "a" / "clip"
        assert {name for name in before if (folder / name).read_bytes() != before[name]} == changed
        info, plain = read_clip_info(folder), read_clip_info(clip.folder)
        assert (info.num_frames, info.fps, info.source_sha256) == (
            plain.num_frames,
            plain.fps,
            plain.source_sha256,
        )
        assert info.settings["crop_margin"] == 1.4
    sounds = [soundfile.read(c.folder / AUDIO_NAME)[0] for c in (clip, delayed.clips[0])]
    np.testing.assert_array_equal(np.roll(sounds[0], round(0.08 * 48_000)), sounds[1])


def test_a_variant_is_made_again_when_it_is_stale(one_clip, tmp_path):
    _, _, clip = one_clip
    (result,) = variants(one_clip, tmp_path, ("contrast", 5))
    folder = result.clips[0].folder
    made = (folder / VIDEO_NAME).read_bytes()
    dark, bright = (read_frames(f / VIDEO_NAME, np.array([10])).mean() for f in (folder, clip.folder))
    assert dark / bright == pytest.approx(0.35, abs=0.03)
    (folder / VIDEO_NAME).write_bytes(b"damaged")
    raw, prepared, _ = one_clip
    assert not (tmp_path / MARK_NAME).exists()
    (prepared / MARK_NAME).touch()
    variants(one_clip, tmp_path, ("contrast", 5))
    (prepared / MARK_NAME).unlink()
    assert (tmp_path / MARK_NAME).read_bytes() == mark()  # what is made of generated clips is so, too
    assert (folder / VIDEO_NAME).read_bytes() == made
    config = dataclasses.replace(ClipConfig(crop_margin=1.4), min_face_fraction=0.0)
    assert not is_finished(raw / "a" / "clip.mp4", folder, config)  # it is not an untouched clip


def test_lost_faces_are_counted_and_remembered(one_clip, tmp_path, monkeypatch):
    raw, prepared, clip = one_clip
    blank = tmp_path / "raw" / "a" / "clip.mp4"
    blank.parent.mkdir(parents=True)
    with VideoWriter(blank, fps=25, width=320, height=288) as writer:
        writer.add_audio_stream(48_000)
        for _ in range(25):
            writer.write(np.full((288, 320, 3), 90, np.uint8))
        writer.write_audio(np.full(48_000, 0.1, np.float32))
    from utils.clip.files import write_clip_info
    from utils.files import file_sha256

    folder = tmp_path / "prepared" / "a" / "clip"
    shutil.copytree(clip.folder, folder)  # as if the face were there before the perturbation
    info = read_clip_info(folder)
    write_clip_info(folder, dataclasses.replace(info, source_sha256=file_sha256(blank)))
    place = (tmp_path / "raw", tmp_path / "prepared", make_clip(folder))
    for _ in range(2):
        (result,) = variants(place, tmp_path / "cache", ("blur", 1))
        assert (result.clips, result.lost, result.face_share) == ([], [place[2].clip_id], 0.0)
    record = json.loads((tmp_path / "cache" / "blur_1" / "a" / "clip.lost.json").read_text())
    assert "no face" in record["reason"]


def test_another_raw_video_is_refused(one_clip, tmp_path):
    raw, prepared, clip = one_clip
    with pytest.raises(DatasetError, match="1 raw files of the 1 clips are missing"):
        variants((tmp_path, prepared, clip), tmp_path / "cache", ("blur", 1))
    write_raw(tmp_path / "raw" / "a" / "clip.mp4", 4)
    with pytest.raises(DatasetError, match="failures.csv"):
        variants((tmp_path / "raw", prepared, clip), tmp_path / "cache", ("blur", 1))
    assert "is not the file that" in (tmp_path / "cache" / "failures.csv").read_text()
