"""What is refused before a decoder sees it (containers, codecs, sizes), and names that FFmpeg might read."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from preprocess.work.limits import LimitConfig
from tests.hostile_media import (
    claim_sample_rate,
    write_external_reference,
    write_growing,
    write_jpeg_bomb,
    write_png,
    write_small,
)
from tests.moving_face import clicks, moving_face, write_video
from utils.errors import ClipError
from utils.media.allowed import (
    MAX_STREAMS,
    PICTURE_CODECS,
    SOUND_CODECS,
    MediaLimits,
    limit_media,
    open_options,
)
from utils.media.container import open_container
from utils.media.sound import iterate_audio
from utils.media.times import read_video_times
from utils.media.video import iterate_frames


def ignore(num_frames: int, pixels: int, seconds: float) -> None:
    pass


def refusal(path: Path, **limits) -> str:
    """Why a video is not read; its frames are asked for if its times can be had."""
    with limit_media(MediaLimits(**limits), ignore), pytest.raises(ClipError) as caught:
        count_frames(path)
    return caught.value.reason


def count_frames(path: Path) -> int:
    read_video_times(path)
    return sum(1 for _ in iterate_frames(path))


@pytest.fixture
def server():
    """(port, list of connections): whoever calls is noted."""
    calls = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                calls.append(connection.recv(200))
                connection.close()

        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1], calls


def test_playlists_under_a_videos_name_lead_nowhere(tmp_path, monkeypatch, server):
    monkeypatch.chdir(tmp_path)
    port, calls = server
    write_small(tmp_path / "secret.mp4")
    texts = {
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
        "concat": "ffconcat version 1.0\nfile {}\n",
        "dash": '<MPD type="static"><Period><AdaptationSet><Representation><BaseURL>{}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n{}\n",
        "m3u": "{}\n",
    }
    for kind, text in texts.items():
        for target in ("secret.mp4", str(tmp_path / "secret.mp4"), f"http://127.0.0.1:{port}/x.mp4"):
            for name in ("video.mp4", "video.mkv", "video.avi"):
                path = tmp_path / kind / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text.format(target))
                assert "not a video" in refusal(path)
    assert "names other files" in refusal(tmp_path / "hls/video.mp4")
    # without this, PyAV opens what such a list names
    (tmp_path / "open.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with av.open("open.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    time.sleep(0.05)
    assert calls == []


@pytest.mark.parametrize("protocol", ["http", "tcp", "concat", "subfile", "data"])
def test_files_are_the_only_protocol_even_for_a_demuxer_that_follows_names(tmp_path, server, protocol):
    """The second line: the concat demuxer is never chosen, but see what it may do."""
    port, calls = server
    secret = write_small(tmp_path / "secret.mp4")
    target = {
        "http": f"http://127.0.0.1:{port}/x.mp4",
        "tcp": f"tcp://127.0.0.1:{port}",
        "concat": f"concat:{secret}|{secret}",
        "subfile": f"subfile,,start,0,end,{secret.stat().st_size},,:{secret}",
        "data": f"data:video/mp4;base64,{base64.b64encode(secret.read_bytes()).decode()}",
    }[protocol]
    names = tmp_path / "video.mp4"
    options = open_options("mov", "video")
    options["container_options"]["safe"] = "0"
    for text, fails in ((secret, False), (target, True)):
        names.write_text(f"ffconcat version 1.0\nfile '{text}'\n")
        with pytest.raises(av.FFmpegError) if fails else contextlib.nullcontext():
            av.open(f"file:{names}", format="concat", **options).close()
    time.sleep(0.05)
    assert calls == []


def test_samples_in_another_file_are_not_read(tmp_path):
    target = write_small(tmp_path / "secret.mp4")
    path = write_external_reference(tmp_path / "video.mp4", target)
    # the reference is one that FFmpeg would follow, if it were asked to
    with av.open(str(path), container_options={"enable_drefs": "1", "use_absolute_path": "1"}) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    assert "has no video frame" in refusal(path) or "cut off" in refusal(path)


@pytest.mark.parametrize(
    "name",
    [
        "-i.mp4", "%03d.mp4", "$(touch x).mp4", "a*?.mp4", "concat:a.mp4|b.mp4", "file:a.mp4", "http:x.mp4",
        "pipe:0.mp4", "data:video.mp4", "subfile,,start,0,end,9,,:a.mp4",
    ],
)  # fmt: skip
def test_a_name_is_only_a_name(tmp_path, monkeypatch, name):
    """Also where FFmpeg would take it for a protocol or a pattern."""
    monkeypatch.chdir(tmp_path)
    for number, other in enumerate(("a.mp4", "b.mp4", "001.mp4", "0.mp4", "x.mp4"), 6):
        write_small(tmp_path / other, num_frames=number)
    write_small(tmp_path / "made.mp4", num_frames=3).rename(name)
    before = sorted(path.name for path in tmp_path.iterdir())
    for path in (Path(name), tmp_path / name):
        assert len(read_video_times(path).starts_s) == count_frames(path) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with pytest.raises(ClipError, match="no such file"):
        count_frames(Path("concat:a.mp4|b.mp4|b.mp4"))


def test_codecs_that_are_on_no_list_are_not_decoded(tmp_path):
    raw = write_small(tmp_path / "raw.avi", codec="rawvideo", container="avi")
    assert "rawvideo" in refusal(raw)
    assert "png" in refusal(
        write_small(tmp_path / "png.mov", codec="png", container="mov", pixel_format="rgb24")
    )
    h264 = write_small(tmp_path / "stream.mp4", container="h264")  # no container at all
    assert "not a video" in refusal(h264)
    assert "a picture" in refusal(write_png(tmp_path / "picture.mp4"))
    # an allowed container is opened as what it is, whatever its name
    assert count_frames(write_small(tmp_path / "matroska.mp4", container="matroska")) == 5


def test_every_codec_on_the_list_is_a_decoder_of_this_ffmpeg():
    for name, kind in (*((n, "video") for n in PICTURE_CODECS), *((n, "audio") for n in SOUND_CODECS)):
        codec = av.Codec(name, "r")
        assert (codec.name, codec.type) == (name, kind)


@pytest.mark.parametrize("honest", [True, False])
def test_huge_pictures_are_refused_before_they_take_memory(tmp_path, honest):
    """A gigabyte each, if they were decoded; with the truth or a lie in the container's header. FFmpeg itself
    takes 16000x16000, but not 16384x16384.
    """
    for side in (16000, 16384, 65535):
        bomb = write_jpeg_bomb(tmp_path / "bomb.avi", side, side, honest_header=honest)
        assert bomb.stat().st_size < 100_000
        assert ("--max_pixels 40000000" if honest else "cannot be decoded") in refusal(bomb)
    bomb = write_jpeg_bomb(tmp_path / "bomb.avi", 16000, 16000, honest_header=honest)
    with pytest.raises(ClipError), open_container(bomb, "video") as (container, stream):
        next(container.decode(stream))


def test_pictures_that_grow_on_the_way_are_refused_by_the_decoder(tmp_path):
    growing = write_growing(tmp_path / "growing.avi", (64, 48), (640, 480))
    assert count_frames(growing) == 5
    assert "cannot be decoded" in refusal(growing, max_pixels=64 * 48)


def test_two_hours_in_4k_pass(tmp_path):
    video = write_small(tmp_path / "4k.mp4", size=(3840, 2160), num_frames=8, fps=Fraction(1, 900))
    times = read_video_times(video)
    assert float(len(times.starts_s) / times.fps) == 7200
    with limit_media(LimitConfig(), ignore):
        assert next(iterate_frames(video))[1].shape == (2160, 3840, 3)
    limits = LimitConfig()
    cpu_s = limits.cpu_s(2 * 3600 * 30, 3840 * 2160, 7200, 50_000_000_000)
    assert cpu_s > 2 * 3600 * 30 * 0.5  # half a second for each of its frames, which take 0.04


def test_what_is_too_long_or_has_too_many_frames_is_refused(tmp_path):
    video = write_small(tmp_path / "video.mp4", num_frames=50)
    assert "--max_frames 49" in refusal(video, max_frames=49)
    assert "--max_duration_s 1.9" in refusal(video, max_duration_s=1.9)
    assert "--max_pixels 3071" in refusal(video, max_pixels=64 * 48 - 1)
    for none in ("max_frames", "max_duration_s", "max_pixels"):
        with limit_media(MediaLimits(**{none: 0}), ignore):
            assert len(read_video_times(video).starts_s) == 50
    # frames are counted, not only announced: Matroska's header says nothing of them
    assert "--max_frames 49" in refusal(
        write_small(tmp_path / "video.mkv", container="matroska", num_frames=50), max_frames=49
    )


def test_frames_years_apart_do_not_make_years_of_sound(tmp_path):
    path = tmp_path / "years.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.codec_context.time_base = Fraction(1, 1000)
        for time_ms in (0, 40, 10**11):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert "--max_duration_s" in refusal(path)
    assert "frames per second" in refusal(path, max_duration_s=0)


def test_too_many_streams_are_refused(tmp_path):
    assert count_frames(write_small(tmp_path / "few.mkv", container="matroska", num_streams=MAX_STREAMS)) == 5
    assert f"more than {MAX_STREAMS} streams" in refusal(
        write_small(tmp_path / "many.mkv", container="matroska", num_streams=64)
    )


@pytest.mark.parametrize("rate_hz", [1, 1_000_000])
def test_absurd_sample_rates_are_refused(tmp_path, rate_hz):
    with pytest.raises(ClipError, match=f"{rate_hz} samples per second"):
        list(iterate_audio(claim_sample_rate(tmp_path / "sound.wav", rate_hz), 48_000))
    assert (
        sum(len(s) for _, s in iterate_audio(claim_sample_rate(tmp_path / "ok.wav", 48_000), 48_000)) == 4800
    )


def test_who_opens_a_file_for_its_sound_decodes_no_picture(tmp_path):
    path = write_video(tmp_path / "video.mp4", moving_face(10, size=(160, 120)), fps=25, waveform=clicks(0.4))
    known = {}
    for kind in ("video", "audio"):
        with open_container(path, kind) as (container, _):
            known[kind] = container.streams.video[0].codec_context.pix_fmt  # only its decoder can tell
    assert known == {"video": "yuv420p", "audio": None}


def test_the_decoders_themselves_know_the_lists(tmp_path):
    """FFmpeg decodes a little when it opens a file, before anybody can look at its streams."""
    png = write_small(tmp_path / "png.mov", codec="png", container="mov", pixel_format="rgb24")
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as log, open_container(png, "video") as (_, stream):
            require_codec_of = stream.codec_context.name
    finally:
        av.logging.set_level(level)
    assert require_codec_of == "png"
    assert any("not on whitelist" in text for _, _, text in log)
