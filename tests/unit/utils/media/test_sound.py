"""Sound as a viewer hears it: the track that speaks, channels that do not cancel, packets that are lost."""

from fractions import Fraction

import av
import numpy as np
import pytest

from preprocess.clip.sound import AudioConfig, extract_audio
from tests.numbered_video import damage, write_numbered
from utils.errors import ClipError
from utils.media.sound import SoundReport, iterate_audio
from utils.media.times import read_video_times

RATE = 48_000
X264 = {"preset": "ultrafast"}
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(1.6 * RATE)) / RATE)).astype(np.float32)


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
