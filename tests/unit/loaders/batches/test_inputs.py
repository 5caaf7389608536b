"""Only what a method takes is read; what it does not take has a defined form."""

import dataclasses
import os
import signal

import numpy as np
import pytest
import torch

from loaders.batches import windows
from loaders.batches.collate import Collate
from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.batches.shortcut_probes import probe_batches
from loaders.batches.windows import ClipDataset
from loaders.batches.worker_processes import LoaderError
from models.menu import MODELS
from models.method import check_config
from tests.clip_factory import feature_info, make_clip, write_clip_folder
from utils.clip.features import write_features
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME
from utils.clip.frames import _AvCrop
from utils.clip_type import INPUTS
from utils.errors import ClipError, UsageError
from utils.types import map_tensors

DATA = DataConfig(window_s=0.4, windows_per_clip=2)
WORKERS = WorkerConfig(batch_size=4, num_workers=0)
FEATURES = "features/frozen"


@pytest.fixture
def clip(tmp_path):
    return make_clip(write_clip_folder(tmp_path / "clip", num_frames=30))


@pytest.fixture
def opened(monkeypatch):
    """Names of the signals that were read, in order."""
    names = []

    def counting(name, function):
        def count(*args, **kwargs):
            names.append(name)
            return function(*args, **kwargs)

        return count

    monkeypatch.setattr(windows, "open_sound", counting("sound", windows.open_sound))
    monkeypatch.setattr(windows, "open_landmarks", counting("landmarks", windows.open_landmarks))
    monkeypatch.setattr(_AvCrop, "read", counting("video", _AvCrop.read))
    return names


@pytest.mark.parametrize("inputs", [{"video"}, {"sound"}, {"landmarks"}, {"video", "sound"}, INPUTS])
def test_only_the_inputs_are_opened(clip, opened, inputs):
    (batch, *_) = evaluation_loader([clip], DATA, WORKERS, inputs=frozenset(inputs))
    assert set(opened) == set(inputs)
    num_clips, num_frames = batch.video_padding_mask.shape
    assert (num_clips, num_frames) == (2, 10)
    whole = next(iter(evaluation_loader([clip], DATA, WORKERS)))
    expected = {
        "video": (whole.video, (2, 3, 10, 0, 0)),
        "sound": (whole.waveform, (2, 0)),
        "landmarks": (whole.landmarks, (2, 10, 0, 2)),
    }
    for name, (value, empty) in expected.items():
        got = getattr(batch, {"sound": "waveform"}.get(name, name))
        assert torch.equal(got, value) if name in inputs else got.shape == empty
    assert batch.landmark_padding_mask.all() == ("landmarks" not in inputs)
    longer = batch.padded_to((12, batch.waveform.shape[1]))
    assert longer.video.shape[2] == 12
    assert longer.video_padding_mask[:, 10:].all()


def test_a_visual_method_needs_no_sound_and_no_landmarks_on_disk(clip):
    (clip.folder / AUDIO_NAME).unlink()
    (clip.folder / LANDMARKS_NAME).unlink()
    dataset = ClipDataset([clip], DATA, training=False, inputs=frozenset({"video"}))
    assert len(dataset.evaluation_keys()) == len(dataset.window_spans_s(0)) == 2
    assert dataset[0, 0].video.shape == (10, 64, 64, 3)
    names = [name for name, _ in probe_batches([clip], DATA, WORKERS, inputs=frozenset({"video"}))]
    assert names == []


def test_cached_features_are_cut_to_the_window_padded_and_masked(tmp_path):
    clips = [make_clip(write_clip_folder(tmp_path / str(n), num_frames=n)) for n in (10, 50)]
    for clip in clips:
        rows = np.arange(50, dtype=np.float32)[:, None] * [1, 10]
        write_features(clip.folder, FEATURES, rows.astype(np.float32), feature_info("2/25"))
    config = DataConfig(window_s=0.8, windows_per_clip=1)
    dataset = ClipDataset(clips, config, training=False, inputs=frozenset({FEATURES}))
    batch = Collate(25.0)([dataset[0, 0], dataset[1, 0]])
    values, mask = batch.features["frozen"], batch.feature_padding_masks["frozen"]
    # rows at 0.04, 0.12, ... s: the first clip has 0.4 s, the second one's window starts at 0.6 s
    assert values[0, :, 0].tolist() == [0, 1, 2, 3, 4, 0, 0, 0, 0, 0]
    assert values[1, :, 1].tolist() == list(range(70, 170, 10))
    assert mask.sum(1).tolist() == [5, 0]
    assert batch.video.numel() == batch.waveform.numel() == 0
    dataset = ClipDataset(
        clips, dataclasses.replace(config, rows_after_end=True), training=False, inputs=frozenset({FEATURES})
    )
    all_rows = [dataset[place, 0].features["frozen"][:, 0].tolist() for place in range(2)]
    assert all_rows == [list(range(10)), list(range(7, 17))]

    longer = batch.padded_to((*batch.lengths[:2], 12))
    assert longer.feature_padding_masks["frozen"].sum(1).tolist() == [7, 2]
    assert longer.features["frozen"].shape == (2, 12, 2)
    assert batch.to("meta").features["frozen"].is_meta
    copy = map_tensors(batch, torch.clone)  # as processes exchange them
    assert torch.equal(copy.features["frozen"], values)
    with pytest.raises(ValueError, match="mask"):
        dataclasses.replace(batch, feature_padding_masks={"frozen": mask[:, :3]})


def test_damaged_features_are_reported(clip):
    dataset = ClipDataset([clip], DATA, training=False, inputs=frozenset({"video", FEATURES}))
    with pytest.raises(ClipError, match="missing"):
        dataset[0, 0]
    write_features(clip.folder, FEATURES, np.zeros((3, 2), np.float32), feature_info("1"))
    assert dataset[0, 0].features["frozen"].shape == (1, 2)  # the nearest row
    flat, wide, good = np.zeros(3, np.float32), np.zeros((3, 2)), np.zeros((3, 2), np.float32)
    for rows, step_s, message in ((flat, "1", "expected"), (wide, "1", "float64"), (good, "0", "above 0")):
        write_features(clip.folder, FEATURES, rows, feature_info(step_s))
        with pytest.raises(ClipError, match=message):
            dataset[0, 0]
    (clip.folder / f"{FEATURES}.json").write_text("[]")
    with pytest.raises(ClipError, match="does not describe"):
        dataset[0, 0]


def test_flags_that_do_not_suit_a_method_are_refused():
    config = {"data": {"window_s": 0.05, "trim_silence": True, "video_fps": 25.0}, "model": {}}
    with pytest.raises(UsageError, match="window_s must be >= 0.1"):
        check_config(MODELS["beyond_masking"], config)

    class Sees(MODELS["mrdf"]):
        inputs = frozenset({"video"})
        min_window_s = 0.0

    with pytest.raises(UsageError, match="trim_silence has no effect"):
        check_config(Sees, config)


def test_torchs_public_interface_alone_reports_a_dead_worker_too(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAIN_TORCH", "1")
    clips = [make_clip(write_clip_folder(tmp_path / name, num_frames=15), clip_id=name) for name in "abc"]
    workers = WorkerConfig(batch_size=1, num_workers=1)
    data = DataConfig(window_s=0.4, windows_per_clip=1)
    assert [batch.clip_ids for batch in evaluation_loader(clips, data, workers)] == [("a",), ("b",), ("c",)]
    read = ClipDataset.__getitem__

    def read_or_die(dataset, key):
        if key[0] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(dataset, key)

    monkeypatch.setattr(ClipDataset, "__getitem__", read_or_die)
    with pytest.raises(LoaderError, match="ended unexpectedly while it read b"):
        list(evaluation_loader(clips, data, workers))


def test_the_private_names_of_torch_are_still_there():
    """A torch that lacks them works with PLAIN_TORCH=1."""
    from torch._C import _error_if_any_worker_fails, _remove_worker_pids
    from torch.utils.data._utils import signal_handling
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

    assert callable(_error_if_any_worker_fails)
    assert callable(_remove_worker_pids)
    assert signal_handling._SIGCHLD_handler_set in (True, False)
    assert callable(signal_handling._set_SIGCHLD_handler)
    assert "_workers" in _MultiProcessingDataLoaderIter.__init__.__code__.co_names
