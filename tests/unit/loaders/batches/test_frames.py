"""Single frames of a clip as the unit that is trained and scored (--frames_per_clip)."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from loaders.batches.collate import Collate
from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader, training_loader
from loaders.batches.facts import window_facts
from loaders.batches.labels import window_labels
from loaders.batches.places import spread_frames
from loaders.batches.windows import ClipDataset, WindowStart
from models import MODELS
from models.method import check_config
from tests.clip_factory import make_clip, write_clip_folder
from tests.unit.loaders.batches.test_windows import frame_numbers
from utils.clip.frames import open_crop
from utils.config import to_plain
from utils.errors import UsageError
from utils.evaluation.metrics import frame_level_metrics
from utils.evaluation.scoring import evaluate
from utils.types import DetectorOutput

FRAMES = DataConfig(frames_per_clip=4)
SEES = frozenset({"video"})


def frames_of(folder, config=FRAMES, *, training, **changes):
    return ClipDataset([make_clip(folder, **changes)], config, training=training, inputs=SEES)


def test_frames_are_spread_over_the_whole_clip():
    assert spread_frames(40, 4, None).tolist() == [4, 14, 24, 34]
    assert spread_frames(3, 8, None).tolist() == [0, 1, 2]
    draws = np.array([spread_frames(10, 4, np.random.default_rng(seed)) for seed in range(200)])
    assert (np.diff(draws) > 0).all()
    assert set(draws.flatten().tolist()) == set(range(10))


def test_evaluation_shows_the_same_frames_and_each_epoch_others(tmp_path):
    folder = write_clip_folder(tmp_path / "clip", num_frames=80)
    assert frame_numbers(frames_of(folder, training=False)[0, 0]) == [9, 29, 49, 69]
    dataset = frames_of(folder, training=True)
    epochs = [frame_numbers(dataset[0, (epoch, 0)]) for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    assert all(20 * part <= frame < 20 * part + 20 for epoch in epochs for part, frame in enumerate(epoch))
    assert dataset.window_spans_s(0)[0] == (9 / 25, 10 / 25)


def test_workers_draw_the_same_frames_as_the_main_process(tmp_path):
    clips = [
        make_clip(write_clip_folder(tmp_path / str(label), num_frames=30), label=label) for label in (0, 1)
    ]

    def first(num_workers):
        workers = WorkerConfig(batch_size=2, num_workers=num_workers)
        loader, _ = training_loader(clips, FRAMES, workers, balance="label", seed=3, inputs=SEES)
        return next(iter(loader))

    here, there = first(0), first(1)
    assert torch.equal(here.video, there.video)
    assert here.spread_frames
    assert here.video.shape[:3] == (2, 3, 4)


def test_a_clip_is_decoded_near_its_frames_only(tmp_path):
    folder = write_clip_folder(tmp_path / "clip", num_frames=250)
    with open_crop(folder / "cropped_video.mp4") as crop:
        container, decoded = crop._container, []

        class Counting:
            def __getattr__(self, name):
                return getattr(container, name)

            def decode(self, stream):
                for frame in container.decode(stream):
                    decoded.append(frame.pts)
                    yield frame

        crop._container = Counting()
        few = crop.read(np.array([5, 100, 101, 200]))
        crop._container = container
        every = crop.read(np.arange(250))
    assert (few == every[[5, 100, 101, 200]]).all()
    assert len(decoded) <= 3 * 12  # a key frame comes every 12 frames


def test_frames_of_a_partly_forged_clip_have_labels_of_their_own(tmp_path):
    folder = write_clip_folder(tmp_path / "clip", num_frames=40)
    forged = {"label": 1, "video_label": 1, "video_fake_segments": ((0.5, 0.8),)}
    for training in (False, True):
        window = frames_of(folder, DataConfig(frames_per_clip=40), training=training, **forged)[0, (0, 0)]
        assert np.flatnonzero(window.frame_labels).tolist() == list(range(12, 20))
        assert window.label == 1
    unknown = frames_of(folder, training=False, label=1, video_label=None, audio_label=None)[0, 0]
    assert unknown.frame_labels.tolist() == [1] * 4
    only_heard = frames_of(folder, training=False, label=1, video_label=0, audio_label=1)[0, 0]
    assert only_heard.frame_labels.tolist() == [0] * 4


def test_a_window_shorter_than_the_least_forgery_is_fake_where_it_shows_nothing_else(tmp_path):
    clip = make_clip(tmp_path, label=1, video_label=1, video_fake_segments=((1.0, 2.0),))
    assert window_labels(clip, "any", 1.5, 1.54, min_fake_s=0.1)[0] == 1
    assert window_labels(clip, "any", 0.98, 1.02, min_fake_s=0.1)[0] == 0
    assert window_labels(clip, "any", 0.5, 0.54, min_fake_s=0.1)[0] == 0


def test_frames_are_described_like_those_of_a_judged_video(tmp_path):
    folder = write_clip_folder(tmp_path / "clip", num_frames=40)
    spread = Collate(25.0, spread_frames=True)([frames_of(folder, training=False)[0, 0]])
    singles = frames_of(folder, DataConfig(window_s=0.04), training=False)
    each = [window_facts(Collate(25.0)([singles[0, WindowStart(start)]])) for start in (4, 14, 24, 34)]
    # a window shows its only frame four times, which the standard deviation of levels notices
    torch.testing.assert_close(window_facts(spread)[0], torch.cat(each).mean(dim=0), rtol=0, atol=2e-4)


class Brightness(nn.Module):
    """The mean level of each frame is its logit."""

    def forward(self, batch):
        logits = batch.video.float().mean(dim=(1, 3, 4)) - 100
        return DetectorOutput(logits=logits.mean(1), video_logits=logits.mean(1), frame_logits=logits)


@pytest.mark.parametrize(("pooling", "pool"), [("mean", np.mean), ("max", np.max)])
def test_every_frame_is_scored_and_a_clip_is_their_pool(tmp_path, pooling, pool):
    clips = [
        make_clip(write_clip_folder(tmp_path / "a", num_frames=40)),
        make_clip(
            write_clip_folder(tmp_path / "b", num_frames=3), label=1, video_label=1,
            video_fake_segments=((0.0, 0.05),),
        ),
    ]  # fmt: skip
    loader = evaluation_loader(clips, FRAMES, WorkerConfig(batch_size=2, num_workers=0), inputs=SEES)
    scores = evaluate(Brightness(), loader, torch.device("cpu"), pooling=pooling)
    assert scores.num_windows.tolist() == [4, 3]
    assert scores.labels.tolist() == [0, 1]
    assert [labels.tolist() for labels in scores.frame_labels] == [[0] * 4, [1, 0, 0]]
    expected = [pool(logits) for logits in scores.window_logits]
    np.testing.assert_allclose(scores.logits, expected)
    np.testing.assert_array_equal(scores.video_logits, scores.logits)
    assert scores.audio_logits is None


def test_frame_level_metrics_are_the_papers():
    # section 9, F5 of the method's specification: softmax of (real, fake) logits
    logits = [np.array([-1.5]), np.array([1.0, -1.0])]
    found = frame_level_metrics([np.array([0.0]), np.array([1.0, 1.0])], logits)
    assert found["auc"] == 1
    assert math.isclose(found["accuracy"], 2 / 3)
    assert math.isclose(found["log_loss"], 0.609312217673, rel_tol=1e-11)
    assert frame_level_metrics([np.array([1.0])], logits[:1])["auc"] is None


def test_a_method_of_windows_takes_no_single_frames():
    config = {"data": to_plain(FRAMES), "model": {}}
    check_config(MODELS["exposing_deception"], config)
    for name in ("beyond_masking", "mrdf"):
        with pytest.raises(UsageError, match="single frames"):
            check_config(MODELS[name], config)
