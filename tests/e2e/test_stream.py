"""Judging as it is shown: the verdicts of a stream are those of the file, whatever comes late."""

import itertools
import json
import os
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from models import load_detector
from models.judging import command, detector, live
from models.judging.config import JudgeConfig
from models.judging.live_sound import LiveSound, LoudestSecond
from preprocess.clip.all_faces import track_video
from preprocess.clip.live import LiveFaces
from preprocess.clip.schedule import frame_schedule
from preprocess.demo.speech import SAMPLE_RATE_HZ
from tests.checkpoint_factory import write_small_checkpoint
from tests.trees.media import FPS, Media
from utils.errors import ClipError, UsageError
from utils.media.sound import iterate_audio
from utils.media.times import VideoTimes
from utils.media.video import iterate_pictures
from utils.media.writer import VideoWriter

HOW = JudgeConfig(lag_frames=0, explain=False, stride_s=0.4)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Three seconds: a talking face, which is hidden for a third of a second."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    frames, waveform = Media(seed=3).make(0, duration_s=3.0)
    frames = frames.copy()
    frames[30:38] = 90
    with VideoWriter(path, fps=Fraction(FPS), width=frames.shape[2], height=frames.shape[1]) as writer:
        writer.add_audio_stream(SAMPLE_RATE_HZ)
        for frame in frames:
            writer.write(frame)
        writer.write_audio(waveform)
    return path


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "best.pt"
    write_small_checkpoint(path, "beyond_masking", "--window_s", "0.8")
    return load_detector(path, device="cpu")


@pytest.fixture(scope="module")
def of_file(video, loaded, tmp_path_factory):
    """The verdict on the file."""
    tracked = track_video(video, tmp_path_factory.mktemp("tracks"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, "call_limited", lambda *_, **__: tracked)
        return loaded.judge(video, HOW)


def assert_like_the_file(verdicts, of_file):
    (face,) = of_file.faces
    starts = [round(verdict.start_s * FPS) - face.first_frame for verdict in verdicts]
    assert starts == face.window_starts
    np.testing.assert_allclose([v.window_logit for v in verdicts], face.window_logits, atol=1e-5)
    assert verdicts[-1].logit == pytest.approx(face.logit, abs=1e-5)
    assert verdicts[-1].verdict == face.verdict
    assert len(face.window_starts) > 4


def test_a_stream_has_the_windows_and_scores_of_the_file(video, loaded, of_file):
    """Its sound comes a second after its frames."""
    stream = loaded.stream(FPS, 48_000, HOW)
    sounds = list(iterate_audio(video, 48_000))
    verdicts, running = [], 0
    for time_s, picture in iterate_pictures(video):
        verdicts += stream.write_frame(picture, time_s)
        while sounds and sounds[0][0] < time_s - 1.0:
            heard_s, samples = sounds.pop(0)
            verdicts += stream.write_sound(samples, heard_s)
        running = len(verdicts)
    for heard_s, samples in sounds:
        verdicts += stream.write_sound(samples, heard_s)
    verdicts += stream.close()
    assert_like_the_file(verdicts, of_file)
    assert 0 <= running < len(verdicts)


def test_a_pipe_is_judged_and_drawn_as_it_is_played(video, loaded, of_file, tmp_path, capsys, monkeypatch):
    """A recorded file, in real time; drawn before faces are looked for, as on a busy machine."""
    pictures = LiveFaces._pictures

    def take_late(faces):
        for picture in pictures(faces):
            time.sleep(0.05)
            yield picture

    monkeypatch.setattr(LiveFaces, "_pictures", take_late)
    with av.open(video) as source, av.open(tmp_path / "clip.mkv", "w") as target:
        tracks = {track: target.add_stream_from_template(track) for track in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = tracks[packet.stream]
                target.mux(packet)
    content = (tmp_path / "clip.mkv").read_bytes()
    reader, writer = os.pipe()

    def play():
        with os.fdopen(writer, "wb") as pipe:
            for part in np.array_split(np.frombuffer(content, np.uint8), 30):
                pipe.write(part.tobytes())
                pipe.flush()
                time.sleep(0.1)

    player = threading.Thread(target=play)
    player.start()
    live.judge_live(loaded, live.open_pipe(reader, HOW, 30.0), tmp_path, HOW)
    os.close(reader)
    player.join()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (face,) = of_file.faces
    assert [round(line["start_s"] * FPS) - face.first_frame for line in lines] == face.window_starts
    np.testing.assert_allclose([line["window_logit"] for line in lines], face.window_logits, atol=1e-5)
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["faces"][-1] == lines[-1]
    assert verdict["landmark_backend"] == of_file.landmark_backend
    assert [note.partition(":")[0] for note in verdict["notes"]] == [
        "the checkpoint holds no threshold from validation"
    ]
    with av.open(tmp_path / "live.mp4") as drawn:
        assert drawn.streams.video[0].frames == of_file.num_frames


def test_over_a_stall_the_last_frame_stays(loaded, monkeypatch):
    stream = loaded.stream(10, 48_000, HOW)
    shown = []
    monkeypatch.setattr(stream._faces, "write", lambda picture: shown.append(int(picture.rgb()[0, 0, 0])))
    times_s = np.array([5.0, 5.1, 5.48, 5.62, 5.68])
    for number, time_s in enumerate(times_s):
        stream.write_frame(np.full((64, 64, 3), number, np.uint8), time_s)
    stream.close()
    assert shown == [0, 1, 1, 1, 2, 2, 3, 4]
    in_a_file = frame_schedule(VideoTimes(starts_s=times_s, fps=Fraction(10), constant=False))
    assert shown[:5] == in_a_file.tolist()


def test_missing_sound_is_silent_and_late_sound_is_lost():
    sound = LiveSound(48_000)
    sound.write(np.full(4800, 0.5, np.float32), 0.1)
    sound.fill_to(14_400)
    sound.write(np.full(9600, 0.25, np.float32), 0.26)  # the first 0.04 s of it are late
    sound.finish()
    levels = sound.read(0, 24_000)
    assert len(levels) == 12_480 + 9600
    expected = [(2400, 0.0), (7200, 0.5), (12_000, 0.0), (14_300, 0.0), (20_000, 0.25)]
    assert [(place, round(float(levels[place]), 3)) for place, _ in expected] == expected
    sound.drop_before(10_000)
    assert np.array_equal(sound.read(9000, 11_000), levels[10_000:11_000])


def test_hours_without_sound_are_not_kept():
    sound = LiveSound(48_000)
    sound.drop_before(36_000 * 48_000)
    sound.fill_to(36_001 * 48_000)
    assert len(sound.read(0, sound.end)) == 48_000
    sound.write(np.ones(48_000, np.float32), 1.0)  # far too late
    sound.finish()
    assert not sound.read(0, sound.end).any()


def test_channels_that_cancel_each_other_are_heard_as_in_a_file():
    tone = np.sin(np.arange(9600) / 20).astype(np.float32) / 2
    for channels in ([tone, -tone], [tone, 0 * tone]):
        sound = LiveSound(48_000)
        sound.write(np.stack(channels))
        sound.finish()
        share = 1.0 if channels[1].any() else 0.5
        np.testing.assert_allclose(sound.read(0, 9600), share * tone, atol=0.01)


def test_a_level_is_that_of_the_loudest_second_also_of_one_that_has_begun():
    samples = np.random.default_rng(0).standard_normal(120_000).astype(np.float32)
    samples *= np.repeat([0.01, 0.03, 0.02], [48_000, 48_000, 24_000]).astype(np.float32)
    level, places = LoudestSecond(), (0, 7, 30_000, 47_999, 48_001, 97_000, 120_000)
    for start, end in itertools.pairwise(places):
        level.add(samples[start:end])
        seconds = [samples[:end][begin : begin + 48_000] for begin in range(0, end, 48_000)]
        expected = max(np.square(second, dtype=np.float64).mean() for second in seconds)
        assert level.dbfs == pytest.approx(10 * np.log10(expected + 1e-12))


def test_speech_from_before_a_face_is_not_its_own(video, loaded):
    stream, verdicts = loaded.stream(FPS, 48_000, HOW), []
    pictures = [picture for _, picture in iterate_pictures(video)]
    height, width = pictures[0].height, pictures[0].width
    for _ in range(2 * FPS):
        stream.write_frame(np.full((height, width, 3), 90, np.uint8))
        stream.write_sound(np.sin(np.arange(48_000 // FPS) / 20).astype(np.float32) / 2)
    for picture in pictures:
        verdicts += stream.write_frame(picture)
        verdicts += stream.write_sound(np.zeros(48_000 // FPS, np.float32))
    verdicts += stream.close()
    assert len(verdicts) > 2
    assert all(any("no speech" in reason for reason in verdict.reasons) for verdict in verdicts)


def test_frames_of_another_size_are_scaled_to_the_first(loaded, monkeypatch):
    stream = loaded.stream(10, 48_000, HOW)
    shown = []
    monkeypatch.setattr(stream._faces, "write", lambda picture: shown.append((picture.width, picture.height)))
    for side in (64, 128, 32):
        stream.write_frame(np.full((side, 2 * side, 3), side, np.uint8))
        assert stream.picture.rgb().shape == (64, 128, 3)
    assert set(shown) == {(128, 64)}
    stream.close()


def test_a_source_that_breaks_off_has_its_verdicts_before_the_error(video, loaded, of_file, tmp_path):
    def items():
        yield from itertools.islice(iterate_pictures(video), 60)
        raise ClipError(Path("pipe"), "nothing came for 2 s")

    source = live.Source(Fraction(FPS), 48_000, items())
    with pytest.raises(ClipError, match="nothing came"):
        live.judge_live(loaded, source, tmp_path, HOW)
    (face,) = json.loads((tmp_path / "verdict.json").read_text())["faces"]
    assert face["num_windows"] > 2
    with av.open(tmp_path / "live.mp4") as drawn:
        assert drawn.streams.video[0].frames == 60


def test_a_stall_lasts_as_long_in_the_drawn_video(video, loaded, tmp_path):
    def items():
        for number, (_, picture) in enumerate(itertools.islice(iterate_pictures(video), 40)):
            late_s = 1.0 if number >= 20 else 0.0
            yield number / FPS + late_s, picture

    live.judge_live(loaded, live.Source(Fraction(FPS), 48_000, items()), tmp_path, HOW)
    with av.open(tmp_path / "live.mp4") as drawn:
        assert drawn.streams.video[0].frames == 40 + FPS
    (tmp_path / "live.mp4").unlink()
    source = live.Source(Fraction(FPS), 48_000, items())
    live.judge_live(loaded, source, tmp_path, HOW, annotate=False)
    assert [path.name for path in tmp_path.iterdir()] == ["verdict.json"]


@pytest.mark.parametrize(
    ("source", "flags"),
    [
        ("camera:0", "--tracker m2sd"),
        ("pipe:", "--render m2sd"),
        ("pipe:", "--format avi"),
        ("camera:0", "--lag_frames 3"),
        ("camera:0", "--explain false"),
        ("clip.mp4", "--stall_s 3"),
    ],
)
def test_flags_that_a_live_source_or_a_file_does_not_know_are_refused(monkeypatch, source, flags):
    words = ["test.py", "--video", source, "--checkpoint", "best.pt", "--output_dir", "out"]
    monkeypatch.setattr(sys, "argv", words + flags.split())
    with pytest.raises(UsageError, match=f"{flags.split()[0][2:]} has no effect"):
        command.main()


def test_a_stream_follows_faces_in_its_own_way_only(loaded):
    with pytest.raises(UsageError, match="tracker m2sd needs the whole video"):
        loaded.stream(FPS, 48_000, JudgeConfig(tracker="m2sd"))


class FilmCamera:
    """What cv2.VideoCapture says and does of a camera that shows a film, in real time."""

    def __init__(self, film, freezes_after=10_000):
        self.film, self.left, self.thawed = cv2.VideoCapture(str(film)), freezes_after, threading.Event()
        self.began_s, self.num_read, self.released = None, 0, threading.Event()

    def isOpened(self):
        return True

    def get(self, what):
        return self.film.get(what)

    def read(self):
        self.began_s = self.began_s or time.monotonic()
        time.sleep(max(0.0, self.began_s + self.num_read / FPS - time.monotonic()))
        self.num_read += 1
        if self.num_read > self.left:
            self.thawed.wait(60)
        return self.film.read()

    def release(self):
        self.film.release()
        self.released.set()


def test_a_camera_is_judged_until_it_gives_no_more_frames(
    video, loaded, tmp_path, monkeypatch, caplog, capsys
):
    camera = FilmCamera(video)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
    live.judge_live(loaded, live.open_source(Path("camera:0"), HOW, 30.0), tmp_path, HOW)
    assert "gives no more frames" in caplog.text
    assert camera.released.wait(10)
    ends_s = [json.loads(line)["end_s"] for line in capsys.readouterr().out.splitlines()]
    assert len(ends_s) > 2
    assert ends_s == sorted(ends_s)
    (face,) = json.loads((tmp_path / "verdict.json").read_text())["faces"]
    assert face["num_windows"] == len(ends_s)


def test_a_camera_that_freezes_has_its_verdicts_before_the_error(video, loaded, tmp_path, monkeypatch):
    camera = FilmCamera(video, freezes_after=50)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
    source = live.open_source(Path("camera:0"), HOW, 1.0)
    with pytest.raises(ClipError, match=r"no frame came for 1 s; --stall_s"):
        live.judge_live(loaded, source, tmp_path, HOW)
    (face,) = json.loads((tmp_path / "verdict.json").read_text())["faces"]
    assert face["num_windows"] > 1
    camera.thawed.set()
    assert camera.released.wait(10)


def test_frames_of_a_camera_are_left_out_while_two_seconds_of_them_wait(video, monkeypatch, caplog):
    camera = FilmCamera(video)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
    items = live.open_source(Path("camera:0"), HOW, 30.0).items
    next(items)
    assert camera.released.wait(60)  # judging takes that long
    waiting = list(items)
    assert len(waiting) == round(live.FALLEN_BACK_S * FPS) - 1  # the first one had its place, too
    assert f"{round(3.0 * FPS) - len(waiting) - 1} frames were left out" in caplog.text


def test_what_needs_the_whole_video_is_refused(loaded, monkeypatch):
    monkeypatch.setattr(loaded, "inputs", frozenset({"features/eat"}))
    with pytest.raises(UsageError, match="cached features"):
        loaded.stream(25, 48_000)


@pytest.mark.parametrize("name", ["camera:front", "pipe:3"])
def test_a_wrong_source_is_named(name):
    with pytest.raises(UsageError, match=f"--video {name}"):
        live.open_source(Path(name), HOW, 30.0)
