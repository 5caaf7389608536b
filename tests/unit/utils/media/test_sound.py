"""Sound as a viewer hears it: the track that speaks, channels that do not cancel, packets that are lost."""

from fractions import Fraction

import av
import numpy as np
import pytest

from preprocess.clip.schedule import iterate_schedule
from preprocess.clip.sound import AudioConfig, extract_audio
from tests.numbered_video import FPS, TURNED, copy_from, damage, numbered_frame, write_numbered
from utils.clip.sound import read_waveform
from utils.errors import ClipError
from utils.media.sound import SoundReport, iterate_audio
from utils.media.times import read_video_times

RATE = 48_000
X264 = {"preset": "ultrafast"}
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(1.6 * RATE)) / RATE)).astype(np.float32)
MARKS_S = (0.4, 1.2)  # a flash and a tone begin together
HALF_A_FRAME_S = 0.02
B_FRAMES_LATE_S = 0.075  # in AVI: players show the first frame one or two late
MPEG4 = {"codec": "mpeg4", "options": {"qscale": "2", "bf": "2"}}
MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {"qscale": "2"}}
VP8 = {"codec": "libvpx", "options": {"b": "2M", "deadline": "realtime"}, "sound_codec": "libopus"}
IN_STEP = {  # name: (how it is written, how far apart they may be in s)
    "mp4, turned": ({"container": "mp4", "matrix": TURNED["90"]}, HALF_A_FRAME_S),
    "mp4, mirrored": ({"container": "mp4", "matrix": TURNED["mirrored"]}, HALF_A_FRAME_S),
    "mp4, fragmented": (  # its header comes before the AAC coder's delay of 1024 samples could be noted
        {"container": "mp4", "container_options": {"movflags": "frag_keyframe+empty_moov"}},
        HALF_A_FRAME_S + 0.005,
    ),
    "webm, a stream": ({"container": "webm", "container_options": {"live": "1"}} | VP8, HALF_A_FRAME_S),
    "mkv, opus": ({"container": "matroska", "sound_codec": "libopus"}, HALF_A_FRAME_S),
    "mkv, ac3 5.1": (
        {"container": "matroska", "sound_codec": "ac3", "layout": "5.1", "heard_in": [2]},
        HALF_A_FRAME_S,
    ),
    "mp4, left only": ({"container": "mp4", "layout": "stereo", "heard_in": [0]}, HALF_A_FRAME_S),
    "avi, mpeg4 B-frames, mp3": ({"container": "avi", "sound_codec": "mp3"} | MPEG4, B_FRAMES_LATE_S),
    "avi, h264 B-frames, mp3": (
        {"container": "avi", "sound_codec": "mp3", "options": X264 | {"bf": "2"}},
        B_FRAMES_LATE_S,
    ),
    "avi, 8 bit": (
        {"container": "avi", "sound_codec": "pcm_u8", "rate_hz": 22_050} | MJPEG,
        HALF_A_FRAME_S,
    ),
    "mov, 24 bit": ({"container": "mov", "sound_codec": "pcm_s24le"}, HALF_A_FRAME_S),
    "mov, float beyond full scale": (
        {"container": "mov", "sound_codec": "pcm_f32le", "loudness": 3},
        HALF_A_FRAME_S,
    ),
    "3gp, amr": (  # whose coder is some 30 ms late
        {"container": "3gp", "sound_codec": "libopencore_amrnb", "rate_hz": 8000},
        0.05,
    ),
}


def tones(rate_hz):
    """(N,) float32, 1.6 s with a tone of 60 ms at each mark."""
    sound = np.zeros(round(1.6 * rate_hz), np.float32)
    for mark_s in MARKS_S:
        place = slice(round(mark_s * rate_hz), round((mark_s + 0.06) * rate_hz))
        sound[place] = 0.6 * np.sin(2 * np.pi * 1000 * np.arange(place.stop - place.start) / rate_hz)
    return sound


def write_marked(path, *, layout="mono", heard_in=(0,), loudness=1, rate_hz=RATE, **keywords):
    """A video of 40 frames that are white at the marks, where its tones begin."""
    channels = np.zeros(({"mono": 1, "stereo": 2, "5.1": 6}[layout], round(1.6 * rate_hz)), np.float32)
    channels[list(heard_in)] = loudness * tones(rate_hz)
    white = [round(mark_s * FPS) for mark_s in MARKS_S]
    images = [
        numbered_frame(n) if n not in white else np.full((96, 128, 3), 255, np.uint8) for n in range(40)
    ]
    keywords = {"options": X264} | keywords
    return write_numbered(path, images=images, sounds=[channels], layout=layout, rate_hz=rate_hz, **keywords)


def begins_s(values, rate_hz):
    """When values rise above a third of the largest one, after 0.2 s below it."""
    loud = np.flatnonzero(values > values.max() / 3) / rate_hz
    return loud[np.diff(loud, prepend=-1) > 0.2]


def flashes_and_tones(path, folder):
    """(times of the flashes, times of the tones, waveform), as prepared."""
    times = read_video_times(path)
    light = [float(picture.thumbnail(32).mean()) for picture in iterate_schedule(path, times)]
    extract_audio(path, folder / "a.wav", times, AudioConfig())
    waveform = read_waveform(folder / "a.wav", RATE)
    flashes = begins_s(np.maximum(np.array(light) - 180, 0), FPS)
    return flashes, begins_s(np.abs(waveform), RATE), waveform


def heard(path, report=None):
    """(waveform at 48 kHz, time of its first sample)."""
    pieces = list(iterate_audio(path, RATE, report))
    return np.concatenate([samples for _, samples in pieces]), pieces[0][0]


def level(waveform):
    return float(np.sqrt(np.mean(np.square(waveform[4000:60_000]))))


def stereo(left, right):
    return np.stack([left, right])


@pytest.mark.parametrize(
    ("container", "codec", "layout", "channels", "share"),
    [
        ("mp4", "aac", "stereo", stereo(TONE, TONE), 1.0),
        ("mp4", "aac", "stereo", stereo(TONE, 0 * TONE), 0.5),  # a microphone on one side
        ("matroska", "flac", "stereo", stereo(TONE, -TONE), 1.0),  # cancel each other
        ("mov", "pcm_s16le", "stereo", stereo(0.9 * TONE, -TONE), 1.0),
        ("mpegts", "ac3", "5.1", np.stack([0 * TONE, 0 * TONE, TONE, 0 * TONE, 0 * TONE, 0 * TONE]), 1.0),
        ("mp4", "aac", "5.1", np.stack([TONE, TONE, 0 * TONE, 0 * TONE, 0 * TONE, 0 * TONE]), 1.0),
    ],
)
def test_a_voice_keeps_its_level(tmp_path, container, codec, layout, channels, share):
    path = write_numbered(
        tmp_path / "clip",
        container=container,
        options=X264,
        sounds=[channels],
        sound_codec=codec,
        layout=layout,
    )
    waveform, _ = heard(path)
    assert level(waveform) == pytest.approx(share * level(TONE), rel=0.08)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "flac"), ("mpegts", "mp2")])
def test_a_silent_track_never_wins_over_one_that_speaks(tmp_path, container, codec):
    for sounds in ([0 * TONE, TONE], [TONE, 0 * TONE]):
        path = write_numbered(
            tmp_path / "clip",
            container=container,
            options=X264,
            sounds=[sound[None] for sound in sounds],
            sound_codec=codec,
        )
        assert level(heard(path)[0]) == pytest.approx(level(TONE), rel=0.08)


def test_the_default_track_is_heard_and_a_commentary_is_not(tmp_path):
    source = write_numbered(
        tmp_path / "a.mkv",
        container="matroska",
        options=X264,
        sounds=[0.1 * TONE[None], TONE[None], 0.5 * TONE[None]],
        sound_codec="flac",
    )
    path = tmp_path / "b.mkv"
    marks = [av.stream.Disposition.comment, av.stream.Disposition(0), av.stream.Disposition.default]
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in given.streams}
        for stream, mark in zip(given.streams.audio, marks, strict=True):
            streams[stream.index].disposition = mark
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    assert level(heard(path)[0]) == pytest.approx(0.5 * level(TONE), rel=0.08)


def test_a_track_in_another_codec_does_not_cost_the_one_that_can_be_heard(tmp_path):
    path = write_numbered(
        tmp_path / "clip.mkv", container="matroska", options=X264, sounds=[TONE[None], TONE[None]]
    )
    data = path.read_bytes()
    place = data.rindex(b"A_AAC")  # of the second track, as a phone's spatial sound
    path.write_bytes(data[:place] + b"A_XYZ" + data[place + 5 :])
    assert level(heard(path)[0]) == pytest.approx(level(TONE), rel=0.08)
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    with pytest.raises(ClipError, match="its sound is in"):
        heard(path)


def test_sound_that_is_too_long_to_keep_is_decoded_again_to_the_same_samples(tmp_path, monkeypatch):
    sound = stereo(TONE, 0.5 * TONE)
    path = write_numbered(
        tmp_path / "clip.mp4", container="mp4", options=X264, sounds=[sound], layout="stereo"
    )
    kept, _ = heard(path)
    monkeypatch.setattr("utils.media.sound.KEPT_BYTES", 10_000)
    again, _ = heard(path)
    np.testing.assert_array_equal(kept, again)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "libopus"), ("avi", "mp3")])
def test_a_packet_of_noise_is_a_silent_patch_and_nothing_moves(tmp_path, container, codec):
    beep = np.zeros(round(8 * RATE), np.float32)
    beep[round(7.0 * RATE) : round(7.1 * RATE)] = 0.5 * np.sin(
        np.arange(round(7.1 * RATE) - round(7.0 * RATE))
    )
    path = write_numbered(
        tmp_path / "clip", container=container, options=X264, sounds=[beep[None]], sound_codec=codec
    )
    before, _ = heard(path)
    with av.open(str(path)) as file:
        num_packets = sum(packet.size > 0 for packet in file.demux(audio=0))
    damage(path, [num_packets // 4], kind="audio")
    report = SoundReport()
    after, _ = heard(path, report)
    loud_before, loud_after = (np.flatnonzero(np.abs(sound) > 0.2) for sound in (before, after))
    assert abs(int(loud_before[0]) - int(loud_after[0])) < 0.002 * RATE
    assert abs(len(before) - len(after)) < 0.002 * RATE
    for start, end in report.lost_s:
        assert 1.8 < start < end < 2.3


def test_much_undecodable_sound_is_an_error_that_says_where(tmp_path):
    path = write_numbered(tmp_path / "clip.mp4", container="mp4", options=X264, sounds=[TONE[None]])
    damage(path, range(20, 50), kind="audio")
    with pytest.raises(ClipError, match=r"damaged: \d+ of \d+ packets cannot be decoded"):
        heard(path)


@pytest.mark.parametrize("channels", [0 * TONE[None], stereo(0 * TONE, 0 * TONE)])
def test_digital_silence_is_no_sound(tmp_path, channels):
    layout = "mono" if len(channels) == 1 else "stereo"
    path = write_numbered(
        tmp_path / "clip.mov",
        container="mov",
        options=X264,
        sounds=[channels],
        sound_codec="pcm_s16le",
        layout=layout,
    )
    times = read_video_times(path)
    with pytest.raises(ClipError, match="its sound is digital silence; --allow_silent"):
        extract_audio(path, tmp_path / "a.wav", times, AudioConfig())
    report = extract_audio(path, tmp_path / "a.wav", times, AudioConfig(allow_silent=True))
    assert (report.silent, report.silent_reason) == (True, "digital silence")
    mute = write_numbered(tmp_path / "mute.mp4", container="mp4", options=X264)
    report = extract_audio(mute, tmp_path / "b.wav", read_video_times(mute), AudioConfig(allow_silent=True))
    assert (report.silent, report.silent_reason) == (True, "no sound track")


def test_noise_below_one_step_of_16_bit_is_silence_and_one_above_is_not(tmp_path):
    rng = np.random.default_rng(0)
    for amplitude, silent in ((0.4, True), (4.0, False)):
        noise = (amplitude / 32768 * rng.uniform(-1, 1, len(TONE))).astype(np.float32)
        path = write_numbered(
            tmp_path / "clip.mov",
            container="mov",
            options=X264,
            sounds=[noise[None]],
            sound_codec="pcm_f32le",
        )
        report = extract_audio(
            path, tmp_path / "a.wav", read_video_times(path), AudioConfig(allow_silent=True)
        )
        assert report.silent is silent
        assert Fraction(len(TONE), RATE) == Fraction(8, 5)


@pytest.mark.parametrize("name", IN_STEP)
def test_a_flash_and_a_tone_stay_together(name, tmp_path):
    keywords, allowed_s = IN_STEP[name]
    path = write_marked(tmp_path / "clip", **keywords)
    flashes, heard_s, waveform = flashes_and_tones(path, tmp_path)
    np.testing.assert_allclose(flashes, MARKS_S, atol=1e-6)
    np.testing.assert_allclose(heard_s, flashes, atol=allowed_s)
    assert 0.2 < np.abs(waveform).max() <= 1


def test_a_flash_and_a_tone_stay_together_in_a_cut_and_after_damage(tmp_path):
    options = X264 | {"g": "30", "bf": "2", "sc_threshold": "0"}
    whole = write_marked(tmp_path / "whole.mp4", container="mp4", options=options)
    flashes, heard_s, _ = flashes_and_tones(copy_from(whole, tmp_path / "cut.mp4", 0.2), tmp_path)
    np.testing.assert_allclose(flashes, np.array(MARKS_S) - 0.2, atol=1e-6)
    np.testing.assert_allclose(heard_s, flashes, atol=HALF_A_FRAME_S)
    damaged = write_marked(tmp_path / "damaged.mp4", container="mp4", options=X264 | {"g": "1"})
    damage(damaged, [20])
    flashes, heard_s, _ = flashes_and_tones(damaged, tmp_path)
    np.testing.assert_allclose(flashes, MARKS_S, atol=1e-6)
    np.testing.assert_allclose(heard_s, flashes, atol=HALF_A_FRAME_S)


def test_samples_beyond_full_scale_are_clipped_and_not_wrapped_around(tmp_path):
    path = write_marked(tmp_path / "a.mov", container="mov", sound_codec="pcm_f32le", loudness=3)
    _, _, waveform = flashes_and_tones(path, tmp_path)
    np.testing.assert_allclose(waveform, np.clip(3 * tones(RATE), -1, 1), atol=2 / 32768)
