import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from preprocess.ffpp_audio import FfppAudioConfig, make_sounds
from tests.commands import run_command
from tests.trees.media import Media
from utils.errors import DatasetError, UsageError

ROOT = Path(__file__).resolve().parents[3]
RATE = 48_000
VIDEO = "-aB_c"  # ids may begin with "-"


def write_sequence(root, name, *, video=VIDEO, index=0, fps=29.97, frames=range(113, 173)):
    """What the official script downloads of a sequence."""
    table = root / "conversion_dict.json"
    known = json.loads(table.read_text()) if table.is_file() else {}
    root.mkdir(exist_ok=True)
    table.write_text(json.dumps(known | {name: f"{video} {index}"}))
    folder = root / "downloaded_videos_info" / video
    (folder / "extracted_sequences").mkdir(parents=True, exist_ok=True)
    (folder / f"{video}.json").write_text(json.dumps({"id": video, "fps": fps}))
    (folder / f"extracted_sequences/{index}.json").write_text(json.dumps(list(frames)))
    (root / "downloaded_videos").mkdir(exist_ok=True)


def write_source(path, *, seconds=10.0, rate=RATE, channels=1):
    """Noise: no two of its pieces are alike."""
    count = round(seconds * rate)
    samples = np.random.default_rng(0).integers(-9000, 9000, (count, channels), dtype=np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return samples[:, 0]


def missing_of(root):
    path = root / "sound/missing_sound.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row["sequence"]: row["reason"] for row in csv.DictReader(file)}


def make(root, **options):
    return make_sounds(FfppAudioConfig(source=root, num_workers=2, **options))


@pytest.mark.parametrize("place", ["{id}.wav", "{id}/{id}.wav"])
def test_the_cut_is_exact_to_the_sample(tmp_path, place):
    """29.97 frames a second, the second sequence of its video, not at its start."""
    write_sequence(tmp_path, "007", index=0, frames=range(0, 60))
    write_sequence(tmp_path, "008", index=1, frames=range(113, 173))
    source = write_source(tmp_path / "downloaded_videos" / place.format(id=VIDEO))
    assert make(tmp_path) == 0
    for name, (first, last) in {"007": (0, 59), "008": (113, 172)}.items():
        cut, rate = soundfile.read(tmp_path / f"sound/{name}.wav", dtype="int16")
        assert rate == RATE
        start, end = round(first / 29.97 * RATE), round((last + 1) / 29.97 * RATE)
        np.testing.assert_array_equal(cut, source[start:end])
    assert not (tmp_path / "sound/missing_sound.csv").exists()


def test_another_rate_is_resampled_in_place(tmp_path):
    write_sequence(tmp_path, "000", fps=25, frames=range(50, 100))
    path = tmp_path / f"downloaded_videos/{VIDEO}.wav"
    seconds = np.arange(441_000) / 44_100
    soundfile.write(path, np.stack([seconds / 10, seconds / 10], 1), 44_100, subtype="PCM_16")
    assert make(tmp_path) == 0
    cut, rate = soundfile.read(tmp_path / "sound/000.wav")
    assert (len(cut), rate) == (2 * RATE, RATE)
    np.testing.assert_allclose(cut, (2 + np.arange(len(cut)) / RATE) / 10, atol=2e-3)


def test_the_sound_of_a_downloaded_video_counts_from_its_first_frame(tmp_path):
    media = Media(seed=2)
    write_sequence(tmp_path, "000", fps=25.0, frames=range(5, 15))
    source = media.video(tmp_path / f"downloaded_videos/{VIDEO}.mp4", 0)
    assert make(tmp_path) == 0
    from utils.media.sound import iterate_audio

    track = np.concatenate([samples for _, samples in iterate_audio(source, RATE)])
    first_s = next(iterate_audio(source, RATE))[0]
    start = round(0.2 * RATE) - round(first_s * RATE)
    cut, _ = soundfile.read(tmp_path / "sound/000.wav")
    assert len(cut) == round(0.4 * RATE)
    np.testing.assert_allclose(cut, track[start : start + len(cut)], atol=1e-4)


def test_what_is_missing_is_listed_with_its_reason(tmp_path, caplog):
    for name in ("gone", "mute", "short", "torn", "nofps", "noindex", "broken", "holes"):
        number = f"{len(list((tmp_path / 'downloaded_videos_info').glob('*'))):03d}"
        write_sequence(tmp_path, number, video=name)
    info, downloads = tmp_path / "downloaded_videos_info", tmp_path / "downloaded_videos"
    Media(seed=1).video(downloads / "mute.mp4", 0, silent=True)
    write_source(downloads / "short.wav", seconds=4.0)  # of 3.77 to 5.77 s
    for name in ("torn", "nofps", "noindex", "holes"):
        write_source(downloads / f"{name}.wav")
    (downloads / "broken.m4a").write_bytes(b"no sound at all" * 100)
    (info / "torn/torn.json").write_text("{")
    (info / "nofps/nofps.json").write_text('{"fps": null}')
    (info / "noindex/extracted_sequences/0.json").unlink()
    (info / "holes/extracted_sequences/0.json").write_text("[1, 2, 4]")
    write_sequence(tmp_path, "900", video="fine")
    write_source(downloads / "fine.wav")
    assert make(tmp_path) == 1
    reasons = list(missing_of(tmp_path).values())
    for reason, words in zip(
        reasons,
        (
            "no sound or video file of gone",
            "mute.mp4: has no sound",
            "short.wav: lacks 1.77 of the 2.00 s",
            "torn.json: is not JSON",
            "no frame rate (fps is None)",
            "0.json: is missing",
            "cannot be decoded",
            "are not consecutive",
        ),
        strict=True,
    ):
        assert words in reason
    # nothing is made up: only the whole one has a file, and nothing half-written is left
    assert sorted(path.name for path in (tmp_path / "sound").iterdir()) == ["900.wav", "missing_sound.csv"]


def test_a_second_run_keeps_what_is_there_and_completes_the_rest(tmp_path):
    write_sequence(tmp_path, "000", video="first")
    write_sequence(tmp_path, "001", video="second")
    write_source(tmp_path / "downloaded_videos/first.wav")
    assert make(tmp_path) == 1
    made = tmp_path / "sound/000.wav"
    stamp = made.stat().st_mtime_ns
    write_source(tmp_path / "elsewhere/second.flac")
    assert make(tmp_path, downloads=tmp_path / "elsewhere") == 0
    assert made.stat().st_mtime_ns == stamp
    assert not missing_of(tmp_path)
    # --overwrite cuts again, and leaves no old file where the source is gone
    assert make(tmp_path, overwrite=True) == 1
    assert list(missing_of(tmp_path)) == ["001"]
    assert made.stat().st_mtime_ns > stamp
    assert not (tmp_path / "sound/001.wav").exists()


def test_a_silent_download_does_not_hide_the_sound_next_to_it(tmp_path):
    """Videos and sounds often come apart: the silent video must not end the search."""
    write_sequence(tmp_path, "000", fps=25.0, frames=range(5, 15))
    Media(seed=1).video(tmp_path / f"downloaded_videos/{VIDEO}.mp4", 0, silent=True)
    neighbour = tmp_path / f"downloaded_videos/{VIDEO}.wav"
    write_source(neighbour)
    neighbour.rename(neighbour.with_suffix(".mkv"))  # read by its content; looked at after the .mp4
    assert make(tmp_path) == 0


def test_wrong_folders_and_files_are_named(tmp_path):
    with pytest.raises(DatasetError, match="no such folder; --source"):
        make(tmp_path / "nowhere")
    with pytest.raises(
        DatasetError, match=r"conversion_dict.json: no such file; .* FaceForensics\+\+ repository"
    ):
        make(tmp_path)
    (tmp_path / "conversion_dict.json").write_text('{"000": "only-an-id"}')
    with pytest.raises(
        DatasetError, match="conversion_dict.json: is not a conversion_dict.json .*only-an-id"
    ):
        make(tmp_path)
    (tmp_path / "conversion_dict.json").write_text('{"000": "../up 0"}')
    with pytest.raises(DatasetError, match="not a YouTube id"):
        make(tmp_path)
    (tmp_path / "conversion_dict.json").write_text('{"000": "abc 0"}')
    with pytest.raises(DatasetError, match="downloaded_videos_info: no such folder; the official script"):
        make(tmp_path)
    (tmp_path / "downloaded_videos_info").mkdir()
    with pytest.raises(DatasetError, match="downloaded_videos: no such folder; it must hold"):
        make(tmp_path)
    with pytest.raises((UsageError, ValueError), match="sample_rate_hz"):
        make(tmp_path, sample_rate_hz=10)


@pytest.mark.slow
def test_prepare_gives_a_fake_its_targets_sound(tmp_path):
    """From the downloads to clip folders: original 071 and fake 071_054 have the same, exact sound."""
    raw, out = tmp_path / "raw", tmp_path / "prepared"
    media = Media(seed=3, duration_s=0.8)
    write_sequence(raw, "071", fps=25.0, index=1, frames=range(7, 27))
    source = write_source(raw / f"downloaded_videos/{VIDEO}.wav")
    media.video(raw / "original_sequences/youtube/c23/videos/071.mp4", 0, silent=True)
    fake = raw / "manipulated_sequences/Deepfakes/c23/videos/071_054.mp4"
    media.video(fake, 0, fake_video=True, silent=True)
    media.video(fake.with_name("054_071.mp4"), 1, fake_video=True, silent=True)  # its target has no sound

    def run(*command):
        return run_command("-m", *command)

    made = run("preprocess.ffpp_audio", "--source", raw)
    assert made.returncode == 0, made.stderr
    done = run(
        "preprocess.prepare", "--dataset", "ffpp", "--source", raw, "--output", out, "--num_workers", 1
    )
    assert done.returncode == 1, done.stderr
    expected = source[round(7 / 25 * RATE) : round(27 / 25 * RATE)]
    for name in (
        "original_sequences/youtube/c23/videos/071",
        "manipulated_sequences/Deepfakes/c23/videos/071_054",
    ):
        sound, rate = soundfile.read(out / name / "cropped_video.wav", dtype="int16")
        assert rate == RATE
        np.testing.assert_array_equal(sound, expected)
        info = json.loads((out / name / "clip.json").read_text())
        assert not info["silent"]
        assert info["sound_sha256"]
    failures = (out / "failures.csv").read_text()
    assert "054_071.mp4" in failures
    assert "has no sound" in failures
