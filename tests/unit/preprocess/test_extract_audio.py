"""The sound of a clip: where it begins, how long it is, which numbers it has."""

from __future__ import annotations

import resource
from fractions import Fraction

import numpy as np
import pytest
import soundfile

from preprocess.clip.sound import AudioConfig, WavWriter, extract_audio
from tests.moving_face import RATE_HZ, clicks, moving_face, write_video
from utils.errors import ClipError
from utils.media.times import VideoTimes, read_video_times

TWO_SECONDS = VideoTimes(starts_s=np.arange(50) / 25, fps=Fraction(25), constant=True)


def extract(source, target, **flags):
    report = extract_audio(source, target, read_video_times(source), AudioConfig(**flags))
    samples, rate = soundfile.read(target, dtype="int16")
    return report, samples, rate


def click_times(samples: np.ndarray, rate: int) -> list[float]:
    """Where the clicks begin, in s."""
    loud = np.flatnonzero(np.abs(samples) > 12_000)
    return [float(t) for t in loud[np.r_[True, np.diff(loud) > rate // 50]] / rate]


def video(tmp_path, seconds: float, **options):
    frames = moving_face(round(25 * seconds), size=(64, 48), face_height=20, path=lambda i: None)
    return write_video(tmp_path / "video.mp4", frames, **options)


@pytest.mark.parametrize("rate", [48_000, 16_000])
def test_clicks_stay_where_they_were(tmp_path, rate):
    source = video(tmp_path, 2, waveform=clicks(2, at_s=[0.25, 1.5]))
    report, samples, found_rate = extract(source, tmp_path / "out.wav", sample_rate_hz=rate)
    assert found_rate == rate
    assert len(samples) == 2 * rate
    assert click_times(samples, rate) == pytest.approx([0.25, 1.5], abs=0.002)
    assert not report.silent
    assert report.audio_padded_s < 0.03


def test_a_late_sound_is_placed_by_its_start_time(tmp_path):
    source = video(tmp_path, 2, waveform=clicks(1.8, at_s=[0.25]), sound_starts_s=0.2)
    report, samples, rate = extract(source, tmp_path / "out.wav")
    assert report.audio_start_s == pytest.approx(0.2, abs=0.025)
    assert click_times(samples, rate) == pytest.approx([0.45], abs=0.002)
    assert not samples[: int(0.17 * rate)].any()


def test_sound_before_the_first_frame_is_cut(tmp_path):
    source = video(tmp_path, 2, waveform=clicks(2, at_s=[0.5]))
    times = read_video_times(source)
    later = VideoTimes(starts_s=times.starts_s[5:], fps=times.fps, constant=True)  # 0.2 s
    report = extract_audio(source, tmp_path / "out.wav", later, AudioConfig())
    samples, rate = soundfile.read(tmp_path / "out.wav", dtype="int16")
    assert len(samples) == 45 * rate // 25
    assert click_times(samples, rate) == pytest.approx([0.3], abs=0.002)
    assert report.audio_start_s == pytest.approx(-0.2, abs=0.025)


def test_what_is_missing_at_the_end_is_silence_and_counted(tmp_path):
    source = video(tmp_path, 2, waveform=clicks(1.7, at_s=[1.6]))
    report, samples, rate = extract(source, tmp_path / "out.wav")
    assert len(samples) == 2 * rate
    assert report.audio_padded_s == pytest.approx(0.3, abs=0.03)
    assert not samples[-int(0.25 * rate) :].any()


def test_too_little_sound_is_refused_unless_allowed(tmp_path):
    source = video(tmp_path, 2, waveform=clicks(1.2))
    with pytest.raises(ClipError, match=r"ends 0\.\d+ s before it"):
        extract(source, tmp_path / "out.wav")
    report, samples, rate = extract(source, tmp_path / "out.wav", max_missing_audio_s=1.0)
    assert report.audio_padded_s == pytest.approx(0.8, abs=0.03)
    assert len(samples) == 2 * rate


def test_no_sound_track_is_refused_or_marked(tmp_path):
    source = video(tmp_path, 1)
    with pytest.raises(ClipError, match="has no sound"):
        extract(source, tmp_path / "out.wav")
    report, samples, rate = extract(source, tmp_path / "out.wav", allow_silent=True)
    assert report.silent
    assert len(samples) == rate
    assert not samples.any()


def test_pcm_at_the_same_rate_keeps_its_very_numbers(tmp_path):
    numbers = np.random.default_rng(1).integers(-32768, 32768, 48_000, dtype=np.int16)
    numbers[:2] = -32768, 32767
    soundfile.write(tmp_path / "in.wav", numbers, 48_000, subtype="PCM_16")
    times = VideoTimes(starts_s=np.arange(25) / 25, fps=Fraction(25), constant=True)
    extract_audio(tmp_path / "in.wav", tmp_path / "out.wav", times, AudioConfig())
    np.testing.assert_array_equal(soundfile.read(tmp_path / "out.wav", dtype="int16")[0], numbers)


@pytest.mark.parametrize(
    ("subtype", "kind"),
    [("PCM_U8", "WAV"), ("PCM_24", "WAV"), ("FLOAT", "WAV"), ("PCM_24", "WAVEX"), ("PCM_16", "RF64")]
    + [("PCM_16", "piped")],
)
def test_a_sound_of_its_own_may_be_a_wav_of_any_kind(tmp_path, subtype, kind):
    sound = tmp_path / "sound.wav"
    waveform = clicks(2, at_s=[0.25, 1.5])
    soundfile.write(sound, waveform, RATE_HZ, subtype=subtype, format="WAV" if kind == "piped" else kind)
    if kind == "piped":  # a tool that wrote into a pipe could not say how long it became
        data = bytearray(sound.read_bytes())
        assert data[36:40] == b"data"
        data[4:8] = data[40:44] = b"\xff" * 4
        sound.write_bytes(data)
    report = extract_audio(
        tmp_path / "video.mp4", tmp_path / "out.wav", TWO_SECONDS, AudioConfig(), sound=sound
    )
    samples, rate = soundfile.read(tmp_path / "out.wav", dtype="int16")
    assert click_times(samples, rate) == pytest.approx([0.25, 1.5], abs=0.002)
    np.testing.assert_allclose(samples / 32768, waveform, atol=1 / 128 if subtype == "PCM_U8" else 1 / 32768)
    assert not report.silent


@pytest.mark.parametrize(
    ("seconds", "reason"), [(0, "has no sound"), (1 / 3, "the sound .* ends 1.67 s before it")]
)
def test_a_sound_of_its_own_that_is_empty_or_too_short_is_refused(tmp_path, seconds, reason):
    soundfile.write(tmp_path / "sound.wav", clicks(seconds), RATE_HZ)
    with pytest.raises(ClipError, match=reason):
        extract_audio(
            tmp_path / "video.mp4",
            tmp_path / "out.wav",
            TWO_SECONDS,
            AudioConfig(),
            sound=tmp_path / "sound.wav",
        )


def test_a_wav_without_room_is_an_error_in_the_systems_words(tmp_path):
    """libsndfile says "System error" of a full disk, and would end a worker with a traceback."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            WavWriter(tmp_path / "a.wav", 16_000, 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
