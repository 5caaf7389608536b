"""Perturbations against the published definitions' numbers and against measurements of their effect."""

import dataclasses
import itertools
from fractions import Fraction

import cv2
import numpy as np
import pytest
import scipy.signal
from safetensors.numpy import load_file

from preprocess.clip.schedule import iterate_schedule
from preprocess.perturb import frame_changes as frames_of
from preprocess.perturb.__main__ import write_perturbed
from preprocess.perturb.frame_changes import FRAME_CHANGES
from preprocess.perturb.kinds import (
    DEEPER_FORENSICS,
    KINDS,
    PICTURE,
    PICTURE_KINDS,
    SOUND,
    Perturbation,
    ladder,
    num_levels,
    random_generator,
)
from preprocess.perturb.sound_changes import SOUND_CHANGES
from preprocess.perturb.variants import RobustnessConfig, change_of, write_h264
from tests.moving_face import clicks, moving_face, turn_by_metadata, write_video
from utils.errors import UsageError
from utils.media.picture import PictureConverter
from utils.media.sound import iterate_audio
from utils.media.sound_codecs import write_sound
from utils.media.times import read_video_times
from utils.media.video import iterate_frames
from utils.media.writer import VideoWriter

RATE_HZ = 48_000


def level_of(kind, image, level, rng=None):
    """A BGR image at a level, as the definitions have them."""
    changed = FRAME_CHANGES[kind](
        np.ascontiguousarray(image[..., ::-1]), KINDS[kind].values[level - 1], rng or np.random.default_rng(0)
    )
    return changed[..., ::-1].astype(int)


@pytest.fixture(scope="module")
def released(shared):
    path = shared / "fixtures" / "m2sd_released.safetensors"
    return {key: value for key, value in load_file(path).items() if key.startswith("perturb.")}


def test_levels_of_a_flat_colour():
    image = np.full((2, 2, 3), (200, 50, 100), np.uint8)
    faded = [(129, 69, 89), (117, 72, 87), (105, 75, 85), (93, 78, 83), (82, 82, 82)]
    darkened = [(170, 42, 85), (145, 36, 72), (120, 30, 60), (95, 23, 47), (70, 17, 35)]
    for level in range(1, 6):
        assert np.abs(level_of("saturation", image, level) - faded[level - 1]).max() <= 1
        assert (level_of("contrast", image, level) == darkened[level - 1]).all()


def test_blur_of_a_step():
    image = np.zeros((65, 65, 3), np.uint8)
    image[:, 32:] = 255
    expected = [
        (3, 23, 84, 171, 232, 252, 255),
        (11, 39, 94, 161, 216, 244, 253),
        (31, 62, 104, 151, 193, 224, 242),
        (48, 76, 110, 145, 179, 207, 228),
        (60, 85, 113, 142, 170, 195, 215),
    ]
    for level in range(1, 6):
        assert np.abs(level_of("blur", image, level)[32, 29:36, 0] - expected[level - 1]).max() <= 1


def test_pixelation_of_a_ramp():
    image = np.tile((10 * np.arange(24, dtype=np.uint8))[None, :, None], (24, 1, 3))
    starts = [(5, 10, 20, 30), (10, 10, 20, 30), (15, 15, 20, 30), (25, 25, 25, 30), (25, 25, 25, 30)]
    ends = [225, 220, 215, 205, 205]
    for level in range(1, 6):
        row = level_of("pixelation", image, level)[12, :, 0]
        assert row[:4].tolist() == list(starts[level - 1])
        assert row[-1] == ends[level - 1]


def test_deviation_of_the_noise_on_grey():
    image = np.full((512, 512, 3), 128, np.uint8)
    expected = [
        (18.8, 11.9, 15.9),
        (26.6, 16.8, 22.5),
        (42.0, 26.6, 35.6),
        (57.7, 37.5, 49.8),
        (93.1, 74.3, 87.1),
    ]
    for level in range(1, 6):
        measured = level_of("noise", image, level, random_generator("clip", "noise", level)).std(axis=(0, 1))
        np.testing.assert_allclose(measured, expected[level - 1], rtol=0.01)


@pytest.mark.parametrize(
    ("height", "width", "counts"),
    [
        (480, 640, (16, 32, 48, 64, 80)),
        (720, 1280, (32, 64, 96, 128, 160)),
        (1080, 1920, (64, 128, 192, 256, 320)),
        (224, 224, (0, 0, 0, 0, 0)),
    ],
)
def test_number_of_blocks(height, width, counts):
    measured = tuple(frames_of.num_blocks(height, width, value) for value in KINDS["block"].values)
    assert measured == counts


def test_blocks_stay_inside_and_move_in_every_frame():
    image = np.full((300, 256, 3), 5, np.uint8)
    rng = np.random.default_rng(0)
    first, second = (FRAME_CHANGES["block"](image, 80, rng) for _ in range(2))
    assert set(np.unique(first)) == {5, 128}
    assert (first != second).any()
    assert (image == 5).all()  # never in place
    seen = np.zeros((300, 256), bool)
    for _ in range(300):
        seen |= FRAME_CHANGES["block"](image, 80, rng)[..., 0] == 128
    assert seen.any(axis=1)[:-1].all()
    assert seen.any(axis=0)[:-1].all()
    assert not seen[-1].any()
    assert not seen[:, -1].any()


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("level", range(1, 6))
def test_released_definitions(released, name, level):
    image = released[f"perturb.{name}.image"]
    for code, kind in (("CS", "saturation"), ("CC", "contrast"), ("GB", "blur"), ("PX", "pixelation")):
        expected = released[f"perturb.{name}.{code}.{level}"].astype(int)
        assert np.abs(level_of(kind, image, level) - expected).max() <= 1, kind
    normal = released[f"perturb.{name}.noise"]
    noisy = frames_of.add_noise(
        np.ascontiguousarray(image[..., ::-1]), KINDS["noise"].values[level - 1], normal
    )
    expected = released[f"perturb.{name}.GNC.{level}"].astype(int)
    assert np.abs(noisy[..., ::-1].astype(int) - expected).max() <= 1


def test_released_blocks(released):
    corners, first_level = released["perturb.BW.xy"], released["perturb.BW.first_level"]
    for level in range(1, 6):
        drawn = frames_of.draw_blocks(np.zeros((*first_level.shape, 3), np.uint8), corners[: 16 * level])
        np.testing.assert_array_equal(
            drawn[..., 0] == 128, (first_level > 0) & (first_level <= level), strict=True
        )
    for (height, width), counts in zip(
        released["perturb.BW.frame_hw"], released["perturb.BW.count"], strict=True
    ):
        assert [frames_of.num_blocks(height, width, v) for v in KINDS["block"].values] == counts.tolist()


@pytest.mark.parametrize("kind", ["blur", "pixelation", "jpeg", "resolution", "noise"])
def test_error_grows_with_the_level(kind):
    image = next(moving_face(1))
    errors = [
        np.square(FRAME_CHANGES[kind](image, value, np.random.default_rng(0)).astype(float) - image).mean()
        for value in KINDS[kind].values
    ]
    assert errors[0] > 0
    assert (np.diff(errors) > 0).all()


# --- videos ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def voice():
    """Two seconds of something like speech: a buzz of changing loudness with a band of noise."""
    seconds = np.arange(2 * RATE_HZ) / RATE_HZ
    buzz = scipy.signal.sawtooth(2 * np.pi * (140 * seconds + 3 * np.sin(4 * seconds)))
    noise = np.random.default_rng(0).standard_normal(len(seconds))
    envelope = 0.2 + np.abs(np.sin(7 * seconds)) * (1 + np.sin(1.7 * seconds**2))
    return (0.1 * envelope * (buzz + 0.3 * noise)).astype(np.float32)


@pytest.fixture(scope="module")
def video(tmp_path_factory, voice):
    path = tmp_path_factory.mktemp("raw") / "clip.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(path, fps=Fraction(25), width=320, height=288) as writer:
        writer.add_audio_stream(RATE_HZ, bit_rate=128_000)
        for frame in moving_face(50, size=(320, 288), path=lambda i: (160 + i, 140)):
            grain = rng.integers(-12, 13, frame.shape)
            writer.write((frame + grain).clip(0, 255).astype(np.uint8))
        writer.write_audio(voice)
    return path


def sound_of(path):
    return np.concatenate([samples for _, samples in iterate_audio(path, RATE_HZ)])


def changed_frames(path, perturbation, scratch, count=6, name="clip"):
    times = read_video_times(path)
    frames = itertools.islice(iterate_schedule(path, times), count)
    change = change_of(perturbation, name).pictures
    return [frame.rgb() for frame in (change(frames, times.fps, scratch) if change else frames)]


@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_a_picture_kind_changes_the_picture_alone_and_repeats(video, tmp_path, kind):
    level = Perturbation(kind, 2)
    assert change_of(level, "clip").waveform is None
    plain = changed_frames(video, Perturbation(kind, 0), tmp_path)
    first, again = (changed_frames(video, level, tmp_path) for _ in range(2))
    assert len(first) == len(plain)
    for before, after, repeated in zip(plain, first, again, strict=True):
        assert after.shape == before.shape
        assert (after != before).any()
        np.testing.assert_array_equal(after, repeated)
    assert list(tmp_path.iterdir()) == []  # temporary files are gone


def test_chance_depends_on_clip_kind_and_level(video, tmp_path):
    drawn = [
        changed_frames(video, Perturbation(kind, level), tmp_path, 1, name)[0].tobytes()
        for kind, level, name in (("block", 1, "a"), ("block", 1, "b"), ("block", 2, "a"))
    ]
    assert len(set(drawn)) == 3
    assert random_generator("a", "noise", 1).random() != random_generator("a", "block", 1).random()


@pytest.mark.parametrize("kind", SOUND_CHANGES)
def test_a_sound_kind_changes_the_sound_alone_and_repeats(voice, kind):
    for perturbation in ladder(kind):
        change = change_of(perturbation, "clip")
        assert change.pictures is None
        first = change.waveform(voice.copy(), RATE_HZ)
        assert first.shape == voice.shape
        assert first.dtype == np.float32
        assert np.isfinite(first).all()
        assert np.abs(first).max() <= 1
        assert np.abs(first - voice).max() > 1e-3
        np.testing.assert_array_equal(change_of(perturbation, "clip").waveform(voice, RATE_HZ), first)


def test_level_0_changes_nothing(video):
    for kind in (*KINDS, "blur+white_noise"):
        change = change_of(Perturbation(kind, 0), "clip")
        assert (change.pictures, change.waveform, change.settings) == (None, None, {})


def test_picture_and_sound_together(voice):
    both = change_of(Perturbation("blur+white_noise", 3), "clip")
    alone = change_of(Perturbation("white_noise", 3), "clip")
    assert both.pictures is not None
    np.testing.assert_array_equal(both.waveform(voice, RATE_HZ), alone.waveform(voice, RATE_HZ))
    assert num_levels("blur+resampling") == 4


@pytest.mark.parametrize(
    ("kind", "level"),
    [("fog", 1), ("blur", 6), ("blur", -1), ("resampling", 5), ("blur+noise", 1), ("aac+mp3", 1), ("", 1)],
)
def test_what_is_no_perturbation(kind, level):
    with pytest.raises(UsageError):
        Perturbation(kind, level)


def test_flags_without_effect_are_errors(tmp_path):
    with pytest.raises(ValueError, match="cache_dir has no effect"):
        RobustnessConfig(cache_dir=tmp_path)
    with pytest.raises(ValueError, match="raw_root"):
        RobustnessConfig(robustness=True)


def test_bit_rate_of_the_h264_ladder_falls(video, tmp_path):
    sizes = []
    for perturbation in ladder("h264"):
        path = tmp_path / "out.mp4"
        times = read_video_times(video)
        count = write_h264(
            path, iterate_schedule(video, times), times.fps, int(perturbation.part(PICTURE)[1])
        )
        assert count == 50
        assert next(iterate_frames(path))[1].shape == (288, 320, 3)
        sizes.append(path.stat().st_size)
    assert (np.diff(sizes) < 0).all()
    assert sizes[-1] < 0.7 * sizes[0]


@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_reencoding_keeps_size_and_colour(tmp_path, size):
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[:] = (200, 60, 40)
    path, again = tmp_path / "a.mp4", tmp_path / "b.mp4"
    with VideoWriter(path, fps=Fraction(25), width=width, height=height, crf=4) as writer:
        for _ in range(5):
            writer.write(image)
    times = read_video_times(path)
    write_h264(again, iterate_schedule(path, times), times.fps, 10)
    frames = [frame for _, frame in iterate_frames(again)]
    assert len(frames) == 5
    assert np.abs(frames[2].astype(int) - image).max() <= 6


def test_a_picture_from_pixels_gives_them_back():
    from utils.media.picture import Picture

    image = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)
    picture = Picture.from_rgb(image, PictureConverter())
    assert (picture.width, picture.height) == (41, 30)
    np.testing.assert_array_equal(picture.rgb(), image)
    np.testing.assert_array_equal(picture.region(3, 5, 20, 29), image[5:29, 3:20])
    thumbnail = picture.thumbnail(20)
    assert thumbnail.shape == (15, 20, 3)
    assert abs(thumbnail.mean() - image.mean()) < 6


@pytest.mark.parametrize(("kind", "level"), [("blur", 3), ("h264", 5), ("white_noise", 5), ("block+gain", 2)])
def test_command_writes_the_whole_video(video, tmp_path, kind, level):
    write_perturbed(video, tmp_path / "out.mp4", Perturbation(kind, level))
    before, after = read_video_times(video), read_video_times(tmp_path / "out.mp4")
    assert (len(after.starts_s), after.fps) == (len(before.starts_s), before.fps)
    picture_error = np.mean(
        [
            np.abs(a.astype(int) - b).mean()
            for (_, a), (_, b) in zip(
                iterate_frames(video), iterate_frames(tmp_path / "out.mp4"), strict=True
            )
        ]
    )
    assert (picture_error > 1.5) == (Perturbation(kind, level).part(PICTURE) is not None)
    sounds = sound_of(video), sound_of(tmp_path / "out.mp4")
    length = min(map(len, sounds))
    heard = np.corrcoef(sounds[0][:length], sounds[1][:length])[0, 1]
    assert (heard > 0.99) == (kind != "white_noise")


@pytest.mark.parametrize("kind", ["turned", "wide pixels", "late sound"])
def test_command_keeps_the_displayed_picture_and_its_sound_in_step(tmp_path, kind):
    shown = list(moving_face(25, size=(160, 120), face_height=60, path=lambda i: (100, 60)))
    shown[13] = np.clip(shown[13].astype(int) + 90, 0, 255).astype(np.uint8)  # a flash with the click
    stored = {
        "turned": np.rot90,
        "wide pixels": lambda frame: cv2.resize(frame, (80, 120), interpolation=cv2.INTER_AREA),
    }.get(kind, np.asarray)
    late_s = 0.3 if kind == "late sound" else 0.0
    path = write_video(
        tmp_path / "video.mp4",
        map(np.ascontiguousarray, map(stored, shown)),
        waveform=clicks(1 - late_s, at_s=[13 / 25 - late_s]),
        sound_starts_s=late_s,
        sample_aspect=Fraction(2) if kind == "wide pixels" else None,
    )
    if kind == "turned":
        turn_by_metadata(path, 90)
    write_perturbed(path, tmp_path / "out.mp4", Perturbation("blur", 1))
    frames = np.stack([frame for _, frame in iterate_frames(tmp_path / "out.mp4")])
    assert frames.shape == (25, 120, 160, 3)
    expected = level_of("blur", shown[0][..., ::-1], 1)[..., ::-1]
    assert np.abs(frames[0].astype(int) - expected).mean() < 5
    assert frames.mean(axis=(1, 2, 3)).argmax() == 13
    start_s, _ = next(iter(iterate_audio(tmp_path / "out.mp4", RATE_HZ)))
    heard = sound_of(tmp_path / "out.mp4")
    click_s = start_s + np.flatnonzero(np.abs(heard) > 0.3)[0] / RATE_HZ
    assert click_s == pytest.approx(13 / 25, abs=0.005)


# --- sound -----------------------------------------------------------------------------------------------


def perturbed(kind, voice, level):
    return change_of(Perturbation(kind, level), "clip").waveform(voice, RATE_HZ).astype(np.float64)


@pytest.mark.parametrize("kind", ["white_noise", "speech_noise"])
@pytest.mark.parametrize("level", range(1, 6))
def test_measured_snr(voice, kind, level):
    noisy = perturbed(kind, voice, level)
    # sound and noise may have been lowered together: the noise of that level's chance tells by how much
    drawn = change_of(Perturbation(kind, level), "clip").waveform(voice / 8, RATE_HZ).astype(np.float64)
    share = np.std(noisy) / np.std(drawn) / 8
    noise = noisy - share * voice
    snr_db = 10 * np.log10(np.mean((share * voice) ** 2) / np.mean(noise**2))
    assert snr_db == pytest.approx(KINDS[kind].values[level - 1], abs=0.2)


def test_spectra_of_the_noises(voice):
    spectra = {}
    for kind in ("white_noise", "speech_noise"):
        noise = perturbed(kind, voice, 3) - voice
        spectra[kind] = scipy.signal.welch(noise, RATE_HZ, nperseg=1024)[1]
    own = scipy.signal.welch(voice.astype(np.float64), RATE_HZ, nperseg=1024)[1]
    flat = spectra["white_noise"][5:-5]
    assert flat.max() / flat.min() < 5
    assert np.corrcoef(np.log(own[5:-5]), np.log(spectra["speech_noise"][5:-5]))[0, 1] > 0.9


@pytest.mark.parametrize("level", range(1, 5))
def test_resampling_leaves_nothing_above_half_the_rate(voice, level):
    half_hz = KINDS["resampling"].values[level - 1] / 2
    frequency, power = scipy.signal.welch(perturbed("resampling", voice, level), RATE_HZ, nperseg=4096)
    _, before = scipy.signal.welch(voice.astype(np.float64), RATE_HZ, nperseg=4096)
    above, below = frequency > 1.05 * half_hz, (frequency > 60) & (frequency < 0.85 * half_hz)
    assert power[above].sum() < 1e-5 * before[above].sum()
    np.testing.assert_allclose(power[below], before[below], rtol=0.05)


@pytest.mark.parametrize(("kind", "codec"), [("aac", "aac"), ("mp3", "libmp3lame"), ("opus", "libopus")])
def test_codecs_spend_their_bits_and_keep_time(voice, tmp_path, kind, codec):
    long_voice = np.tile(voice, 3)
    rates = []
    for kbit_s in KINDS[kind].values:
        write_sound(tmp_path / "sound", long_voice, RATE_HZ, codec, 1000 * int(kbit_s))
        rates.append((tmp_path / "sound").stat().st_size * 8 / 1000 / (len(long_voice) / RATE_HZ))
    assert (np.diff(rates) < 0).all()
    np.testing.assert_allclose(rates, KINDS[kind].values, rtol=0.35)
    for level in (1, 5):
        after = perturbed(kind, voice, level)
        match = scipy.signal.correlate(after, voice, method="fft")
        assert abs(np.argmax(match) - (len(voice) - 1)) <= 0.001 * RATE_HZ
        assert np.corrcoef(after, voice)[0, 1] > (0.95 if level == 1 else 0.5)


@pytest.mark.parametrize("level", [1, 3, 5])
def test_reverberation_falls_by_60_db_in_its_time(level):
    click = np.zeros(2 * RATE_HZ, np.float32)
    click[1000] = 0.5
    wet = perturbed("reverberation", click, level)
    assert np.argmax(np.abs(wet)) == 1000
    assert np.mean(wet**2) == pytest.approx(np.mean(click.astype(float) ** 2), rel=1e-3)
    echo = wet[1001:]
    left_db = 10 * np.log10(np.cumsum(echo[::-1] ** 2)[::-1] / np.sum(echo**2) + 1e-12)
    at_5, at_35 = (np.argmax(left_db < -drop) for drop in (5, 35))
    assert (at_35 - at_5) * 2 / RATE_HZ == pytest.approx(KINDS["reverberation"].values[level - 1], rel=0.1)


@pytest.mark.parametrize("kind", ["pitch_up", "pitch_down"])
@pytest.mark.parametrize("level", [1, 3, 5])
def test_pitch_moves_and_speed_stays(kind, level):
    seconds = np.arange(2 * RATE_HZ) / RATE_HZ
    tone = (0.3 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    tone[RATE_HZ:] = 0  # when it ends tells the speed
    shifted = perturbed(kind, tone, level)
    spectrum = np.abs(np.fft.rfft(shifted * np.hanning(len(shifted))))
    measured_hz = np.argmax(spectrum) * RATE_HZ / len(shifted)
    semitones = 12 * np.log2(measured_hz / 440)
    assert semitones == pytest.approx(KINDS[kind].values[level - 1], abs=0.05)
    loud = np.flatnonzero(np.abs(shifted) > 0.1)
    assert loud[-1] / RATE_HZ == pytest.approx(1.0, abs=0.04)
    assert np.abs(shifted[loud]).max() == pytest.approx(0.3, abs=0.06)


def test_gain_and_clipping(voice):
    for level, gain_db in enumerate(KINDS["gain"].values, 1):
        ratio = np.std(perturbed("gain", voice, level)) / np.std(voice)
        assert 20 * np.log10(ratio) == pytest.approx(gain_db, abs=0.01)
    for level, share in enumerate(KINDS["clipping"].values, 1):
        after = perturbed("clipping", voice, level)
        limit = np.abs(after).max()
        assert np.mean(np.abs(after) >= limit * (1 - 1e-6)) == pytest.approx(share, rel=0.02)
        inside = np.abs(voice) < limit
        np.testing.assert_array_equal(after[inside], voice[inside])


@pytest.mark.parametrize("level", range(1, 6))
def test_measured_av_offset(voice, level):
    after = perturbed("av_offset", voice, level)
    lag = np.argmax(scipy.signal.correlate(after, voice, method="fft")) - (len(voice) - 1)
    assert lag / RATE_HZ == pytest.approx(KINDS["av_offset"].values[level - 1], abs=1e-4)
    assert np.abs(after[:480]).max() > 0  # no silence in front


def test_silence_survives_every_sound_kind():
    silence = np.zeros(RATE_HZ, np.float32)
    for kind in SOUND_CHANGES:
        after = perturbed(kind, silence, num_levels(kind))
        assert np.abs(after).max() < 1e-3, kind


def test_the_table_is_complete():
    assert set(PICTURE_KINDS) == set(FRAME_CHANGES) | {"h264"}
    assert {name for name, kind in KINDS.items() if kind.modality != PICTURE} == set(SOUND_CHANGES)
    assert len(DEEPER_FORENSICS) == 7
    assert all(len(KINDS[name].values) == 5 for name in DEEPER_FORENSICS)
    assert KINDS["white_noise"].modality == SOUND
    assert dataclasses.asdict(KINDS["h264"])["values"] == (30, 32, 35, 38, 40)
