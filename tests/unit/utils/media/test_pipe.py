"""What comes through a pipe: the rules of files, and writers that fail in every way."""

import contextlib
import os
import threading
import time
from fractions import Fraction
from multiprocessing.connection import Connection

import av
import numpy as np
import pytest

from preprocess.work.limits import LimitConfig
from preprocess.work.workers import iterate_limited
from utils.errors import ClipError
from utils.media.allowed import MediaLimits, limit_media
from utils.media.picture import PictureConverter
from utils.media.pipe import PIPE, Heard, Rates, Shown, iterate_pipe
from utils.media.sound import iterate_audio
from utils.media.video import iterate_pictures

STALL_S = 0.5
NUM_FRAMES = 20


def encode(path, container, size=(64, 48), codec="mpeg4", first=0, second_s=1.0):
    """Bytes of NUM_FRAMES frames at 10 per second of noise, `second_s` where the second second begins."""
    rng = np.random.default_rng(first)
    with av.open(path, "w", format=container) as target:
        stream = target.add_stream(codec, rate=10, width=size[0], height=size[1], pix_fmt="yuv420p")
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(NUM_FRAMES):
            noise = rng.integers(0, 255, (size[1], size[0], 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuv420p")
            late_s = second_s - 1.0 if number >= 10 else 0.0
            frame.pts, frame.time_base = round(1000 * (first + number / 10 + late_s)), Fraction(1, 1000)
            for packet in stream.encode(frame):
                target.mux(packet)
        for packet in stream.encode():
            target.mux(packet)
    return path.read_bytes()


@pytest.fixture(scope="module")
def matroska(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("clip") / "clip.mkv", "matroska")


@contextlib.contextmanager
def piped(content, open_for_s=0.0):
    """The reading end of a pipe, into which a thread writes, and which it closes late."""
    reader, writer = os.pipe()

    def write():
        with os.fdopen(writer, "wb") as file:
            with contextlib.suppress(BrokenPipeError):
                file.write(content)
                file.flush()
            time.sleep(open_for_s)

    thread = threading.Thread(target=write)
    thread.start()
    with contextlib.closing(Connection(reader, writable=False)) as pipe:
        yield pipe
    thread.join()


def read(content, **options):
    """(pieces, error) that a pipe gives."""
    pieces = []
    with piped(content, **options) as pipe:
        try:
            pieces.extend(iterate_pipe(pipe, STALL_S))
        except ClipError as error:
            return pieces, error.reason
    return pieces, ""


def frames_of(pieces):
    return [piece for piece in pieces if isinstance(piece, Shown)]


def test_frames_are_those_of_the_file(matroska, tmp_path):
    (tmp_path / "clip.mkv").write_bytes(matroska)
    pieces, error = read(matroska)
    assert (error, pieces[0].fps) == ("", 10)
    expected = list(iterate_pictures(tmp_path / "clip.mkv"))
    assert [piece.time_s for piece in pieces[1:]] == [time_s for time_s, _ in expected]
    for piece, (_, picture) in zip(pieces[1:], expected, strict=True):
        assert np.array_equal(piece.picture(PictureConverter()).rgb(), picture.rgb())


def test_a_large_first_picture_does_not_double_the_rate(tmp_path):
    """What is probed ends in it, so that no average rate is known."""
    path, rng = tmp_path / "clip.ts", np.random.default_rng(0)
    with av.open(path, "w", format="mpegts") as target:
        stream = target.add_stream("libx264", rate=25, width=640, height=360, pix_fmt="yuv420p")
        stream.options = {"qp": "4", "preset": "ultrafast"}
        for _ in range(4):
            noise = rng.integers(0, 255, (360, 640, 3), np.uint8)
            target.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        target.mux(stream.encode())
    pieces, error = read(path.read_bytes())
    assert (error, pieces[0].fps, len(frames_of(pieces))) == ("", 25, 4)


def test_surround_is_mixed_as_in_a_file(tmp_path):
    path, tone = tmp_path / "clip.mkv", np.sin(np.arange(48_000) / 20).astype(np.float32) / 2
    channels = np.zeros((6, 48_000), np.float32)
    channels[2] = tone  # a voice is in the centre
    with av.open(path, "w", format="matroska") as target:
        video = target.add_stream("mpeg4", rate=10, width=64, height=48, pix_fmt="yuv420p")
        sound = target.add_stream("ac3", rate=48_000, layout="5.1")
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            target.mux(video.encode(frame))
        heard = av.AudioFrame.from_ndarray(channels, format="fltp", layout="5.1")
        heard.sample_rate, heard.pts, heard.time_base = 48_000, 0, Fraction(1, 48_000)
        target.mux(sound.encode(heard))
        for track in (video, sound):
            target.mux(track.encode())
    pieces, error = read(path.read_bytes())
    samples = np.concatenate([piece.samples for piece in pieces if isinstance(piece, Heard)], axis=1)
    of_file = np.concatenate([samples for _, samples in iterate_audio(path, 48_000)])
    assert (error, len(samples)) == ("", 1)
    assert np.abs(of_file).max() > 0.4
    np.testing.assert_allclose(samples[0], of_file, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"text " * 200, "not a video"),
        (b"ffconcat version 1.0\n" * 50, "list of other"),
    ],
)
def test_what_is_no_video_is_refused(content, reason):
    pieces, error = read(content)
    assert (pieces, reason in error) == ([], True)


def test_a_writer_that_stalls_is_named_after_what_it_wrote(matroska):
    began_s = time.monotonic()
    pieces, error = read(matroska[: len(matroska) * 2 // 3], open_for_s=3 * STALL_S)
    assert "nothing came for 0.5 s" in error
    assert 5 < len(frames_of(pieces)) < NUM_FRAMES
    assert read(b"", open_for_s=3 * STALL_S)[1] == error
    assert time.monotonic() - began_s < 60


def test_a_writer_that_ends_in_the_middle_of_a_frame_gives_the_frames_before(matroska):
    pieces, error = read(matroska[: len(matroska) * 2 // 3])
    assert error == ""
    assert 5 < len(frames_of(pieces)) < NUM_FRAMES
    assert "before its first frame" in read(matroska[:600])[1]


def test_an_mp4_that_ends_with_its_index_says_what_to_send(tmp_path):
    assert "send matroska" in read(encode(tmp_path / "clip.mp4", "mp4"))[1]


def test_frames_may_change_their_size(tmp_path):
    parts = [
        encode(tmp_path / f"{number}.ts", "mpegts", size, "libx264", first)
        for number, (size, first) in enumerate((((64, 48), 0), ((96, 64), 2)))
    ]
    pieces, error = read(b"".join(parts))
    assert error == ""
    assert {piece.planes[0].shape for piece in frames_of(pieces)} == {(48, 64), (64, 96)}


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_frames": 9}, "more than --max_frames 9"),
        ({"max_duration_s": 1.0}, "longer than --max_duration_s 1"),
        ({"max_pixels": 1000}, "--max_pixels 1000"),
    ],
)
def test_the_limits_of_files_hold(matroska, limits, reason):
    with limit_media(MediaLimits(**limits), lambda *_: None):
        pieces, error = read(matroska)
    assert reason in error
    assert len(frames_of(pieces)) <= 11


def test_a_clock_that_jumps_is_refused(tmp_path):
    pieces, error = read(encode(tmp_path / "clip.mkv", "matroska", second_s=9000.0))
    assert "its clock jumps from 1 s to 9000 s" in error
    assert len(frames_of(pieces)) == 10


def test_a_process_of_its_own_decodes_within_its_limits(matroska):
    limits = LimitConfig(max_frames=NUM_FRAMES - 1)
    with piped(matroska) as pipe:
        pieces = iterate_limited(iterate_pipe, pipe, 30.0, source=PIPE, limits=limits)
        assert isinstance(next(pieces), Rates)
        with pytest.raises(ClipError, match="--max_frames 19"):
            assert not [piece for piece in pieces if isinstance(piece, Heard)]
