"""Files as players show them: every frame in its order, at its time, the right way up, in its colours."""

import shutil
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.numbered_video import (
    FPS,
    NOT_CODED,
    TURNED,
    copy_from,
    damage,
    numbered_frame,
    read_number,
    write_chunks,
    write_numbered,
    write_packed,
)
from utils.errors import ClipError
from utils.media.times import read_video_times
from utils.media.video import iterate_frames, iterate_pictures

X264 = {"preset": "veryfast", "crf": "12"}
B_FRAMES = X264 | {"bf": "2", "g": "12"}
MPEG4 = {"qscale": "2"}
FILES = {
    "mp4": {"container": "mp4", "options": X264},
    "mp4, B-frames": {"container": "mp4", "options": B_FRAMES},
    "mp4, starts late": {"container": "mp4", "options": B_FRAMES, "start_s": 1.3},
    "mp4, fragmented": {
        "container": "mp4",
        "options": B_FRAMES,
        "container_options": {"movflags": "frag_keyframe+empty_moov"},
    },
    "mp4, mpeg4": {"container": "mp4", "codec": "mpeg4", "options": MPEG4 | {"bf": "2"}},
    "mp4, hevc": {
        "container": "mp4",
        "codec": "libx265",
        "options": {"preset": "ultrafast", "crf": "12", "x265-params": "log-level=none:pools=none:bframes=2"},
    },
    "mp4, hevc 10 bit": {
        "container": "mp4",
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": {"preset": "ultrafast", "crf": "12", "x265-params": "log-level=none:pools=none"},
    },
    "mp4, grey": {"container": "mp4", "pix_fmt": "gray", "options": X264},
    "mp4, interlaced": {"container": "mp4", "options": X264 | {"x264-params": "interlaced=1:tff=1"}},
    "mp4, wide pixels": {"container": "mp4", "options": X264, "sample_aspect": 2},
    "mkv, rgb": {"container": "matroska", "codec": "libx264rgb", "pix_fmt": "rgb24", "options": X264},
    "mp4, av1": {"container": "mp4", "codec": "libsvtav1", "options": {"preset": "12", "crf": "15"}},
    "mov, prores": {"container": "mov", "codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "mov, mjpeg": {"container": "mov", "codec": "mjpeg", "pix_fmt": "yuvj420p", "options": MPEG4},
    "3gp": {"container": "3gp", "codec": "mpeg4", "options": MPEG4},
    "mkv": {"container": "matroska", "options": B_FRAMES},
    "mkv, a later clock": {"container": "matroska", "options": B_FRAMES, "start_s": 20_000.0},
    "mkv, mpeg2": {"container": "matroska", "codec": "mpeg2video", "options": MPEG4 | {"bf": "2"}},
    "webm, vp8": {"container": "webm", "codec": "libvpx", "options": {"b": "2M", "deadline": "realtime"}},
    "webm, vp9": {
        "container": "webm",
        "codec": "libvpx-vp9",
        "options": {"b": "2M", "deadline": "realtime", "cpu-used": "8"},
    },
    "webm, a stream": {
        "container": "webm",
        "codec": "libvpx",
        "options": {"b": "2M", "deadline": "realtime"},
        "container_options": {"live": "1"},
    },
    "avi, mjpeg": {"container": "avi", "codec": "mjpeg", "pix_fmt": "yuvj420p", "options": MPEG4},
    "avi, mpeg4": {"container": "avi", "codec": "mpeg4", "options": MPEG4},
    "avi, mpeg4 B-frames": {"container": "avi", "codec": "mpeg4", "options": MPEG4 | {"bf": "2"}},
    "avi, packed B-frames": {},
    "avi, h264 B-frames": {"container": "avi", "options": B_FRAMES},
    "avi, msmpeg4": {"container": "avi", "codec": "msmpeg4v2", "options": MPEG4},
    "ts": {"container": "mpegts", "options": B_FRAMES},
    "ts, mpeg2": {"container": "mpegts", "codec": "mpeg2video", "options": MPEG4 | {"bf": "2"}},
    "m2ts": {
        "container": "mpegts",
        "options": B_FRAMES,
        "container_options": {"mpegts_m2ts_mode": "1"},
    },
    "mpg, mpeg1": {"container": "mpeg", "codec": "mpeg1video", "options": MPEG4 | {"bf": "2"}},
    "vob, mpeg2": {"container": "vob", "codec": "mpeg2video", "options": MPEG4},
    **{f"mp4, {name}": {"container": "mp4", "options": X264, "matrix": m} for name, m in TURNED.items()},
    "mov, 90, B-frames": {"container": "mov", "options": B_FRAMES, "matrix": TURNED["90"]},
}


STORED = {  # the picture that a file's matrix turns into an upright one
    "90": lambda image: np.rot90(image, 1),
    "180": lambda image: image[::-1, ::-1],
    "270": lambda image: np.rot90(image, -1),
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "90 mirrored": lambda image: image.transpose(1, 0, 2),
    "270 mirrored": lambda image: image[::-1, ::-1].transpose(1, 0, 2),
}


def write(path, name):
    if name == "avi, packed B-frames":
        return write_packed(path)
    options = FILES[name]
    stored = next((STORED[turn] for turn, m in TURNED.items() if m == options.get("matrix")), np.asarray)
    step = options.get("sample_aspect", 1)
    return write_numbered(path, images=[stored(displayed(name, n))[:, ::step] for n in range(40)], **options)


def displayed(name, number):
    """The picture that a player shows, before any deinterlacing."""
    image = numbered_frame(number)
    if name == "mp4, grey":
        image[:] = (image @ [0.299, 0.587, 0.114]).round()[..., None]
    if name == "mp4, interlaced":  # every other line is half a frame later
        image[1::2] = numbered_frame(min(number + 1, 39))[1::2]
    return image


@pytest.mark.parametrize("name", FILES)
def test_frames_have_their_order_times_and_colours(name, tmp_path):
    path = write(tmp_path / "clip", name)
    times = read_video_times(path)
    pictures = list(iterate_pictures(path))
    assert len(times.starts_s) == len(pictures) == 40
    assert times.fps == FPS
    assert times.constant
    seconds = np.array([time_s for time_s, _ in pictures])
    np.testing.assert_allclose(seconds - seconds[0], np.arange(40) / FPS, atol=0.002)
    np.testing.assert_allclose(seconds, times.starts_s, atol=1e-5)
    assert {picture.interlaced for _, picture in pictures} == {name == "mp4, interlaced"}
    regions = [picture.region(8, 8, 120, 88) for _, picture in pictures]
    images = [picture.rgb() for _, picture in pictures]
    first_lines = [image[::2].repeat(2, axis=0) for image in images]
    assert [read_number(image) for image in first_lines] == list(range(40))
    for number in (0, 17, 39):
        expected = displayed(name, number)
        patch = images[number][14:34, 14:50].mean(axis=(0, 1))
        assert np.abs(patch - expected[14:34, 14:50].mean(axis=(0, 1))).max() < 5, patch
        assert np.abs(images[number].astype(int) - expected).mean() < 5
        assert np.abs(regions[number].astype(int) - images[number][8:88, 8:120]).mean() < 2


@pytest.mark.parametrize("name", sorted(set(FILES) - {"mp4, wide pixels"}))  # ffmpeg writes stored pixels
def test_frames_are_those_of_ffmpegs_program(name, tmp_path):
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("there is no ffmpeg program to compare with (apt-get install ffmpeg)")
    path = write(tmp_path / "clip", name)
    command = [
        program,
        "-v",
        "error",
        "-i",
        path,
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-fps_mode",
        "passthrough",
    ]
    pictures = subprocess.run([*command, "-"], capture_output=True, check=True).stdout
    expected = np.frombuffer(pictures, np.uint8).reshape(-1, 96, 128, 3).astype(int)
    shown = np.stack([image for _, image in iterate_frames(path)]).astype(int)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean(axis=(1, 2, 3)).max() < 3


def test_a_region_of_a_mirrored_picture_is_that_of_the_whole_one(tmp_path):
    for name in ("mp4, mirrored", "mp4, 90 mirrored", "mp4, 270", "mp4, upside down"):
        path = write(tmp_path / "clip", name)
        _, picture = next(iterate_pictures(path))
        region = picture.region(8, 16, 60, 72).astype(int)
        cut = picture.to_rgb(picture.cut(8, 16, 60, 72)).astype(int)
        thumbnail = picture.thumbnail(64)
        whole = picture.rgb().astype(int)
        assert np.abs(region - whole[16:72, 8:60]).mean() < 2, name
        assert np.abs(cut - whole[16:72, 8:60]).mean() < 2, name
        half = whole.reshape(whole.shape[0] // 2, 2, whole.shape[1] // 2, 2, 3).mean(axis=(1, 3))
        assert np.abs(thumbnail - half).mean() < 3, name


def test_frames_that_an_edit_list_hides_are_not_shown_and_not_missed(tmp_path):
    whole = write_numbered(
        tmp_path / "whole.mp4", container="mp4", options=X264 | {"g": "30", "bf": "2"}, count=60
    )
    path = copy_from(whole, tmp_path / "cut.mp4", 0.4)
    with av.open(str(path)) as container:
        hidden = sum(bool(packet.is_discard) for packet in container.demux(video=0))
    assert hidden > 5
    times = read_video_times(path)
    numbers = [read_number(image) for _, image in iterate_frames(path)]
    assert numbers == list(range(10, 60))
    assert len(times.starts_s) == 50


def test_a_cover_is_no_video_and_the_default_track_comes_first(tmp_path):
    plain = write_numbered(tmp_path / "plain.mp4", container="mp4", options=X264)
    cover = np.full((96, 128, 3), 40, np.uint8)
    picture = write_numbered(
        tmp_path / "cover.mp4", container="mp4", codec="mjpeg", pix_fmt="yuvj420p", images=[cover]
    )
    path = tmp_path / "both.mp4"
    with av.open(str(plain)) as video, av.open(str(picture)) as still, av.open(str(path), "w") as out:
        first = out.add_stream_from_template(still.streams.video[0])
        first.disposition = av.stream.Disposition.attached_pic
        second = out.add_stream_from_template(video.streams.video[0])
        for source, target in ((still, first), (video, second)):
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = target
                    out.mux(packet)
    assert [read_number(image) for _, image in iterate_frames(path)] == list(range(40))
    assert len(read_video_times(path).starts_s) == 40


def test_a_packet_of_noise_costs_its_frame_only(tmp_path):
    for container, codec in (("mp4", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx")):
        options = {"libx264": X264 | {"bf": "0"}, "libvpx": {"b": "2M"}}.get(codec, MPEG4) | {"g": "1"}
        path = write_numbered(tmp_path / "clip", container=container, codec=codec, options=options)
        damage(path, [20])
        shown = [(round(time_s * FPS), read_number(image)) for time_s, image in iterate_frames(path)]
        assert shown == [(number, number) for number in range(40) if number != 20], container


def test_a_chunk_that_says_that_nothing_changes_moves_no_other_frame(tmp_path):
    path = write_numbered(tmp_path / "clip.avi", container="avi", codec="mpeg4", options=MPEG4 | {"g": "1"})
    with av.open(str(path)) as source:
        chunks = [bytes(packet) for packet in source.demux(video=0) if packet.size]
    chunks[20] = NOT_CODED
    shown = [
        (round(time_s * FPS), read_number(image))
        for time_s, image in iterate_frames(write_chunks(path, chunks))
    ]
    assert shown == [(number, number) for number in range(40) if number != 20]


def test_what_the_decoder_patched_up_is_left_out_until_the_next_key_frame(tmp_path):
    path = write_numbered(
        tmp_path / "clip.mp4", container="mp4", options=X264 | {"bf": "0", "g": "20", "sc_threshold": "0"}
    )
    damage(path, [10], part=0.4, size=12)
    numbers = [read_number(image) for _, image in iterate_frames(path)]
    assert numbers[:10] == list(range(10))
    assert numbers[-20:] == list(range(20, 40))
    assert len(numbers) < 36


def test_a_matroska_file_that_ends_before_its_announced_end_is_cut_off(tmp_path):
    for container in ("matroska", "webm"):
        codec, options = ("libx264", X264) if container == "matroska" else ("libvpx", {"b": "2M"})
        path = write_numbered(
            tmp_path / "clip.mkv", container=container, codec=codec, options=options, count=60
        )
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(ClipError, match=r"cut off: .* of 2\.4 announced seconds"):
            read_video_times(path)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"container": "mp4", "options": X264, "container_options": {"movflags": "faststart"}}, 0.6),
        ({"container": "avi", "codec": "mjpeg", "pix_fmt": "yuvj420p", "options": MPEG4}, 0.5),
    ],
)
def test_a_file_with_fewer_frames_than_its_header_announces_is_cut_off(options, kept, tmp_path):
    path = write_numbered(tmp_path / "clip", **options)
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * kept)])
    with pytest.raises(ClipError, match=r"cut off: .* of 40 announced frames"):
        read_video_times(path)


def test_a_recording_that_broke_off_before_its_index_cannot_be_decoded(tmp_path):
    path = write_numbered(tmp_path / "clip.mp4", container="mp4", options=X264)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"moov") - 4])
    with pytest.raises(ClipError, match=r"cannot be decoded .*: cut off"):
        read_video_times(path)


def test_a_recording_that_begins_within_a_group_of_pictures_begins_at_its_first_key_frame(tmp_path):
    whole = write_numbered(
        tmp_path / "whole.ts",
        container="mpegts",
        options=X264 | {"g": "15", "bf": "2", "sc_threshold": "0"},
        count=60,
    )
    with av.open(str(whole)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    path = tmp_path / "cut.ts"
    path.write_bytes(whole.read_bytes()[places[7] // 188 * 188 :])
    times = read_video_times(path)
    shown = list(iterate_frames(path))
    assert read_number(shown[0][1]) == 15
    assert len(shown) == len(times.starts_s) == 45


def test_frames_of_another_size_are_scaled_to_the_first_ones(tmp_path):
    path = tmp_path / "call.webm"
    small = write_numbered(tmp_path / "a.ivf", container="ivf", codec="libvpx", options={"b": "2M"}, count=10)
    encoder = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
    encoder.time_base, encoder.options = Fraction(1, FPS), {"b": "2M"}
    with av.open(str(small)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
        packets = []
        for number in range(10, 20):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24").reformat(
                64, 48, "yuv420p"
            )
            frame.pts = number
            packets += encoder.encode(frame)
        for packet in [*packets, *encoder.encode(None)]:
            packet.stream, packet.time_base = stream, Fraction(1, FPS)
            out.mux(packet)
    shown = [image for _, image in iterate_frames(path)]
    assert {image.shape for image in shown} == {(96, 128, 3)}
    assert [read_number(image) for image in shown] == list(range(20))
