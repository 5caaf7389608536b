"""Which videos a command takes, what a failure costs, and what verify finds."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from preprocess import prepare, verify
from preprocess.verify import check_clip
from preprocess.work import raw_layouts as sources
from preprocess.work.batch import InputConfig, WorkConfig, clip_folders, find_jobs, run_batch
from preprocess.work.jobs import Job
from preprocess.work.limits import LimitConfig
from preprocess.work.progress import failures_csv
from preprocess.work.stores import LocalStore
from preprocess.work.workers import lock_partial, run_job, run_workers
from tests.clip_factory import clip_info
from tests.moving_face import moving_face, write_video
from tests.worker_jobs import jobs, leave_half_a_removal, process_id, remove_the_clip, some_work
from utils.errors import ClipError, DatasetError, UsageError, run_command

LIMITS = LimitConfig()


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def names_of(shard: str = "1/1", **flags) -> list[str]:
    return [job.name for job in WorkConfig(shard=shard).take_shard(find_jobs(InputConfig(**flags)).jobs)]


def test_fakeavceleb_is_found_below_or_in_its_parent_and_mirrored(tmp_path):
    inside = touch(
        tmp_path / "raw" / "FakeAVCeleb_v1.2",
        "RealVideo-RealAudio/Asian (East)/men/id1/0.1.mp4",
        "FakeVideo-FakeAudio/African/women/id2/a.mp4",
        "FakeVideo-FakeAudio/African/women/id2/notes.txt",
        "elsewhere/b.mp4",
        "meta_data.csv",
    )
    expected = [
        "FakeVideo-FakeAudio/African/women/id2/a.mp4",
        "RealVideo-RealAudio/Asian (East)/men/id1/0.1.mp4",
    ]
    for source in (inside, inside.parent):
        batch = find_jobs(InputConfig(dataset="fakeavceleb", source=source, output=tmp_path / "out"))
        assert [job.name for job in batch.jobs] == expected
        assert batch.jobs[1].folder == tmp_path / "out/RealVideo-RealAudio/Asian (East)/men/id1/0.1"
        assert (batch.raw, batch.metadata) == (LocalStore(inside), (Path("meta_data.csv"),))
    with pytest.raises(DatasetError, match="--source must be the folder"):  # not one further up
        names_of(dataset="fakeavceleb", source=inside.parent.parent, output=tmp_path / "out")


def test_missing_metadata_or_videos_are_errors_that_say_so(tmp_path):
    raw = touch(tmp_path / "raw", "RealVideo-RealAudio/a.mp4")
    with pytest.raises(DatasetError, match=r"holds no fakeavceleb.* expected meta_data\.csv"):
        names_of(dataset="fakeavceleb", source=raw, output=tmp_path / "out")
    empty = touch(tmp_path / "other", "meta_data.csv")
    with pytest.raises(DatasetError, match=r"expected meta_data\.csv and videos \(RealVideo-RealAudio"):
        names_of(dataset="fakeavceleb", source=empty, output=tmp_path / "out")
    with pytest.raises(DatasetError, match="no such folder"):
        names_of(dataset="fakeavceleb", source=tmp_path / "nowhere", output=tmp_path / "out")
    (tmp_path / "void").mkdir()
    with pytest.raises(DatasetError, match="no video in it"):
        names_of(input=tmp_path / "void", output=tmp_path / "out")


def test_contradicting_flags_are_usage_errors(tmp_path):
    for flags in (
        {},
        {"input": tmp_path, "dataset": "fakeavceleb", "source": tmp_path},
        {"dataset": "fakeavceleb"},
        {"input": tmp_path, "source": tmp_path},
    ):
        with pytest.raises(UsageError):
            names_of(output=tmp_path / "out", **flags)


def test_prepared_clips_and_the_output_are_no_input(tmp_path):
    touch(tmp_path, "a.mp4", "sub/b.MOV", "prepared/a/cropped_video.mp4", "prepared/.partial/1_of_1/x.mp4")
    touch(tmp_path, "older/a/cropped_video.mp4", "older/a/extra.txt")
    assert names_of(input=tmp_path, output=tmp_path / "prepared") == ["a.mp4", "sub/b.MOV"]


def problems_of(raw: Path) -> dict[str, str]:
    batch = find_jobs(InputConfig(input=raw, output=raw.parent / "out"))
    return {job.name: job.problem for job in batch.jobs if job.problem}


def test_videos_of_one_clip_folder_fail_and_the_others_do_not(tmp_path):
    raw = touch(tmp_path / "raw", "a.mp4", "a.avi", "b/x.MOV", "b/x.webm", "b/x.mkv", "c.mp4")
    # one name in two Unicode forms is one folder for the loaders
    touch(raw, "\u00e9.mp4", "e\u0301.mp4")
    problems = problems_of(raw)
    assert set(problems) == {
        *("a.mp4", "a.avi", "b/x.MOV", "b/x.webm", "b/x.mkv", "\u00e9.mp4", "e\u0301.mp4")
    }
    assert problems["a.mp4"] == "a.avi would have the same clip folder; rename one of them"
    assert problems["b/x.mkv"].startswith("b/x.MOV and b/x.webm would have the same clip folder")


def test_a_video_whose_clip_folder_would_hold_others_fails_and_they_do_not(tmp_path):
    raw = touch(tmp_path / "raw", "a.mp4", "a/b/c.mp4", "a/d.mp4", "ab.mp4")
    problems = problems_of(raw)
    assert set(problems) == {"a.mp4"}
    assert "would lie in that of a.mp4" in problems["a.mp4"]


def test_clashing_videos_are_in_failures_csv_and_the_rest_is_prepared(tmp_path):
    raw = touch(tmp_path / "raw", "a.mp4", "a.MOV", "b.mp4", "c.mp4")
    seen: list[str] = []

    def run(jobs, *_):
        for job in jobs:
            seen.append(job.name)
            yield job, "done", ""

    for shard in ("1/2", "2/2"):
        batch = find_jobs(InputConfig(input=raw, output=tmp_path / "out"))
        assert run_batch(batch, str, WorkConfig(shard=shard), LIMITS, run=run) == 1
    assert sorted(seen) == ["b.mp4", "c.mp4"]
    rows = [row for path in (tmp_path / "out").glob("failures_*.csv") for row in csv.DictReader(path.open())]
    assert sorted(row["path"] for row in rows) == ["a.MOV", "a.mp4"]


@pytest.mark.parametrize("name", ["..mp4", "...mp4", "a/..mp4", "a/...mkv"])
def test_a_name_that_is_a_step_to_another_folder_fails(tmp_path, name):
    raw = touch(tmp_path / "raw", name, "good.mp4")
    assert problems_of(raw) == {name: "the name leaves none for the clip folder; rename it"}


def test_a_video_without_a_suffix_is_refused(tmp_path):
    touch(tmp_path, "nosuffix", "notes.txt")
    for name in ("nosuffix", "notes.txt"):
        with pytest.raises(UsageError, match=rf"{name}: its name must end with one of \.mp4"):
            names_of(input=tmp_path / name, output=tmp_path)


@pytest.mark.parametrize(
    ("videos", "given", "output"),
    [
        (["a.mp4", "a.mp4.mp4"], ".", "."),  # a folder that is another's video
        (["a/a.mp4"], "a/a.mp4", "."),  # one that holds its own
        (["cropped_video/cropped_video.mp4"], "cropped_video/cropped_video.mp4", "."),
        (["cropped_video/cropped_video.mp4"], "cropped_video/cropped_video.mp4", "link"),
    ],
)
def test_a_clip_folder_that_would_replace_a_source_is_refused(tmp_path, videos, given, output):
    root = touch(tmp_path / "root", *videos)
    (root / "link").symlink_to(root)
    with pytest.raises(UsageError, match="would replace the video"):
        names_of(input=root / given, output=root / output)


@pytest.mark.parametrize("output", ["out", "memory://out"])
def test_links_out_of_the_raw_root_are_not_followed_unless_asked_to(tmp_path, monkeypatch, output):
    raw = touch(tmp_path / "raw", "RealVideo-RealAudio/a/1.mp4", "meta_data.csv")
    touch(tmp_path / "elsewhere", "2.mp4", "meta_data.csv")
    (raw / "RealVideo-RealAudio/b").symlink_to(tmp_path / "elsewhere")
    (raw / "RealVideo-RealAudio/c.mp4").symlink_to(tmp_path / "elsewhere/2.mp4")
    (raw / "RealVideo-RealAudio/d.mp4").symlink_to("a/1.mp4")
    (tmp_path / "link").symlink_to(raw)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def outcomes(**flags):
        config = InputConfig(dataset="fakeavceleb", source=Path("../link"), output=Path(output), **flags)
        jobs = find_jobs(config).jobs
        return {job.name: run_job(job, lambda _: "done", LIMITS, tmp_path / "scratch") for job in jobs}

    found = outcomes()
    assert [name for name, (status, _) in found.items() if status == "done"] == [
        "RealVideo-RealAudio/a/1.mp4",
        "RealVideo-RealAudio/d.mp4",
    ]
    assert "a link leads out of" in found["RealVideo-RealAudio/c.mp4"][1]
    assert {status for status, _ in outcomes(allow_links=True).values()} == {"done"}
    (raw / "meta_data.csv").unlink()
    (raw / "meta_data.csv").symlink_to(tmp_path / "elsewhere/meta_data.csv")
    with pytest.raises(ClipError, match="a link leads out of"):
        outcomes()


def scratch_job(root: Path) -> Job:
    (root / "worker").mkdir()
    return Job(
        name="holiday.mp4", source=root / "holiday.mp4", folder=root / "holiday", scratch=root / "worker"
    )


@pytest.mark.parametrize(
    "there",
    ["holiday/photo.txt", "holiday/b/clip.json", "holiday/clip.json/x", "holiday", "linked/clip.json"],
)
def test_only_a_clip_folder_is_ever_removed(tmp_path, there):
    touch(tmp_path, there)
    if there.startswith("linked"):
        (tmp_path / "holiday").symlink_to(tmp_path / "linked")
    job = scratch_job(tmp_path)
    for remove in (job.remove_folder, job.install_folder):
        with pytest.raises(ClipError, match="move it away") as caught:
            remove()
        assert caught.value.path == job.folder
    assert (tmp_path / there).read_bytes() == b"x"


def test_an_older_clip_folder_is_replaced(tmp_path):
    touch(tmp_path, "holiday/clip.json", "holiday/audio.wav", "holiday/cropped_video.mp4")
    job = scratch_job(tmp_path)
    (job.scratch / "landmarks.npy").write_bytes(b"new")
    job.install_folder()
    assert [path.name for path in job.folder.iterdir()] == ["landmarks.npy"]
    assert list(tmp_path.iterdir()) == [job.folder]


def test_a_clip_that_another_attempt_installs_meanwhile_is_replaced(tmp_path, monkeypatch):
    job = scratch_job(tmp_path)
    (job.scratch / "landmarks.npy").write_bytes(b"new")
    rivals, remove = [job], Job.remove_folder

    def remove_and_lose_the_race(self: Job) -> None:
        remove(self)
        if rivals:
            touch(rivals.pop().folder, "clip.json")

    monkeypatch.setattr(Job, "remove_folder", remove_and_lose_the_race)
    job.install_folder()
    assert list(tmp_path.rglob("*")) == [job.folder, job.folder / "landmarks.npy"]


def test_shards_share_all_videos_and_none_twice(tmp_path):
    touch(tmp_path / "raw", *(f"{i:02}.mp4" for i in range(11)))
    parts = [names_of(input=tmp_path / "raw", output=tmp_path / "out", shard=f"{k}/3") for k in (1, 2, 3)]
    assert [len(part) for part in parts] == [4, 4, 3]
    assert sorted(sum(parts, [])) == [f"{i:02}.mp4" for i in range(11)]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", ""])
def test_a_shard_that_does_not_exist_is_refused(tmp_path, shard):
    with pytest.raises(ValueError, match="shard"):
        WorkConfig(shard=shard)


def test_every_source_names_its_videos():
    for name, layouts in sources.SOURCES.items():
        assert layouts, name
        assert all(layout.videos for layout in layouts), name


def test_a_worker_that_dies_costs_one_clip_and_is_recorded(tmp_path):
    names = ["a", "killed", "b", "bug", "c", "bad", "d"]
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        outcomes = {job.name: rest for job, *rest in run_workers(jobs(*names), some_work, LIMITS, partial, 2)}
    assert sorted(outcomes) == sorted(names)
    assert all(outcomes[name] == ["done", ""] for name in "abcd")
    assert outcomes["killed"][0] == "failed"
    assert "SIGKILL" in outcomes["killed"][1]
    assert "status 1" in outcomes["bug"][1]
    assert outcomes["bad"] == ["failed", "is no good"]
    assert not list(tmp_path.iterdir())  # nothing half-done, no lock, no .partial


def test_what_a_killed_worker_left_does_not_hinder_the_next(tmp_path):
    touch(tmp_path, "clip/clip.json")
    job = Job(name="a", source=tmp_path, folder=tmp_path / "clip")
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        for work, status in ((leave_half_a_removal, "failed"), (remove_the_clip, "done")):
            assert [found for _, found, _ in run_workers([job], work, LIMITS, partial, 1)] == [status]
    assert not job.folder.exists()


def test_a_fresh_process_takes_over_after_some_clips(tmp_path, monkeypatch):
    monkeypatch.setattr("preprocess.work.workers.JOBS_PER_PROCESS", 2)
    with lock_partial(tmp_path / ".partial", "1_of_1") as partial:
        found = [status for _, status, _ in run_workers(jobs(*"abcde"), process_id, LIMITS, partial, 1)]
    assert found[0] == found[1] != found[2] == found[3] != found[4]


def test_a_second_run_into_the_same_folder_is_refused(tmp_path):
    with lock_partial(tmp_path / ".partial", "1_of_2"):
        again = lock_partial(tmp_path / ".partial", "1_of_2", patience_s=0.3)
        with pytest.raises(UsageError, match="another run"), again:
            pass
        with lock_partial(tmp_path / ".partial", "2_of_2"):  # another shard may
            pass
        assert (tmp_path / ".partial" / "1_of_2").is_dir()


def test_failures_are_sorted_and_quoted():
    rows = list(csv.reader(io.StringIO(failures_csv([("b", 'it said "no", twice'), ("a", "x")]).decode())))
    assert rows == [["path", "reason"], ["a", "x"], ["b", 'it said "no", twice']]


@pytest.fixture(scope="module")
def sound_clip(tmp_path_factory) -> Path:
    """A clip folder as another tool makes it: no clip.json, 20 frames at 25/s."""
    folder = tmp_path_factory.mktemp("clips") / "clip"
    folder.mkdir()
    write_video(folder / "cropped_video.mp4", moving_face(20, size=(224, 224), path=lambda i: (112, 112)))
    np.save(folder / "landmarks.npy", np.full((20, 478, 2), 0.5, np.float32))
    soundfile.write(folder / "audio.wav", np.zeros(round(0.8 * 16_000)), 16_000, subtype="PCM_16")
    return folder


def cut_file(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def save_landmarks(folder: Path, *shape: int) -> None:
    np.save(folder / "landmarks.npy", np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("damage", "path", "reason"),
    [
        (lambda f: (f / "cropped_video.mp4").unlink(), "cropped_video.mp4", "missing"),
        (lambda f: (f / "landmarks.npy").unlink(), "landmarks.npy", "missing"),
        (lambda f: (f / "audio.wav").unlink(), "", "no cropped_video.wav"),
        (lambda f: cut_file(f / "cropped_video.mp4", 0.5), "cropped_video.mp4", "cut off"),
        (lambda f: cut_file(f / "landmarks.npy", 0.9), "landmarks.npy", "not a readable"),
        (lambda f: cut_file(f / "audio.wav", 0.7), "audio.wav", "of sound for 0.800 s"),
        (lambda f: save_landmarks(f, 19, 478, 2), "landmarks.npy", "19 landmark frames for 20"),
        (lambda f: save_landmarks(f, 20, 468, 2), "landmarks.npy", "shape"),
        (lambda f: (f / "clip.json").write_text("{}"), "clip.json", "not a valid clip.json"),
        (lambda f: (f / "audio.wav").write_text("no sound"), "audio.wav", "not a readable sound file"),
    ],
)
def test_verify_names_the_file_and_the_reason(tmp_path, sound_clip, damage, path, reason):
    folder = tmp_path / "clip"
    shutil.copytree(sound_clip, folder)
    assert check_clip(folder, deep=True) == []
    damage(folder)
    ((found, why),) = check_clip(folder, deep=False)
    assert found == folder / path
    assert reason in why


@pytest.mark.parametrize("name", ["../a/landmarks.npy", "/dev/zero", "a/b"])
def test_a_clip_json_names_files_of_its_own_folder_only(tmp_path, sound_clip, name):
    folder = tmp_path / "clip"
    shutil.copytree(sound_clip, folder)
    (folder / "clip.json").write_text(json.dumps(clip_info(files={name: "0" * 64})))
    ((path, why),) = check_clip(folder, deep=False)
    assert path == folder / "clip.json"
    assert "which is not a file of its folder" in why


def test_deep_verification_sees_half_filled_and_infinite_landmarks(tmp_path, sound_clip):
    for value, frame, reason in ((np.nan, (3, 5), "some landmarks"), (np.inf, (3,), "infinite")):
        folder = tmp_path / reason
        shutil.copytree(sound_clip, folder)
        landmarks = np.load(folder / "landmarks.npy")
        landmarks[frame] = value
        np.save(folder / "landmarks.npy", landmarks)
        assert check_clip(folder, deep=False) == []
        ((_, why),) = check_clip(folder, deep=True)
        assert reason in why


def test_verify_finds_folders_with_only_a_part_of_a_clip(tmp_path, sound_clip):
    shutil.copytree(sound_clip, tmp_path / "a" / "whole")
    touch(tmp_path, "b/part/landmarks.npy", "c/nothing.txt", ".partial/1_of_1/worker_0/landmarks.npy")
    assert clip_folders(tmp_path) == [tmp_path / "a" / "whole", tmp_path / "b" / "part"]


@pytest.mark.parametrize("command", [prepare, verify])
def test_an_output_that_cannot_be_written_is_one_line_before_any_work(tmp_path, monkeypatch, capsys, command):
    root = touch(tmp_path, "a.mp4", "clip/landmarks.npy", "file")
    worked = []
    monkeypatch.setattr(verify, "check_clip", lambda folder, **_: worked.append(folder) or [])
    flags = ["--input", root / "a.mp4"] if command is prepare else ["--data_root", root]
    monkeypatch.setattr("sys.argv", ["command", *map(str, flags), "--output", str(root / "file" / "out")])
    with pytest.raises(SystemExit) as caught:
        run_command(command.main)
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {root / 'file'}")
    assert not worked


def test_verify_makes_the_folder_of_its_csv_file(tmp_path, monkeypatch):
    root = touch(tmp_path, "clip/landmarks.npy")
    flags = ["--data_root", str(root), "--num_workers", "1", "--output"]
    monkeypatch.setattr("sys.argv", ["verify", *flags, str(root / "new" / "bad.csv")])
    assert verify.main() == 1
    assert "clip/landmarks.npy" in (root / "new" / "bad.csv").read_text()
    monkeypatch.setattr("sys.argv", ["verify", *flags, str(root / "new")])
    with pytest.raises(UsageError, match="is a folder"):
        verify.main()


def test_a_full_disk_fails_the_clip_with_the_systems_words_and_leaves_nothing(tmp_path):
    def write(job):
        (job.scratch / "half.mp4").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.mp4").touch()
    job = Job(name="a", source=tmp_path / "a.mp4", folder=tmp_path / "out" / "a")
    status, reason = run_job(job, write, LimitConfig(), tmp_path / "scratch")
    assert status == "failed"
    assert "No space left on device" in reason
    assert not (tmp_path / "scratch").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_is_said_in_one_line(tmp_path, monkeypatch, capsys, number):
    """The system does not say which file it was; for a table of the output the store does."""

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    for main in (fail, lambda: LocalStore(tmp_path).write("failures.csv", b"a", tmp_path)):
        monkeypatch.setattr(Path, "write_bytes", fail)
        with pytest.raises(SystemExit) as caught:
            run_command(main)
        assert caught.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert os.strerror(number) in line
        assert ("failures.csv" in line) == (main is not fail)
    with pytest.raises(OSError, match="Bad file descriptor"):  # a bug keeps its traceback
        run_command(lambda: os.read(-1, 1))
