"""Real videos from VidTIMIT's frames: rate, order, pictures and sound, who is taken, what stops it."""

import dataclasses
import logging

import cv2
import numpy as np
import pytest
import soundfile

from preprocess.vidtimit import VidTimitConfig, find_sentences, frame_files, main, sentence_job
from preprocess.work.raw_layouts import read_raw_dataset
from utils.errors import ClipError, DatasetError
from utils.media.times import read_video_times
from utils.media.video import iterate_frames

NUM_FRAMES = 12


def picture(index):
    """Noise of its own brightness: shows order, and what a codec would wipe out."""
    noise = np.random.default_rng(index).integers(0, 40, (48, 64, 1))
    return np.repeat(noise + 15 * index, 3, axis=2).astype(np.uint8)


def write_subject(root, subject, sentences=("sa1",), *, ending=""):
    """<subject>/video/<sentence>/001 ... as JPEG, its wav, and a head rotation without sound."""
    for sentence in (*sentences, "head2"):
        folder = root / subject / "video" / sentence
        folder.mkdir(parents=True)
        for index in range(NUM_FRAMES):
            data = cv2.imencode(".jpg", picture(index), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            (folder / f"{index + 1:03d}{ending}").write_bytes(data.tobytes())
    (root / subject / "audio").mkdir()
    for sentence in sentences:
        tone = np.sin(np.arange(NUM_FRAMES * 640) / 9).astype(np.float32) / 3
        soundfile.write(root / subject / "audio" / f"{sentence}.wav", tone, 16_000, subtype="PCM_16")
    return root / subject


@pytest.fixture
def vidtimit(tmp_path):
    for subject in ("fadg0", "fram1", "mabw0"):
        write_subject(tmp_path / "VidTIMIT", subject, ("sa1", "si649"))
    return tmp_path / "VidTIMIT"


def build(config, tmp_path):
    """All jobs of a command, in this process."""
    results = []
    for index, job in enumerate(find_sentences(config).jobs):
        scratch = tmp_path / f"scratch{index}"
        scratch.mkdir(exist_ok=True)
        results.append(sentence_job(dataclasses.replace(job, scratch=scratch), config))
    return results


def test_frames_become_a_video_at_25_fps_in_order_and_without_loss(vidtimit, tmp_path):
    config = VidTimitConfig(source=vidtimit, output=tmp_path / "out", subjects=("fadg0",))
    assert build(config, tmp_path) == ["done", "done"]
    video = tmp_path / "out/real/fadg0/sa1.mp4"
    times = read_video_times(video)
    assert (times.fps, times.constant, len(times.starts_s)) == (25, True, NUM_FRAMES)
    for (_, frame), path in zip(
        iterate_frames(video), sorted((vidtimit / "fadg0/video/sa1").iterdir()), strict=True
    ):
        jpeg = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        assert np.abs(frame.astype(int) - jpeg).max() <= 3  # of 255: rounding between RGB and YUV
    assert video.with_suffix(".wav").read_bytes() == (vidtimit / "fadg0/audio/sa1.wav").read_bytes()


def test_prepare_finds_the_videos_with_their_sound(vidtimit, tmp_path):
    build(VidTimitConfig(source=vidtimit, output=tmp_path / "out"), tmp_path)
    raw = read_raw_dataset("deepfaketimit", tmp_path / "out")
    assert len(raw.videos) == 6
    assert {video: sound.stem for video, sound in raw.sounds.items()} == {v: v.stem for v in raw.videos}


def test_subjects_are_those_with_fakes_then_all(vidtimit, tmp_path):
    config = VidTimitConfig(source=vidtimit, output=tmp_path / "out")
    assert {job.name.split("/")[0] for job in find_sentences(config).jobs} == {"fadg0", "fram1", "mabw0"}
    (tmp_path / "out/lower_quality/fadg0").mkdir(parents=True)
    (tmp_path / "out/higher_quality/fram1").mkdir(parents=True)
    assert [job.name for job in find_sentences(config).jobs] == [
        "fadg0/sa1",
        "fadg0/si649",
        "fram1/sa1",
        "fram1/si649",
    ]
    (tmp_path / "out/lower_quality/mwbt0").mkdir()
    with pytest.raises(DatasetError, match="has no subject mwbt0; unpack"):
        find_sentences(config)


def test_head_rotations_are_left_out_and_counted(vidtimit, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        jobs = find_sentences(VidTimitConfig(source=vidtimit, output=tmp_path / "out")).jobs
    assert not any("head" in job.name for job in jobs)
    assert "6 sentences; 3 sequences without sound" in caplog.text


def test_finished_videos_stay_and_unfinished_are_made(vidtimit, tmp_path):
    config = VidTimitConfig(source=vidtimit, output=tmp_path / "out", subjects=("fram1",))
    build(config, tmp_path)
    kept = tmp_path / "out/real/fram1/sa1.mp4"
    before = kept.stat().st_mtime_ns
    (tmp_path / "out/real/fram1/si649.mp4").unlink()
    assert build(config, tmp_path) == ["already there", "done"]
    assert kept.stat().st_mtime_ns == before


def test_archives_with_a_folder_of_their_own_and_frames_with_an_ending(tmp_path):
    write_subject(tmp_path / "VidTIMIT/fadg0", "fadg0", ending=".jpg")
    (job,) = find_sentences(VidTimitConfig(source=tmp_path / "VidTIMIT", output=tmp_path / "out")).jobs
    assert len(frame_files(job.source)) == NUM_FRAMES


def test_more_than_999_frames_stay_in_order(tmp_path):
    for number in (*range(1, 1002),):
        (tmp_path / f"{number:03d}").touch()
    assert [int(path.name) for path in frame_files(tmp_path)] == list(range(1, 1002))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "005").unlink(), r"1 of 12 frames are missing, e\.g\. 005"),
        (lambda folder: (folder / "notes.txt").touch(), "notes.txt is not a frame"),
        (lambda folder: (folder / "005").write_bytes(b"no jpeg"), "is not a readable JPEG"),
        (lambda folder: (folder / "005").write_bytes(b""), "is not a readable JPEG"),
        (
            lambda folder: (folder / "005").write_bytes(
                cv2.imencode(".jpg", np.zeros((10, 20, 3), np.uint8))[1].tobytes()
            ),
            "is 20x10, the first frame 64x48",
        ),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "holds no frames"),
    ],
)
def test_a_damaged_sequence_is_named_and_leaves_no_video(vidtimit, tmp_path, damage, message):
    damage(vidtimit / "fadg0/video/sa1")
    config = VidTimitConfig(source=vidtimit, output=tmp_path / "out", subjects=("fadg0",))
    with pytest.raises(ClipError, match=message):
        build(config, tmp_path)
    assert not (tmp_path / "out/real/fadg0/sa1.mp4").exists()


def test_a_wrong_folder_is_named(tmp_path):
    (tmp_path / "fadg0").mkdir()
    with pytest.raises(DatasetError, match="expected VidTIMIT's <subject>/video, .* found fadg0"):
        find_sentences(VidTimitConfig(source=tmp_path, output=tmp_path / "out"))
    with pytest.raises(DatasetError, match="no such folder"):
        find_sentences(VidTimitConfig(source=tmp_path / "nowhere", output=tmp_path / "out"))


def test_the_command_lists_failures_and_ends_with_1(vidtimit, tmp_path, monkeypatch):
    (vidtimit / "fram1/video/sa1/003").unlink()
    flags = ["--source", vidtimit, "--output", tmp_path / "out", "--num_workers", "1"]
    monkeypatch.setattr("sys.argv", ["vidtimit", *map(str, flags)])
    assert main() == 1
    failures = (tmp_path / "out/real/failures.csv").read_text()
    assert failures.splitlines()[1:] == ['fram1/sa1,"1 of 12 frames are missing, e.g. 003"']
    assert len(list((tmp_path / "out/real").rglob("*.mp4"))) == 5
    assert not (tmp_path / "out/real/.partial").exists()
