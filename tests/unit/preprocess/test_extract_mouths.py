"""preprocess.extract_features with a backbone that sees mouths, hears, or both."""

import dataclasses
import functools
import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch

from models.backbones.avhubert import PIECE_SAMPLES, AvHubert, AvHubertPieces
from models.backbones.menu import BACKBONES
from preprocess.faces.mouth import Mouths
from preprocess.features import extraction
from preprocess.verify import check_clip
from tests.clip_factory import write_clip_folder
from tests.kill import tree
from tests.unit.models.backbones.test_avhubert import CHANNELS, MINI, published
from tests.unit.preprocess.test_extract_features import extract, run
from utils.clip.features import open_rows, read_features, read_info
from utils.clip.files import LANDMARKS_NAME, VIDEO_NAME, find_audio
from utils.clip.frames import read_frames
from utils.clip.sound import read_waveform

KINDS = {
    "avhubert_base": (True, True),
    "avhubert_base_video": (True, False),
    "avhubert_base_audio": (False, True),
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Networks of two narrow layers in place of the base ones."""

    def make(sees, hears):
        return AvHubertPieces(AvHubert(MINI, CHANNELS), sees=sees, hears=hears)

    for name, kind in KINDS.items():
        changes = {"make": functools.partial(make, *kind), "width": 16, "batch_size": 2}
        monkeypatch.setitem(BACKBONES, name, dataclasses.replace(BACKBONES[name], **changes))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    for number, frames in enumerate((130, 20)):
        write_clip_folder(root / f"clip_{number}", num_frames=frames, seed=number, size=224)
    return root


@pytest.fixture
def clips(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "set")


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_what_the_network_makes_of_mouths_and_sound(monkeypatch, clips, name):
    assert extract(monkeypatch, clips, name) == 0
    folder, (sees, hears) = clips / "clip_0", KINDS[name]
    rows, info = open_rows(folder, f"features/{name}"), read_info(folder, f"features/{name}")
    assert rows.shape == (130, 16)
    assert (info.step_s, info.length_s) == ("1/25", "1/25")
    read = ([VIDEO_NAME, LANDMARKS_NAME] if sees else []) + ([find_audio(folder).name] if hears else [])
    assert info.source == read[0]
    assert info.more_sources.keys() == set(read[1:])
    assert all(len(digest) == 64 for digest in (info.source_sha256, *info.more_sources.values()))
    inputs = []
    if sees:
        mouths = np.zeros((1, 100, 96, 96), np.uint8)
        shown = np.arange(100, 130)
        mouths[0, :30] = Mouths(folder).cut(shown, read_frames(folder / VIDEO_NAME, shown))
        inputs.append(torch.from_numpy(mouths))
    if hears:
        samples = np.zeros((1, PIECE_SAMPLES), np.float32)
        found = read_waveform(find_audio(folder), 16_000)[64_000:]
        samples[0, : len(found)] = found
        inputs.append(torch.from_numpy(samples))
    torch.manual_seed(extraction.RANDOM_SEED)
    encoder = BACKBONES[name].make().eval()
    with torch.inference_mode():
        expected = encoder(*inputs, torch.tensor([30]))[0, :30].numpy()
    np.testing.assert_allclose(rows[100:], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(read_features(folder, f"features/{name}", 1.0, 3.0), rows[25:75])
    assert check_clip(folder, deep=True) == check_clip(clips / "clip_1", deep=True)


def test_files_do_not_depend_on_the_other_clips_and_workers(monkeypatch, clips):
    for name in KINDS:
        assert extract(monkeypatch, clips, name) == 0
    whole = tree(clips)
    for folder in clips.glob("*/features"):
        shutil.rmtree(folder)
    for name in KINDS:
        for shard in ("1/2", "2/2"):
            assert extract(monkeypatch, clips, name, "--shard", shard, "--num_workers", 1) == 0
    assert tree(clips) == whole


@pytest.mark.parametrize("name", KINDS)
def test_bf16_stays_close(monkeypatch, clips, name):
    rows = []
    for precision in ("fp32", "bf16"):
        assert extract(monkeypatch, clips, name, "--precision", precision) == 0
        rows.append(np.array(open_rows(clips / "clip_1", f"features/{name}")))
    assert 0 < np.abs(rows[0] - rows[1]).max() < 0.05 * np.abs(rows[0]).max()


def test_features_follow_each_of_the_files_that_they_were_made_from(monkeypatch, clips, caplog):
    caplog.set_level("INFO")
    for name in KINDS:
        extract(monkeypatch, clips, name)
    path = clips / "clip_1" / LANDMARKS_NAME
    np.save(path, np.load(path) * np.float32(0.9))
    caplog.clear()
    for name in KINDS:
        extract(monkeypatch, clips, name)
    counts = ["1 extracted, 1 already there", "1 extracted, 1 already there", "0 extracted, 2 already there"]
    assert [
        message.partition(", 0 failed")[0] for message in caplog.messages if "extracted" in message
    ] == counts


def test_verify_names_the_file_that_is_another_one(monkeypatch, clips):
    folder = clips / "clip_1"
    extract(monkeypatch, clips, "avhubert_base")
    path = folder / "features/avhubert_base.json"
    info = json.loads(path.read_text())
    info["more_sources"][LANDMARKS_NAME] = "0" * 64
    path.write_text(json.dumps(info))
    (folder / "clip.json").write_text(json.dumps({"files": {LANDMARKS_NAME: "1" * 64}}))
    reasons = [reason for _, reason in check_clip(folder, deep=False)]
    assert any(f"another {LANDMARKS_NAME} than the clip's" in reason for reason in reasons)


def test_features_from_before_more_files_were_named_stay(monkeypatch, clips, caplog):
    caplog.set_level("INFO")
    extract(monkeypatch, clips, "avhubert_base_audio")
    for path in clips.rglob("avhubert_base_audio.json"):
        info = json.loads(path.read_text())
        assert info.pop("more_sources") == {}
        path.write_text(json.dumps(info))
    extract(monkeypatch, clips, "avhubert_base_audio")
    assert "0 extracted, 2 already there" in caplog.text


def test_clips_of_another_rate_have_25_rows_a_second(monkeypatch, tmp_path):
    folder = write_clip_folder(tmp_path / "set/clip", num_frames=60, fps=Fraction(30), size=224)
    for name in KINDS:
        assert extract(monkeypatch, tmp_path / "set", name) == 0
        assert open_rows(folder, f"features/{name}").shape == (50, 16)


def test_a_clip_without_a_face_or_with_other_landmarks_is_listed(monkeypatch, clips):
    for number, change in enumerate((lambda points: points * np.nan, lambda points: points[:-1])):
        path = clips / f"clip_{number}" / LANDMARKS_NAME
        np.save(path, change(np.load(path)))
    assert extract(monkeypatch, clips, "avhubert_base") == 1
    table = (clips / "features_failures_avhubert_base.csv").read_text()
    assert "no face in any frame" in table
    assert "19 landmark frames for 20 video frames" in table


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_are_a_file_of_fairseq_or_of_transformers(monkeypatch, clips, tmp_path, suffix):
    from safetensors.torch import save_file

    state = published(AvHubert(MINI, CHANNELS))
    path = tmp_path / f"base_vox_iter5{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert run(monkeypatch, clips, "avhubert_base_video", "--weights_dir", tmp_path) == 0
    assert read_info(clips / "clip_1", "features/avhubert_base_video").weights == path.name
