"""test.py --video --render m2sd: the words, colours and rule of M2SD's script, one box per face."""

import dataclasses
import json
import typing

import av
import numpy as np
import pytest

import test
from models import MODELS, load_detector
from models.judging.command import VideoConfig, judge_video
from models.judging.config import JudgeConfig
from models.judging.modes import OF_VIDEOS, SHARED, choose_mode
from models.judging.render_m2sd import COLORS, THRESHOLD, frame_scores
from models.judging.verdict import over_frames
from tests.e2e.test_video import write_checkpoint
from tests.moving_face import clicks, moving_face, write_video
from utils.config import parse_command
from utils.errors import UsageError

NUM_FRAMES = 30


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Two faces next to each other, for 1.2 s."""
    face = np.stack(list(moving_face(NUM_FRAMES)))
    path = tmp_path_factory.mktemp("video") / "two.mp4"
    return write_video(
        path, np.concatenate([face, face[:, :, ::-1]], axis=2), waveform=clicks(1.2, (0.3, 0.8))
    )


def render(video, folder, tracker="ours", **known):
    folder.mkdir()
    detector = load_detector(write_checkpoint(folder / "best.pt", **known), device="cpu")
    config = VideoConfig(
        video=video,
        checkpoint=folder,
        output_dir=folder,
        lag_frames=0,
        explain=False,
        render="m2sd",
        tracker=tracker,
        stride_s=0.04,
    )
    return judge_video(detector, video, folder, config), detector


def frames_of(path):
    with av.open(str(path)) as container:
        assert not container.streams.audio
        stream = container.streams.video[0]
        assert (stream.codec_context.name, container.format.name) == ("mpeg4", "avi")
        return stream.average_rate, [
            frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)
        ]


def num_near(frame, color):
    return (np.abs(frame - np.array(color)).max(axis=2) < 60).sum()


@pytest.mark.parametrize("tracker", ["ours", "m2sd"])
def test_a_word_and_a_box_for_each_of_two_faces(video, tmp_path, tracker):
    verdict, detector = render(video, tmp_path / "out", tracker)
    first, second = verdict.faces
    assert (first.num_frames, second.num_frames) == (NUM_FRAMES, NUM_FRAMES)
    assert (np.abs(first.frame_logits - second.frame_logits) > 1e-3).all()  # each has scores of its own
    assert any("M2SD's rules" in note for note in verdict.notes) == (tracker == "m2sd")
    rate, frames = frames_of(tmp_path / "out/annotated.avi")
    assert (len(frames), float(rate)) == (NUM_FRAMES, verdict.fps)
    assert frames[0].shape[:2] == (verdict.height, verdict.width)
    for face in verdict.faces:
        probs = frame_scores(face, detector.window_frames(verdict.fps))
        assert np.isfinite(probs).all()
        # each window's P(fake), averaged over the windows that show a frame
        windows = zip(face.window_starts, face.window_logits, strict=True)
        shown = [1 / (1 + np.exp(-logit)) for start, logit in windows if start <= 12 < start + 10]
        assert probs[12] == pytest.approx(np.mean(shown), rel=1e-9)
        word = "fake" if probs[12] > THRESHOLD else "real"
        assert num_near(frames[12], COLORS[word]) > 100
    for half in (frames[12][:, :480], frames[12][:, 480:]):
        assert max(num_near(half, COLORS[word]) for word in ("real", "fake")) > 100
    written = json.loads((tmp_path / "out/verdict.json").read_text())["faces"][0]
    assert len(written["window_logits"]) == len(written["window_starts"]) == written["num_windows"]


def test_a_face_that_cannot_be_judged_is_not_called_fake(video, tmp_path):
    verdict, _ = render(video, tmp_path / "out", generated_sets=["fakeavceleb"])
    _, frames = frames_of(tmp_path / "out/annotated.avi")
    assert verdict.caveat
    for word in ("real", "fake"):
        assert num_near(frames[12][frames[12].shape[0] // 8 :], COLORS[word]) < 20
    assert num_near(frames[12], COLORS["undecided"]) > 200
    assert num_near(frames[12][:6], (233, 196, 106)) > 100  # the caveat's line


def test_how_a_video_is_drawn_has_no_effect_without_one():
    words = [
        "--video",
        "a",
        "--checkpoint",
        "b",
        "--output_dir",
        "c",
        "--annotate",
        "false",
        "--render",
        "m2sd",
    ]
    with pytest.raises(UsageError, match="--render has no effect here: annotate is false"):
        parse_command(VideoConfig, "", words)


def test_how_faces_are_followed_is_a_flag_of_raw_videos():
    with pytest.raises(UsageError, match=r"--tracker: for raw videos, which --video names"):
        choose_mode(["--checkpoint", "a", "--data_root", "b", "--tracker", "m2sd"])
    with pytest.raises(UsageError, match="--matrix does not go with --tracker"):
        choose_mode(["--matrix", "a", "--tracker=m2sd"])
    with pytest.raises(ValueError, match="tracker must be one of ours, m2sd, got 'sort'"):
        JudgeConfig(tracker="sort")


def test_no_flag_of_an_evaluation_is_taken_for_one_of_raw_videos():
    groups = [*typing.get_type_hints(test.FlagGroups).values(), *(m.config_type for m in MODELS.values())]
    of_evaluations = {field.name for group in groups for field in dataclasses.fields(group)}
    assert not OF_VIDEOS & of_evaluations
    assert SHARED <= of_evaluations


def test_windows_are_averaged_over_the_frames_that_they_cover():
    found = over_frames([0, 2], np.array([1.0, 0.0]), 6, 3)
    np.testing.assert_allclose(found, [1, 1, 0.5, 0, 0, 0])
    assert np.isnan(over_frames([], np.zeros(0), 2, 3)).all()
