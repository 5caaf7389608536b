"""Windows that slide over clips with planted forgeries, scored by what they show."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from loaders.batches.collate import Collate
from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.batches.labels import true_segments
from loaders.batches.sliding import (
    fit_localiser,
    has_segments,
    localise,
    score_timelines,
    sliding_config,
    with_localiser,
)
from loaders.batches.windows import ClipDataset, WindowStart
from tests.clip_factory import make_clip, write_clip_folder
from utils.clip.files import VIDEO_NAME
from utils.errors import ClipError
from utils.run.bad_clips import BadClips
from utils.run.loop_config import LoopConfig
from utils.types import DetectorOutput

DATA = DataConfig(window_s=0.4, windows_per_clip=1)
WORKERS = WorkerConfig(batch_size=4, num_workers=0)
SPANS = ((0.6, 0.9), (0.8, 1.3), (0.7, 1.0))


class Stripes(nn.Module):
    """How far the stripes of tests.clip_factory stand out in each frame; a window's logit is the largest."""

    def __init__(self, of_frames=False):
        super().__init__()
        self.of_frames = of_frames

    def forward(self, batch):
        rows = batch.video.float().mean(dim=(1, 4))  # (B, T, H)
        half = rows.shape[2] // 2
        frames = (rows[..., half::4] - rows[..., half + 1 :: 4]).mean(dim=2) - 20
        frames = frames.masked_fill(batch.video_padding_mask, -torch.inf)
        most = frames.max(dim=1).values
        return DetectorOutput(logits=most, video_logits=most, frame_logits=frames if self.of_frames else None)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two real clips, and three of which the picture is forged in a SPAN each."""
    root, found = tmp_path_factory.mktemp("planted"), []
    for number in range(5):
        span = SPANS[number - 2] if number > 1 else None
        options = {"fake_video": span is not None, "fake_span": span or (0.0, 0.0)}
        folder = write_clip_folder(root / str(number), seed=number, num_frames=50, **options)
        forged = {"label": 1, "video_label": 1, "video_fake_segments": (span,)} if span else {}
        found.append(make_clip(folder, identity=f"test/{number}", **forged))
    return found


def lines_of(model, clips, data=DATA, stride_s=0.04, **options):
    return score_timelines(
        model, clips, data, WORKERS, stride_s, torch.device("cpu"), "fp32", inputs={"video"}, **options
    )


@pytest.mark.parametrize("of_frames", [False, True])
def test_every_moment_of_a_clip_is_scored(clips, of_frames):
    lines = lines_of(Stripes(of_frames), clips)
    assert list(lines) == [clip.clip_id for clip in clips]
    for clip, line in zip(clips[2:], list(lines.values())[2:], strict=True):
        assert (line.num_steps, line.step_s, line.length, len(line.starts)) == (50, 0.04, 10, 41)
        ((start, end),) = clip.video_fake_segments
        middles = (np.arange(50) + 0.5) * 0.04
        for stream in ("clip", "video"):
            forged = line.pooled(stream, "min") > 0
            np.testing.assert_array_equal(forged, (start <= middles) & (middles < end))
        assert not line.has("audio")
        assert {row.shape for row in line.logits} == {(3, 10 if of_frames else 1)}


def test_a_wider_stride_reads_fewer_windows_and_the_last_one(clips):
    line = lines_of(Stripes(), clips[:1], stride_s=0.36)[clips[0].clip_id]
    assert line.starts == [0, 9, 18, 27, 36, 40]


def test_single_frames_and_released_windows_slide_too(clips):
    frames = DataConfig(frames_per_clip=4)
    line = lines_of(Stripes(), clips[2:3], frames)[clips[2].clip_id]
    assert (line.length, len(line.starts)) == (1, 50)
    ((start, end),) = SPANS[:1]
    forged = line.pooled("clip", "mean") > 0
    assert np.flatnonzero(forged).tolist() == list(range(round(start / 0.04), round(end / 0.04 - 1e-9)))
    released = sliding_config(DataConfig(window="released", windows_per_clip=1))
    assert (released.window, released.window_frames) == ("seconds", 60)
    assert sliding_config(DATA) is DATA


def test_steps_are_those_that_the_model_sees(tmp_path):
    clip = make_clip(write_clip_folder(tmp_path / "clip", num_frames=60, fps=30))
    dataset = ClipDataset([clip], DATA, training=False, inputs={"video"})
    assert dataset.num_steps(0) == 50
    assert [dataset.step_of(0, frame) for frame in (0, 3, 6, 48)] == [0, 2, 5, 40]
    keys = dataset.sliding_keys(0, 0.2)
    assert keys[:2] == [(0, WindowStart(0)), (0, WindowStart(6))]
    assert keys[-1] == (0, WindowStart(48))


def test_a_clip_that_cannot_be_read_is_left_out_or_stops(clips, tmp_path):
    folder = write_clip_folder(tmp_path / "broken", num_frames=50)
    (folder / VIDEO_NAME).write_bytes(b"")
    broken = [clips[0], make_clip(folder)]
    with pytest.raises(ClipError):
        lines_of(Stripes(), broken)
    assert list(lines_of(Stripes(), broken, bad_clips=BadClips(1))) == [clips[0].clip_id]


def localised(localiser, clips, output_dir):
    loader = evaluation_loader(clips, DATA, WORKERS, inputs={"video"})
    return localise(localiser, Stripes(), loader, WORKERS, torch.device("cpu"), "fp32", output_dir)


def test_rules_are_chosen_where_segments_are_known_and_found_again(clips, tmp_path):
    assert has_segments(clips)
    assert not has_segments(clips[:2])
    lines = lines_of(Stripes(), clips)
    localiser = fit_localiser(clips, lines, "any", 0.04)
    assert localiser.rules.keys() == {"clip", "video"}  # the method hears nothing
    assert localiser.num_clips == 5
    result = localised(localiser, clips, tmp_path)["localisation"]
    for stream in ("clip", "video"):
        assert result[stream]["correct"]["ap"]["0.75"] == 1.0
        assert result[stream]["official"]["ap"]["0.75"] < 1.0
        assert (result[stream]["num_segments"], result[stream]["num_files"]) == (3, 5)
    written = json.loads((tmp_path / "segments.json").read_text())
    assert written.keys() == {clip.clip_id for clip in clips}
    _, start, end = written[clips[2].clip_id]["clip"][0]
    assert (start, end) == pytest.approx(SPANS[0], abs=0.05)


def test_without_segments_or_rules_there_is_nothing_to_localise(clips, tmp_path):
    reason = "the checkpoint holds no rules for segments"
    assert localised(None, clips, tmp_path) == {"localisation": {"reason": reason}}
    assert localised(None, clips[:2], tmp_path) == {}
    few = clips[:3]  # one with a segment
    assert fit_localiser(few, lines_of(Stripes(), few), "any", 0.04) is None
    assert not list(tmp_path.iterdir())


def test_training_slides_over_nothing_where_no_segment_is_known(clips):
    loader = evaluation_loader(clips[:2], DATA, WORKERS, inputs={"video"})
    # without a state, a window that is scored is an error
    change = with_localiser(lambda content: {"decision": 1}, None, loader, WORKERS, LoopConfig(), "fp32")
    assert change({"model": {}}) == {"decision": 1}


def test_a_batch_says_which_frames_are_forged_and_what_is_padding(clips, tmp_path):
    short = make_clip(write_clip_folder(tmp_path / "short", num_frames=8), label=1, video_label=None)
    dataset = ClipDataset([clips[2], short], DATA, training=False)
    batch = Collate(25.0)([dataset[0, WindowStart(10)], dataset[1, WindowStart(0)]])
    ((start, end),) = SPANS[:1]
    expected = [float(start <= (10 + step + 0.5) * 0.04 < end) for step in range(10)]
    assert batch.forged_frames[0].tolist() == pytest.approx(expected)
    assert 0 < sum(expected) < 10
    assert batch.forged_frames[1, :8].tolist() == [1] * 8  # a fake without segments
    assert batch.padded_to((12, 20_000)).forged_frames[1, 8:].isnan().all()


@pytest.mark.parametrize(
    ("labels", "segments", "expected"),  # of picture and sound; of "clip", "video" and "audio"
    [
        ((0, 0), (None, None), ([], [], [])),
        ((1, 0), (((1, 2), (3, 4)), None), ([(1, 2), (3, 4)], [(1, 2), (3, 4)], [])),
        ((1, 1), (((1, 2),), ((1.5, 3), (4, 5))), ([(1, 3), (4, 5)], [(1, 2)], [(1.5, 3), (4, 5)])),
        ((1, 1), (((1, 2),), None), ([(0.0, 9.0)], [(1, 2)], [(0.0, 9.0)])),
        ((1, None), (((1, 2),), None), ([(1, 2)], [(1, 2)], None)),
        ((None, None), (None, None), ([(0.0, 9.0)], None, None)),
    ],
)
def test_what_is_forged_follows_from_labels_and_segments(tmp_path, labels, segments, expected):
    clip = make_clip(
        tmp_path, label=int(labels != (0, 0)), video_label=labels[0], audio_label=labels[1],
        video_fake_segments=segments[0], audio_fake_segments=segments[1],
    )  # fmt: skip
    found = tuple(true_segments(clip, stream, "any", 9.0) for stream in ("clip", "video", "audio"))
    assert found == expected
    assert true_segments(clip, "clip", "video", 9.0) == expected[1]
