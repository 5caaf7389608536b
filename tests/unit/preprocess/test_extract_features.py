"""preprocess.extract_features: rows and their seconds, resuming, packs, and what verify says."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
import sys
import time
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from models.backbones.backbone import Encoder, Plan, frame_plan, second_plan
from models.backbones.marlin import MarlinEncoder, MarlinPieces, marlin_plan
from models.backbones.menu import BACKBONES
from preprocess import pack, prepare
from preprocess.extract_features import main
from preprocess.features import extraction
from preprocess.verify import check_clip
from preprocess.work.jobs import Job
from tests.clip_factory import write_clip_folder
from tests.commands import start_command
from tests.kill import tree
from tests.moving_face import clicks, moving_face, write_video
from tests.small_backbones import SMALL, TINY_MARLIN
from utils.clip.features import list_features, open_rows, read_features, read_info
from utils.clip.files import VIDEO_NAME, find_audio
from utils.clip.frames import read_frames
from utils.clip.sound import read_waveform
from utils.errors import ClipError, UsageError


@pytest.fixture
def tiny(monkeypatch):
    """A MARLIN of one narrow block in place of the small one."""
    small = dataclasses.replace(SMALL["marlin_base"], weights=BACKBONES["marlin_small"].weights, batch_size=3)
    monkeypatch.setitem(BACKBONES, "marlin_small", small)
    return small


def run(monkeypatch, data_root, backbone, *flags):
    words = ["--data_root", data_root, "--backbone", backbone, "--device", "cpu", *flags]
    monkeypatch.setattr(sys, "argv", ["extract_features", *map(str, words)])
    return main()


def extract(monkeypatch, data_root, backbone="marlin_small", *flags):
    return run(monkeypatch, data_root, backbone, "--random_weights", *flags)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Three clips of 20, 70 and 100 frames, 25 a second; the last one's pictures are smaller."""
    root = tmp_path_factory.mktemp("drawn")
    for number, size in ((20, 224), (70, 224), (100, 64)):
        write_clip_folder(root / f"clip_{number}", num_frames=number, size=size)
    return root


@pytest.fixture
def clips(drawn, tmp_path):
    """A copy of them."""
    return shutil.copytree(drawn, tmp_path / "set")


@pytest.mark.parametrize(
    ("num_frames", "starts", "last"),
    [(5, [0], 4), (16, [0], 15), (17, [0], 15), (32, [0], 15), (33, [0], 30), (64, [0, 32], 62),
     (65, [0, 32], 62), (97, [0, 32, 64], 94)],
)  # fmt: skip
def test_windows_of_marlin(num_frames, starts, last):
    """The counts of the spec, but for 64 frames: there the published code drops the second window."""
    plan = marlin_plan(Fraction(30000, 1001), num_frames)
    assert plan.pieces[:, 0].tolist() == starts
    assert plan.pieces.shape[1] == 16
    assert plan.pieces.max() == last
    assert plan.step_s == Fraction(32 * 1001, 30000)
    shown = 32 if num_frames > 32 else min(num_frames, 16)
    assert plan.length_s == Fraction(shown * 1001, 30000)


def test_frames_and_seconds():
    pieces, step_s, length_s, num_rows = frame_plan(Fraction(25), 3)
    assert pieces.tolist() == [[0], [1], [2]]
    assert step_s == length_s == Fraction(1, 25)
    assert num_rows == 3
    assert second_plan(Fraction(100), 250).pieces.tolist() == [[0], [100]]
    assert second_plan(Fraction(100), 40).pieces.tolist() == [[0]]


def test_rows_are_what_the_backbone_makes_of_the_clips_frames(monkeypatch, clips, tiny):
    assert extract(monkeypatch, clips) == 0
    torch.manual_seed(extraction.RANDOM_SEED)
    encoder = tiny.make().eval()
    folder = clips / "clip_100"
    rows, info = open_rows(folder, "features/marlin_small"), read_info(folder, "features/marlin_small")
    assert rows.shape == (3, 12)
    assert (info.step_s, info.length_s) == ("32/25", "32/25")
    frames = read_frames(folder / VIDEO_NAME, np.arange(32, 64, 2))
    sized = np.stack([cv2.resize(frame, (224, 224), interpolation=cv2.INTER_AREA) for frame in frames])
    video = torch.from_numpy(sized).permute(3, 0, 1, 2).float()
    with torch.inference_mode():
        expected = encoder.network(video[None] / 255)[0]
    # grouping of sums differs between batches of one and of three
    torch.testing.assert_close(torch.from_numpy(rows[1].copy()), expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(read_features(folder, "features/marlin_small", 1.3, 2.5), rows[1:2])
    assert np.array_equal(read_features(folder, "features/marlin_small", 0.0, 2.0), rows[:2])
    assert np.array_equal(read_features(folder, "features/marlin_small", 3.9, 4.0), rows[2:])


class LevelPieces(Encoder):
    """Four rows of a second of sound: the mean level of each quarter, and its number."""

    def forward(self, samples):
        levels = samples.unflatten(1, (4, -1)).abs().mean(dim=2)
        return torch.stack([levels, torch.arange(4.0).expand_as(levels)], dim=2)


def test_pieces_with_several_rows_are_joined_and_those_after_the_end_left_out(monkeypatch, tmp_path):
    """Of 60 frames, 2.4 s: ten quarters of a second, of which the last one is not whole."""
    folder = write_clip_folder(tmp_path / "set/clip", num_frames=60)

    def plan(rate_hz, num_samples):
        starts = np.arange(0, num_samples, 400)[:, None]
        return Plan(starts, Fraction(1, 4), Fraction(1, 4), -(-num_samples // 100))

    levels = dataclasses.replace(
        BACKBONES["audio_resnet18"], make=lambda: LevelPieces(torch.nn.Linear(1, 1)), width=2, plan=plan,
        sample_rate_hz=400, piece_samples=400, batch_size=2,
    )  # fmt: skip
    monkeypatch.setitem(BACKBONES, "audio_resnet18", levels)
    assert extract(monkeypatch, tmp_path / "set", "audio_resnet18") == 0
    rows, info = (f(folder, "features/audio_resnet18") for f in (open_rows, read_info))
    assert rows[:, 1].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert (info.step_s, info.length_s) == ("1/4", "1/4")
    samples = np.abs(read_waveform(find_audio(folder), 400))
    np.testing.assert_allclose(rows[5, 0], samples[500:600].mean(), rtol=1e-5)
    np.testing.assert_array_equal(read_features(folder, "features/audio_resnet18", 0.5, 1.5), rows[2:6])


def test_a_layer_is_named_in_the_file_and_in_its_settings(monkeypatch, tmp_path):
    folder = write_clip_folder(tmp_path / "set/clip", num_frames=20)
    monkeypatch.setitem(BACKBONES, "wavlm_base", SMALL["wavlm_base"])
    for layer in (0, 1):
        flags = ["--layer", layer, "--batch_size", 1]
        assert extract(monkeypatch, tmp_path / "set", "wavlm_base", *flags) == 0
    assert list_features(folder) == ["features/wavlm_base", "features/wavlm_base.layer1"]
    last, first = (read_info(folder, name) for name in list_features(folder))
    assert first.settings == last.settings | {"layer": 1}
    rows = [open_rows(folder, name) for name in list_features(folder)]
    assert rows[0].shape == rows[1].shape == (39, 32)  # 0.8 s are 12,800 samples
    assert np.abs(rows[0] - rows[1]).max() > 0.1
    assert check_clip(folder, deep=True) == []
    with pytest.raises(UsageError, match="layer must be between 0 and 12, got 13"):
        extract(monkeypatch, tmp_path / "set", "wavlm_base", "--layer", 13)
    with pytest.raises(UsageError, match="layer has no effect here: efficientface"):
        extract(monkeypatch, tmp_path / "set", "efficientface", "--layer", 2)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_of_the_menu_gives_rows_of_its_width(monkeypatch, tmp_path, name):
    """Transformers of hundreds of megabytes stand in with few narrow layers."""
    backbone = SMALL.get(name, BACKBONES[name])
    monkeypatch.setitem(BACKBONES, name, backbone)
    folder = write_clip_folder(tmp_path / "set/clip", num_frames=12)
    flags = ["--batch_size", 1, *(["--random_weights"] if backbone.weights else [])]
    assert run(monkeypatch, tmp_path / "set", name, *flags) == 0
    rows, info = open_rows(folder, f"features/{name}"), read_info(folder, f"features/{name}")
    assert rows.shape[1] == backbone.width
    # the rows reach over the clip's 0.48 s, but for what is less than a row
    step_s, length_s = Fraction(info.step_s), Fraction(info.length_s)
    too_long = (len(rows) - 1) * step_s + length_s - Fraction(12, 25)
    assert -max(step_s, length_s) < too_long
    assert too_long < max(step_s, length_s) or name == "eat"  # which always gives whole pieces
    assert check_clip(folder, deep=True) == []


def test_sound_is_cut_into_seconds(monkeypatch, tmp_path):
    folder = write_clip_folder(tmp_path / "set/clip", num_frames=60)
    assert extract(monkeypatch, tmp_path / "set", "audio_resnet18") == 0
    rows, info = (f(folder, "features/audio_resnet18") for f in (open_rows, read_info))
    assert rows.shape == (2, 512)
    assert info.source == find_audio(folder).name
    torch.manual_seed(extraction.RANDOM_SEED)
    encoder = BACKBONES["audio_resnet18"].make().eval()
    samples = read_waveform(find_audio(folder), 44_100)[44_100:88_200]
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(samples)[None])[0, 0].numpy()
    np.testing.assert_allclose(rows[1], expected, rtol=1e-3, atol=1e-4)


def test_a_backbone_without_weights_asks_for_none_and_takes_none(monkeypatch, tmp_path):
    folder = write_clip_folder(tmp_path / "set/clip", num_frames=60)
    assert run(monkeypatch, tmp_path / "set", "mfcc") == 0
    rows, info = open_rows(folder, "features/mfcc"), read_info(folder, "features/mfcc")
    assert info.weights == info.weights_sha256 == "none"
    samples = read_waveform(find_audio(folder), 44_100)[44_100:88_200]
    expected = BACKBONES["audio_resnet18"].make().mfcc(torch.from_numpy(samples))
    np.testing.assert_allclose(rows[1], expected.flatten(), rtol=1e-4, atol=1e-3)
    assert rows.shape == (2, 870)
    for flags in (["--random_weights"], ["--weights_dir", tmp_path]):
        with pytest.raises(UsageError, match=rf"{flags[0]} has no effect here: mfcc has no weights"):
            run(monkeypatch, tmp_path / "set", "mfcc", *flags)


def test_mfcc_is_librosas():
    """Its numbers (version 0.11) for two tones, to the digits that were kept."""
    seconds = torch.arange(44_100) / 44_100
    samples = 0.5 * (2 * torch.pi * 440 * seconds).sin() + 0.25 * (2 * torch.pi * 1760 * seconds).sin()
    mfcc = BACKBONES["mfcc"].make()(samples[None])[0, 0].unflatten(0, (10, 87))
    assert mfcc.shape == (10, 87)
    kept = [-453.686, 81.173, 30.542, 7.483, 20.111, 26.097, -8.469, -61.874, -82.898, -55.708]
    np.testing.assert_allclose(mfcc[:, 43], kept, atol=2e-2)
    assert mfcc.mean().item() == pytest.approx(-47.893, abs=2e-2)


def test_a_second_call_keeps_what_is_there_and_mends_what_is_not(monkeypatch, clips, tiny, caplog):
    caplog.set_level("INFO")
    assert extract(monkeypatch, clips) == 0
    before = tree(clips)
    times = {path: path.stat().st_mtime_ns for path in clips.rglob("*.npy")}
    (clips / "clip_70/features/marlin_small.npy").unlink()
    changed = clips / "clip_20/features/marlin_small.json"
    changed.write_text(changed.read_text().replace('"random"', '"other"'))
    assert extract(monkeypatch, clips) == 0
    assert "2 extracted, 1 already there, 0 failed" in caplog.text
    assert tree(clips) == before
    kept = clips / "clip_100/features/marlin_small.npy"
    assert kept.stat().st_mtime_ns == times[kept]
    exact = np.array(open_rows(kept.parents[1], "features/marlin_small"))
    extract(monkeypatch, clips, "marlin_small", "--precision", "bf16")
    assert "3 extracted, 0 already there" in caplog.text
    rounded = open_rows(kept.parents[1], "features/marlin_small")
    assert 0 < np.abs(rounded - exact).max() < 0.02 * np.abs(exact).max()


def test_a_clips_rows_do_not_depend_on_the_others_or_on_workers(monkeypatch, clips, tiny):
    assert extract(monkeypatch, clips) == 0
    whole = tree(clips)
    for folder in clips.glob("*/features"):
        shutil.rmtree(folder)
    for shard in ("1/2", "2/2"):
        assert extract(monkeypatch, clips, "marlin_small", "--shard", shard, "--num_workers", 2) == 0
    assert tree(clips) == whole


def test_what_cannot_be_read_is_listed_and_the_others_go_on(monkeypatch, clips, tiny, caplog):
    (clips / "clip_70" / VIDEO_NAME).write_bytes(b"no video")
    assert extract(monkeypatch, clips) == 1
    table = (clips / "features_failures_marlin_small.csv").read_text()
    assert f'\nclip_70,"{VIDEO_NAME}: cannot be decoded' in table
    assert table.count("\n") == 2
    assert len(list(clips.rglob("marlin_small.npy"))) == 2
    shutil.rmtree(clips / "clip_70")
    assert extract(monkeypatch, clips) == 0
    assert not (clips / "features_failures_marlin_small.csv").exists()


def test_what_cannot_be_written_is_listed_and_the_others_go_on(monkeypatch, clips, tiny, caplog):
    (clips / "clip_70/features").write_text("a file in the folder's place")
    assert extract(monkeypatch, clips) == 1
    table = (clips / "features_failures_marlin_small.csv").read_text()
    assert "\nclip_70,[Errno 20] Not a directory: 'features/marlin_small.npy'" in table
    assert len(list(clips.rglob("marlin_small.npy"))) == 2


def test_features_that_are_not_finite_are_a_clips_failure(monkeypatch, clips, tiny, caplog):
    """Of a clip of one frame, whose only piece repeats it."""

    class Spoilt(MarlinPieces):
        def forward(self, frames):
            features = super().forward(frames)
            is_short = frames[:, 0].eq(frames[:, -1]).flatten(1).all(dim=1)
            return features.masked_fill(is_short[:, None, None], torch.nan)

    write_clip_folder(clips / "clip_1", num_frames=1)
    spoilt = dataclasses.replace(tiny, make=lambda: Spoilt(MarlinEncoder(TINY_MARLIN)))
    monkeypatch.setitem(BACKBONES, "marlin_small", spoilt)
    assert extract(monkeypatch, clips) == 1
    assert "clip_1,not finite features" in (clips / "features_failures_marlin_small.csv").read_text()
    assert len(list(clips.rglob("marlin_small.npy"))) == 3


def test_weights_come_from_a_file_and_are_named_when_it_is_missing(monkeypatch, clips, tiny, tmp_path):
    with pytest.raises(UsageError, match=r"marlin_vit_small_ytf.encoder.pt is missing: .*huggingface.*CC BY"):
        run(monkeypatch, clips, "marlin_small", "--weights_dir", tmp_path)
    with pytest.raises(UsageError, match="random_weights"):
        run(monkeypatch, clips, "marlin_small")
    names = {"patch_embedding.": "patch_embedding.projection.", ".mlp.0.": ".mlp.layers.0.linear.",
             ".mlp.2.": ".mlp.layers.1.linear."}  # fmt: skip
    state = {}
    for key, value in MarlinEncoder(TINY_MARLIN).state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        for part in ("q_bias", "v_bias", "qkv.", "proj."):
            key = key.replace(f".0.{part}", f".0.attn.{part}")
        state[f"encoder.{key}"] = value
    path = tmp_path / "marlin_vit_small_ytf.encoder.pt"
    torch.save(state, path)
    assert run(monkeypatch, clips, "marlin_small", "--weights_dir", tmp_path) == 0
    info = read_info(clips / "clip_20", "features/marlin_small")
    assert info.weights == path.name
    assert len(info.weights_sha256) == 64


def test_a_pack_holds_the_features_and_verify_checks_them(monkeypatch, clips, tiny, tmp_path):
    assert extract(monkeypatch, clips) == 0
    packed = tmp_path / "packed"
    words = ["--data_root", str(clips), "--output", str(packed), "--num_workers", "1"]
    monkeypatch.setattr(sys, "argv", ["pack", *words])
    assert pack.main() == 0
    name = "features/marlin_small"
    for folder in ("clip_20", "clip_100"):
        assert list_features(packed / folder) == list_features(clips / folder) == [name]
        assert np.array_equal(open_rows(packed / folder, name), open_rows(clips / folder, name))
        assert read_info(packed / folder, name) == read_info(clips / folder, name)
        assert check_clip(packed / folder, deep=True) == check_clip(clips / folder, deep=True)
    assert not list(packed.rglob("*.npy"))  # nothing lies there as metadata

    rows = clips / "clip_20/features/marlin_small.npy"
    content = bytearray(rows.read_bytes())
    content[-1] ^= 1
    rows.write_bytes(content)
    problems = check_clip(clips / "clip_20", deep=False)
    assert any("checksum differs" in reason for _, reason in problems)
    rows.unlink()
    problems = dict(check_clip(clips / "clip_20", deep=False))
    assert "missing" in problems[rows]
    (clips / "clip_70/features/marlin_small.json").write_text("[]")
    assert any("does not describe" in reason for _, reason in check_clip(clips / "clip_70", deep=False))
    with pytest.raises(ClipError, match="before packing"):
        open_rows(packed / "clip_20", "features/other")


def test_a_clip_that_is_prepared_again_loses_its_features(monkeypatch, tmp_path, tiny):
    video = tmp_path / "raw/clip.mp4"
    video.parent.mkdir()
    frames = moving_face(12, size=(320, 240), face_height=90, path=lambda i: (120 + i, 120))
    write_video(video, frames, waveform=clicks(12 / 25, at_s=[0.2]))
    job = Job(name="clip.mp4", source=video, folder=tmp_path / "set/clip", scratch=tmp_path / "scratch")
    for flags, features in ((prepare.ClipConfig(), 0), (prepare.ClipConfig(crop_margin=1.7), 1)):
        assert len(list_features(job.folder)) == features
        job.scratch.mkdir()
        assert prepare.prepare_job(job, flags) == "done"
        assert list_features(job.folder) == []
        assert extract(monkeypatch, tmp_path / "set") == 0
        assert check_clip(job.folder, deep=True) == []
    info = json.loads((job.folder / "clip.json").read_text())
    (job.folder / "features/notes.txt").write_text("the only copy")
    job.scratch.mkdir()
    with pytest.raises(ClipError, match=r"holds features/notes.txt"):
        prepare.prepare_job(job, prepare.ClipConfig())
    assert read_info(job.folder, "features/marlin_small").source_sha256 == info["files"][VIDEO_NAME]


def test_killed_at_random_moments_it_goes_on_to_the_same_files(tmp_path):
    for number in range(12):
        folder = tmp_path / f"set/clip_{number:02}"
        write_clip_folder(folder, num_frames=26 + 10 * (number % 4), seed=number)
    shutil.copytree(tmp_path / "set", tmp_path / "expected")
    words = ("-m", "preprocess.extract_features", "--backbone", "audio_resnet18", "--random_weights",
             "--device", "cpu", "--batch_size", 2, "--data_root")  # fmt: skip
    finished = start_command(*words, tmp_path / "expected").wait()
    assert finished.returncode == 0, finished.stderr
    rng, kills = random.Random(0), 0
    for _ in range(5):
        files = len(list((tmp_path / "set").glob("*/features/*")))
        process = start_command(*words, tmp_path / "set")
        wanted = files + rng.randint(0, 2)
        while process.running() and len(list((tmp_path / "set").glob("*/features/*"))) <= wanted:
            time.sleep(rng.uniform(0, 0.005))
        kills += process.running()
        process.signal(signal.SIGKILL, group=True)
        process.wait()
    assert kills >= 3
    finished = start_command(*words, tmp_path / "set").wait()
    assert finished.returncode == 0, finished.stderr
    assert tree(tmp_path / "set") == tree(tmp_path / "expected")
