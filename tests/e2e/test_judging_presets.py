"""A checkpoint of every preset of every method judges a raw video, whatever the number of windows at once."""

import dataclasses
from fractions import Fraction

import pytest
import torch

from loaders.batches.windows import WindowStart
from models import MODELS, load_detector
from models.judging import detector
from models.judging.config import JudgeConfig
from preprocess.clip.all_faces import track_video
from preprocess.demo.speech import SAMPLE_RATE_HZ
from tests.checkpoint_factory import ENCODER, write_small_checkpoint
from tests.trees.media import FPS, Media
from utils.errors import UsageError
from utils.media.writer import VideoWriter

PRESETS = [(model, preset) for model in sorted(MODELS) for preset in MODELS[model].presets]
CASES = [
    *((*case, ()) for case in PRESETS),
    *((model, "corrected", ("--label_rule", "video")) for model in sorted(MODELS)),
]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A talking face, one second long: shorter than the windows of some presets."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    frames, waveform = Media(seed=3).make(0, duration_s=1.0)
    with VideoWriter(path, fps=Fraction(FPS), width=frames.shape[2], height=frames.shape[1]) as writer:
        writer.add_audio_stream(SAMPLE_RATE_HZ)
        for frame in frames:
            writer.write(frame)
        writer.write_audio(waveform)
    return path


@pytest.fixture(scope="module")
def tracked(video, tmp_path_factory):
    """Its faces, which are the same for all detectors."""
    return track_video(video, tmp_path_factory.mktemp("tracks"))


def assert_batches_do_not_matter(loaded, track):
    """Windows alone and together, the last of them shorter than the others.

    In float32, since the front ends compute in it: so up to rounding.
    """
    dataset = loaded._windows_of(track)
    dataset.config = dataclasses.replace(loaded.data, window_s=min(0.6, loaded.data.window_s))
    starts = (0, 4, 7, track.num_frames - 11)
    windows = [dataset[0, WindowStart(start)] for start in starts]
    alone, together = (
        [output for _, output in loaded._batches(windows, JudgeConfig(batch_size=size))] for size in (1, 4)
    )
    assert len(together) < len(alone) == len(starts)
    for name in ("logits", "video_logits", "audio_logits", "embedding", "emotion_logits"):
        if getattr(alone[0], name) is not None:
            expected, found = (torch.cat([getattr(o, name) for o in way]) for way in (alone, together))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("model", "preset", "more"), CASES)
def test_a_checkpoint_of_every_preset_judges(model, preset, more, video, tracked, tmp_path, monkeypatch):
    # the published code of mrdf has no encoder
    encoder = ENCODER if model == "mrdf" and preset != "released" else ()
    write_small_checkpoint(tmp_path / "best.pt", model, "--preset", preset, *more, *encoder)
    monkeypatch.setattr(detector, "call_limited", lambda *_, **__: tracked)
    loaded, how = load_detector(tmp_path / "best.pt", device="cpu"), JudgeConfig(lag_frames=1, explain=False)
    if preset == "emotion":
        with pytest.raises(UsageError, match="says nothing of real and fake"):
            loaded.judge(video, how)
        assert len(loaded.features(video)) == 1
    else:
        verdict = loaded.judge(video, how)
        assert len(verdict.faces) == 1
        assert 0 < verdict.prob < 1
    assert_batches_do_not_matter(loaded, tracked.tracks[0])
