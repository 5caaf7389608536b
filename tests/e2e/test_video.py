"""test.py --video and load_detector: raw videos, every face of them, and what is written."""

import dataclasses
import itertools
import json
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch

import train
from loaders.batches.data_loader import WorkerConfig
from loaders.batches.sliding import score_timelines
from models import MODELS, load_detector
from models.judging import command
from models.judging.command import VideoConfig, judge_video
from models.judging.config import JudgeConfig
from models.judging.page import write_video_page
from models.judging.verdict import find_segments
from preprocess.demo.speech import SAMPLE_RATE_HZ
from tests import moving_face
from tests.clip_factory import make_clip
from tests.commands import run_command
from tests.trees.media import FPS, Media
from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.errors import CheckpointError, ClipError
from utils.evaluation.decision import Decision, HeadDecision
from utils.evaluation.localisation import NUM_SHOWN
from utils.evaluation.segments import Localiser, SegmentRule
from utils.media.sound import iterate_audio
from utils.media.writer import VideoWriter

TINY = (
    "--image_size 32 --video_channels 4 8 --audio_channels 8 8 8 --feature_dim 16 --feedforward_dim 16 "
    "--stream_layers 1 --classifier_hidden_dim 16 --window_s 0.4 --batch_size 4 --device cpu"
).split()
HEAD = HeadDecision(
    temperature=2.0, threshold=0.0, acquittal_threshold=0.0, num_reals=9, num_fakes=9, num_reals_accused=0,
    num_fakes_acquitted=0, false_positive_bound=0.3, false_negative_bound=0.3,
)  # fmt: skip


def write_checkpoint(path, seed=0, *, decision=True, **known):
    """A detector with random weights, as train.py saves one."""
    config = train.parse_args(TINY)
    torch.manual_seed(seed)
    model = MODELS["beyond_masking"](config.model)
    for parameter in model.classifier.parameters():  # so that scores differ visibly
        parameter.data *= 8
    state = {"model": model.state_dict(), "config": config.as_plain(), "split_checksums": {}} | known
    if decision:
        state["decision"] = Decision(rate=0.01, clip=HEAD).as_plain()
    save_checkpoint(path, state)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "best.pt")


@pytest.fixture(scope="module")
def talk():
    """Frames (T, H, W, 3) and sound of two people, two seconds each."""
    media = Media(seed=3)
    return [media.make(identity, duration_s=2.0) for identity in (0, 1)]


def write_video(path, frames, waveform, fps=FPS):
    with VideoWriter(path, fps=Fraction(fps), width=frames.shape[2], height=frames.shape[1]) as writer:
        if waveform is not None:
            writer.add_audio_stream(SAMPLE_RATE_HZ)
        for frame in frames:
            writer.write(frame)
        if waveform is not None:
            writer.write_audio(waveform)
    return path


def judge(checkpoint, video, **flags):
    return load_detector(checkpoint, device="cpu").judge(
        video, JudgeConfig(lag_frames=0, explain=False, **flags)
    )


def test_two_faces_side_by_side_have_tracks_and_scores_of_their_own(checkpoint, talk, tmp_path):
    frames = np.concatenate([talk[0][0], talk[1][0]], axis=2)
    verdict = judge(checkpoint, write_video(tmp_path / "two.mp4", frames, talk[0][1]))
    assert len(verdict.faces) == 2
    assert [face.num_frames for face in verdict.faces] == [50, 50]
    assert verdict.faces[0].logit != verdict.faces[1].logit
    detector = load_detector(checkpoint, device="cpu")
    features = detector.features(tmp_path / "two.mp4")
    for face, of_face in zip(verdict.faces, features, strict=True):
        with torch.no_grad():
            logits = detector.model.classifier(torch.from_numpy(of_face.windows))
        assert logits.mean().item() == pytest.approx(face.logit, abs=1e-4)
        np.testing.assert_allclose(of_face.fused, of_face.windows.mean(axis=0))
        assert (len(of_face.start_s), of_face.start_s[0]) == (face.num_windows, 0.0)
    alone = judge(checkpoint, write_video(tmp_path / "one.mp4", talk[0][0], talk[0][1]))
    assert len(alone.faces) == 1
    assert not verdict.notes
    assert verdict.verdict == ("fake" if "fake" in {face.verdict for face in verdict.faces} else "real")
    for face in verdict.faces:  # every frame with a face has a score
        assert np.isfinite(face.frame_probs).all()
        assert ((face.frame_probs > 0) & (face.frame_probs < 1)).all()


def test_another_landmark_backend_than_in_training_is_said(talk, tmp_path):
    """On the page and in verdict.json; without a flag, faces are found as for the training clips."""
    video = write_video(tmp_path / "short.mp4", talk[0][0][:15], talk[0][1][: 15 * SAMPLE_RATE_HZ // FPS])
    for trained, flag, told in (
        ({"another": 4}, "landmarker", True),
        ({"landmarker": 3}, "auto", False),
    ):
        detector = load_detector(
            write_checkpoint(tmp_path / "best.pt", landmark_backends=trained), device="cpu"
        )
        flags = {"lag_frames": 0, "explain": False, "annotate": False, "landmark_backend": flag}
        config = VideoConfig(video=video, checkpoint=tmp_path, output_dir=tmp_path, **flags)
        judge_video(detector, video, tmp_path / flag, config)
        content = json.loads((tmp_path / flag / "verdict.json").read_text())
        note = "faces of the video were found by landmarker, those of the training clips by another"
        assert content["landmark_backend"] == "landmarker"
        assert any(line.startswith(note) for line in content["notes"]) == told
        assert (note in (tmp_path / flag / "report.html").read_text()) == told


def test_a_black_start_and_a_face_that_goes_are_said(checkpoint, talk, tmp_path):
    frames = talk[0][0].copy()
    frames[:15] = 0
    frames[30:42] = 0
    verdict = judge(checkpoint, write_video(tmp_path / "black.mp4", frames, talk[0][1]))
    assert verdict.verdict in {"real", "fake"}
    assert "no face from 0.00 to 0.60 s" in verdict.notes
    assert any(note.startswith("no face from 1.2") for note in verdict.notes)
    assert sum(face.num_frames_with_face for face in verdict.faces) == 23


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda frames, sound: (frames, None), "no sound"),
        (lambda frames, sound: (frames, 0 * sound), "no sound"),
        (lambda frames, sound: (frames, 1e-3 * sound), "no speech"),
        (lambda frames, sound: (frames[:8], sound[: 8 * SAMPLE_RATE_HZ // FPS]), "too few frames"),
    ],
)
def test_what_the_detector_has_not_learnt_is_undecided(checkpoint, talk, tmp_path, change, reason):
    verdict = judge(checkpoint, write_video(tmp_path / "clip.mp4", *change(*talk[0])))
    assert verdict.verdict == "undecided"
    assert any(reason in why for why in verdict.faces[0].off_domain)
    if reason == "no sound":
        said = {"the video has no sound track", "the video's sound is digital silence"}
        assert len(said.intersection(verdict.notes)) == 1


def test_a_small_face_is_undecided_and_no_face_says_so(checkpoint, talk, tmp_path):
    video = write_video(tmp_path / "clip.mp4", *talk[0])
    verdict = judge(checkpoint, video, min_face_px=200.0)
    assert verdict.verdict == "undecided"
    assert "face too small" in verdict.faces[0].off_domain[0]
    assert verdict.faces[0].prob is not None
    nobody = judge(checkpoint, write_video(tmp_path / "wall.mp4", np.full_like(talk[0][0], 90), talk[0][1]))
    assert (nobody.verdict, nobody.faces, nobody.prob) == ("undecided", [], None)
    assert nobody.notes[0] == "no face was found"


def test_the_maps_depend_on_the_weights_and_the_lag_on_the_sound(tmp_path, talk):
    video = write_video(tmp_path / "clip.mp4", *talk[0])
    maps, curves = [], []
    for seed in (0, 1):
        detector = load_detector(write_checkpoint(tmp_path / f"{seed}.pt", seed), precision="fp32")
        (face,) = detector.judge(video, JudgeConfig(lag_frames=2)).faces
        maps.append(face.regions)
        curves.append(face.lag_curve["logit"])
    assert maps[0].keys() == {"eyes", "nose", "mouth", "contour"}
    assert max(abs(maps[0][name] - maps[1][name]) for name in maps[0]) > 1e-3
    assert face.lag_curve["delay_s"] == [-0.08, -0.04, 0.0, 0.04, 0.08]
    assert len(set(curves[0])) == 5


def test_a_score_that_nothing_moves_says_so_and_is_shown_as_a_logit(tmp_path, talk):
    """A classifier that returns 9 whatever it sees: P(fake) is 1, and the probes find nothing."""
    path = write_checkpoint(tmp_path / "nine.pt")
    content = load_checkpoint(path)
    (name,) = [name for name in content["model"] if name.startswith("classifier.") and
               content["model"][name].shape == (1,)]  # fmt: skip
    for key in (name, name.replace("bias", "weight")):
        content["model"][key].fill_(9.0 if key == name else 0.0)
    save_checkpoint(path, {key: value for key, value in content.items() if key not in ("format", "checksum")})
    video = write_video(tmp_path / "clip.mp4", *talk[0])
    config = VideoConfig(
        video=video, checkpoint=path, output_dir=tmp_path / "out", lag_frames=1, annotate=False
    )
    judge_video(load_detector(path, device="cpu"), video, tmp_path / "out", config)
    verdict = json.loads((tmp_path / "out/verdict.json").read_text())
    (face,) = verdict["faces"]
    assert face["saturated"].keys() == {"lag_curve", "regions"}
    text = (tmp_path / "out/report.html").read_text()
    assert all(reason[1:] in text for reason in face["saturated"].values())
    assert face["frame_logits"] == [9.0] * 50
    assert face["frame_probs"] == [pytest.approx(1 / (1 + np.exp(-9 / 2)), abs=1e-4)] * 50
    assert (verdict["threshold_logit"], verdict["temperature"]) == (0.0, 2.0)


def test_judging_is_in_float32_unless_told_otherwise(checkpoint, talk, tmp_path, monkeypatch):
    """Also where the CPU has instructions for bf16, which training then uses, and without TF32."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    detector = load_detector(checkpoint, device="cpu")
    seen = []

    def look(module, inputs, output):
        seen.append((output.logits.dtype, torch.backends.cudnn.allow_tf32))

    detector.model.register_forward_hook(look)
    (face,) = detector.judge(write_video(tmp_path / "clip.mp4", *talk[0]), JudgeConfig(lag_frames=1)).faces
    assert set(seen) == {(torch.float32, False)}
    assert face.saturated == {}
    assert np.allclose(detector.decision.clip.prob(face.frame_logits), face.frame_probs)
    assert load_detector(checkpoint, device="cpu", precision="bf16").precision == "bf16"


def test_one_can_judge_from_python_as_the_readme_shows(checkpoint, talk, tmp_path):
    video = write_video(tmp_path / "clip.mp4", *talk[0])
    verdict = load_detector(checkpoint).judge(str(video))
    assert verdict.verdict in {"real", "fake", "undecided"}
    assert verdict.num_frames == 50
    again = load_detector(checkpoint).judge(video)
    assert again.as_plain() == verdict.as_plain()
    with pytest.raises(ClipError):
        load_detector(checkpoint).judge(tmp_path / "nothing.mp4")


def test_a_checkpoint_without_a_threshold_says_so_and_a_bare_one_is_refused(talk, tmp_path):
    path = write_checkpoint(tmp_path / "old.pt", decision=False)
    verdict = judge(path, write_video(tmp_path / "clip.mp4", *talk[0]))
    assert any("no threshold from validation" in note for note in verdict.notes)
    assert verdict.threshold == 0.5
    torch.save({"weight": torch.zeros(1)}, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="bare state_dict"):
        load_detector(tmp_path / "bare.pth")


def probe(path):
    """(frames, rate, picture codec, sound codec, seconds of sound) of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        num_frames = sum(1 for _ in container.decode(video=0))
        rate, codec = stream.average_rate, stream.codec_context.name
    with av.open(str(path)) as container:
        sound = container.streams.audio[0]
        num_samples = sum(frame.samples for frame in container.decode(audio=0))
        return (
            num_frames,
            rate,
            codec,
            sound.codec_context.name,
            num_samples / sound.codec_context.sample_rate,
        )


@pytest.mark.parametrize(("container", "codecs"), [("mp4", ("h264", "aac")), ("avi", ("mpeg4", "mp3float"))])
def test_the_command_writes_verdict_video_plot_and_page(checkpoint, talk, tmp_path, container, codecs):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(
        folder / "take 1.2.mp4", *talk[0], fps=30
    )  # a rate other than training's, and an odd size below
    (folder / "broken.mp4").write_bytes(b"no video")
    output = tmp_path / "out"
    result = run_command(
        "test.py", "--video", folder, "--checkpoint", checkpoint, "--output_dir", output,
        "--format", container, "--lag_frames", "1", "--device", "cpu",
    )  # fmt: skip
    assert result.returncode == 1
    assert "broken.mp4" in result.stderr
    assert "1 judged, 1 failed" in result.stderr
    (line,) = map(json.loads, result.stdout.splitlines())
    verdict = json.loads((output / "take 1.2/verdict.json").read_text())
    assert verdict["verdict"] == line["verdict"]
    assert len(verdict["faces"][0]["frame_probs"]) == 50
    num_frames, rate, picture, sound, seconds = probe(output / f"take 1.2/annotated.{container}")
    assert (num_frames, rate, (picture, sound)) == (50, 30, codecs)
    assert seconds == pytest.approx(50 / 30, abs=0.06)
    assert (output / "take 1.2/timeline.png").read_bytes().startswith(b"\x89PNG")
    page = (output / "take 1.2/report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert not list(output.rglob(".work_*"))


@pytest.mark.slow
def test_real_clips_alone_and_side_by_side(checkpoint, shared, tmp_path):
    """The three real videos next to the project: every frame scored, and two of them in one picture."""
    clips = shared / "data/real_clips"
    sources = [clips / "video01.mp4", clips / "video03.mp4"]
    output = tmp_path / "out"
    detector = load_detector(checkpoint, device="cpu")
    config = VideoConfig(
        video=sources[0], checkpoint=checkpoint, output_dir=output, lag_frames=0, explain=False
    )
    verdict = judge_video(detector, sources[0], output, config)
    (face,) = verdict.faces
    assert (face.num_frames, face.num_frames_with_face) == (300, 300)
    assert np.isfinite(face.frame_probs).all()
    with av.open(str(sources[0])) as container:
        rate = container.streams.video[0].average_rate
    num_frames, drawn_rate, _, sound, seconds = probe(output / "annotated.mp4")
    assert (num_frames, drawn_rate, sound) == (300, rate, "aac")
    assert seconds == pytest.approx(10, abs=0.1)

    pictures = []
    for source in sources:
        with av.open(str(source)) as container:
            frames = [
                frame.to_ndarray(format="rgb24") for frame in itertools.islice(container.decode(video=0), 90)
            ]
        pictures.append(np.stack([cv2.resize(frame, (480, 360)) for frame in frames]))
    waveform = np.concatenate([piece for _, piece in iterate_audio(sources[0], SAMPLE_RATE_HZ)])
    both = write_video(
        tmp_path / "both.mp4", np.concatenate(pictures, axis=2), waveform[: 3 * SAMPLE_RATE_HZ], fps=30
    )
    verdict = detector.judge(both, JudgeConfig(lag_frames=0, explain=False))
    assert [face.num_frames_with_face for face in verdict.faces] == [90, 90]
    assert verdict.faces[0].logit != verdict.faces[1].logit


def test_segments_are_proposed_as_test_py_proposes_them(checkpoint, talk, tmp_path):
    """On the same crop, and whatever the stride of the windows that the verdict is of."""
    video = write_video(tmp_path / "one.mp4", *talk[0])
    (face,) = judge(checkpoint, video).faces
    # from below all of them: then one proposal has no surroundings, and more than the page's least confidence
    levels = np.linspace(face.window_logits.min() - 0.1, face.window_logits.max(), 24)
    rule = SegmentRule(
        pool="min", scale=1.0, offset=0.0, levels=tuple(levels.tolist()), sigma=0.3, contrast=1.0,
        grow_s=0.0, merge_s=0.0,
    )  # fmt: skip
    localiser = Localiser(stride_s=0.12, rules={"clip": rule}, num_clips=8, scores={"clip": 0.5})
    path = write_checkpoint(tmp_path / "best.pt", localiser=localiser.as_plain())
    detector = load_detector(path, device="cpu")
    config = JudgeConfig(lag_frames=0, explain=False, stride_s=0.5, batch_size=1)
    verdict, tracked = detector.judge_tracks(video, tmp_path, config)
    (face,), (track,) = verdict.faces, tracked.tracks
    assert (face.num_windows, len(face.window_starts)) == (5, 5)
    clip = make_clip(track.folder)
    # one by one, as judged: logits so near to each other change places by rounding
    where = WorkerConfig(num_workers=0, batch_size=1), localiser.stride_s, detector.device, "fp32"
    lines = score_timelines(detector.model, [clip], detector.data, *where)
    expected = localiser.propose(lines[clip.clip_id])["clip"]
    assert len(expected) > 1
    np.testing.assert_allclose(face.located["clip"], expected, atol=2e-3)
    assert verdict.as_plain()["faces"][0]["located"] == face.located
    write_video_page(tmp_path, verdict, tracked, no_thumbnails=True)
    page = (tmp_path / "report.html").read_text()
    confidence, start, end = face.located["clip"][0]
    assert f"picture or sound: {start:.2f} to {end:.2f} s ({confidence:.2f})" in page
    shown = [row for row in face.located["clip"][:NUM_SHOWN] if row[0] >= 0.01]
    assert page.count('<rect class="window"') == len(shown) > 0
    together = dataclasses.replace(config, batch_size=4)
    found = detector._judge_face(track, tracked, together, "together", [])
    np.testing.assert_allclose(found.window_logits, face.window_logits, atol=1e-5)
    np.testing.assert_allclose(found.located["clip"][0], face.located["clip"][0], atol=0.02)


def test_segments_are_runs_above_the_threshold():
    probs = np.array([0.1, 0.9, 0.8, np.nan, 0.7, 0.2])
    segments = find_segments(probs, 0.5, fps=10.0, first_frame=20)
    assert [(s.start_s, s.end_s) for s in segments] == [(2.1, 2.3), (2.4, 2.5)]
    assert [round(s.mean_prob, 3) for s in segments] == [0.85, 0.7]
    assert [dataclasses.astuple(s) for s in find_segments(probs[:1], 0.5, 10.0, 0)] == []


def test_what_cannot_be_drawn_costs_the_drawing_and_not_the_verdict(
    checkpoint, talk, tmp_path, monkeypatch, caplog
):
    """The encoder dies, as with a picture too large for it; then the plots fail, too."""
    video, folder = write_video(tmp_path / "a.mp4", *talk[0]), tmp_path / "out"
    detector = load_detector(checkpoint, device="cpu")
    config = VideoConfig(
        video=video, checkpoint=checkpoint, output_dir=folder, lag_frames=0, explain=False, clip_timeout_s=60
    )
    folder.mkdir()
    (folder / "annotated.mp4").write_text("of another video")
    monkeypatch.setattr(command, "annotate_video", sys.exit)  # ends the drawing process
    verdict = judge_video(detector, video, folder, config)
    assert json.loads((folder / "verdict.json").read_text())["verdict"] == verdict.verdict
    assert (folder / "report.html").exists()
    assert not (folder / "annotated.mp4").exists()
    assert "annotated.mp4 could not be drawn, the verdict stands: ClipError" in caplog.text

    def fail(*arguments, **options):
        raise ValueError("a plot without points")

    (folder / "verdict.json").unlink()
    monkeypatch.setattr(command, "write_video_page", fail)
    judge_video(detector, video, folder, dataclasses.replace(config, annotate=False))
    assert (folder / "verdict.json").exists()
    assert not (folder / "report.html").exists()
    assert "report.html could not be drawn, the verdict stands: ValueError: a plot" in caplog.text


@pytest.mark.parametrize(
    ("times_ms", "stored", "matrix"),
    [
        (range(0, 1440, 40), lambda frames: frames, (1, 0, 0, 1)),
        (range(400, 1840, 40), lambda frames: np.rot90(frames, axes=(1, 2)), (0, 1, -1, 0)),
        ([*range(0, 540, 30), *range(540, 1440, 50)], lambda frames: frames[:, ::-1], (1, 0, 0, -1)),
    ],
    ids=["plain", "turned, and the picture starts late", "upside down, at a varying rate"],
)
def test_the_annotated_video_shows_and_sounds_together_as_its_source_does(
    checkpoint, talk, tmp_path, times_ms, stored, matrix
):
    """A flash and a tone begin together twice, and do so in the annotated video."""
    times_s, rate_hz = np.array(times_ms) / 1000, moving_face.RATE_HZ
    frames, sound = talk[0][0][: len(times_ms)].astype(int), moving_face.clicks(times_s[-1] + 0.05)
    tone = 0.6 * np.sin(2 * np.pi * 3000 * np.arange(rate_hz // 12) / rate_hz)
    marks = np.array([8, 24])
    for mark in marks:
        frames[mark : mark + 2] += 90
        begin = round(times_s[mark] * rate_hz)
        sound[begin : begin + len(tone)] += tone
    pictures, video = stored(frames.clip(0, 255).astype(np.uint8)), tmp_path / "a.mp4"
    moving_face.write_video(video, pictures, times_ms=list(times_ms), waveform=sound.astype(np.float32))
    moving_face.set_display_matrix(video, *matrix)
    config = VideoConfig(
        video=video, checkpoint=checkpoint, output_dir=tmp_path / "out", lag_frames=0, explain=False
    )
    verdict = judge_video(load_detector(checkpoint, device="cpu"), video, tmp_path / "out", config)
    assert [face.num_frames_with_face for face in verdict.faces] == [len(frames)]
    annotated = tmp_path / "out" / "annotated.mp4"
    with av.open(str(annotated)) as container:
        luma = np.array([frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)])
    assert len(luma) == len(frames)
    bright = luma > np.median(luma) + 30
    flashes_s = np.flatnonzero(bright & ~np.append(False, bright[:-1])) / FPS
    marks_s = times_s[marks] - times_s[0]
    assert flashes_s == pytest.approx(marks_s, abs=1e-6)
    waveform = np.concatenate([piece for _, piece in iterate_audio(annotated, SAMPLE_RATE_HZ)])
    step = SAMPLE_RATE_HZ // 100
    steps = waveform[: len(waveform) // step * step].reshape(-1, step)
    wave = np.exp(-2j * np.pi * 3000 * np.arange(step) / SAMPLE_RATE_HZ)
    loud = np.abs(steps @ wave) > 0.15 * step
    tones_s = np.flatnonzero(loud & ~np.append(False, loud[:-1])) / 100
    assert tones_s == pytest.approx(marks_s, abs=0.5 / FPS)
