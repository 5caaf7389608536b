"""No path in metadata leaves the data root: neither by its words nor by a link."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import fsspec
import pytest

from loaders import DATASETS
from loaders.datasets.metadata import inside, walk_clips
from loaders.listing import ListingConfig
from preprocess.work.batch import InputConfig, find_jobs
from tests.clip_factory import write_clip_folder
from utils.clip.packed import SCHEMA, Pack
from utils.errors import DatasetError

OUTSIDE = (
    "../outside/clip",
    "/{tmp}/outside/clip",
    "real/../../outside/clip",
    "..\\outside\\clip",
    "C:/clip",
    ".",
    "",
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip_folder(tmp_path_factory.mktemp("clip") / "clip", num_frames=4)


@pytest.fixture
def root(tmp_path, clip) -> Path:
    """A data root with two clips, and a clip outside that must not be reached."""
    for name in ("root/real/a", "root/fake/b", "outside/clip"):
        shutil.copytree(clip, tmp_path / name)
    return tmp_path / "root"


def list_clips(root: Path, *rows: str, dataset: str = "manifest", **options) -> list[str]:
    (root / "manifest.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    return [clip.clip_id for clip in DATASETS[dataset](root, ListingConfig(**options)).clips]


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_row_cannot_name_a_path_outside(root, path):
    assert len(list_clips(root, "real/a,0", "fake/b,1")) == 2
    path = path.format(tmp=root.parent)
    with pytest.raises(DatasetError, match="outside the data root"):
        list_clips(root, "real/a,0", f"{path},1")
    with pytest.raises(DatasetError, match="outside the data root"):
        inside(path, "metadata")


def test_lists_of_every_kind_are_held_to_it(root):
    entry = {
        "file": "../outside/clip.mp4",
        "n_fakes": 0,
        "fake_periods": [],
        "original": None,
        "modify_video": False,
        "modify_audio": False,
        "split": "train",
    }
    (root / "metadata.min.json").write_text(json.dumps([entry]))
    with pytest.raises(DatasetError, match="outside the data root"):
        DATASETS["lavdf"](root, ListingConfig())
    (root / "List_of_testing_videos.txt").write_text("1 ../outside/clip.mp4\n")
    with pytest.raises(DatasetError, match="outside the data root"):
        DATASETS["celebdf"](root, ListingConfig())
    (root / "dataset.json").write_text(
        json.dumps(
            {"../outside/clip.mp4": {"label": "fake", "set": "train", "target_id": "a", "swapped_id": "b"}}
        )
    )
    with pytest.raises(DatasetError, match="outside the data root"):
        DATASETS["dfdc_preview"](root, ListingConfig())
    for path in ("../outside/clip.mp4", f"{root.parent}/outside/clip.mp4"):
        (root / "failures.csv").write_text(f"path,reason\n{path},bad\n")
        with pytest.raises(DatasetError, match="outside the data root"):
            walk_clips(root)


@pytest.mark.parametrize("linked", ["fake/c", "fake/d", "fake/deep/b"])
def test_a_link_out_is_refused_with_its_target_unless_it_is_allowed(root, clip, linked):
    """A clip folder, a folder above clip folders, or one file of a clip."""
    outside = root.parent / "outside"
    if linked == "fake/c":
        (root / linked).symlink_to(outside / "clip")
    elif linked == "fake/d":
        shutil.copytree(clip, root / linked)
        (root / linked / "cropped_video.wav").unlink()
        (root / linked / "cropped_video.wav").symlink_to(outside / "clip" / "cropped_video.wav")
    else:
        (outside / "b").mkdir()
        shutil.copytree(clip, outside / "deep" / "b")
        (root / "fake/deep").symlink_to(outside / "deep")
    rows = ("real/a,0", f"{linked},1")
    with pytest.raises(DatasetError, match=r"a link leads out of the data root .*outside.*--allow_links"):
        list_clips(root, *rows)
    assert len(list_clips(root, *rows, allow_links=True)) == 2


def test_the_root_and_what_stays_inside_may_be_links(root):
    (root / "fake/c").symlink_to(root / "fake/b")
    (root / "other").symlink_to("fake")
    (root.parent / "named otherwise").symlink_to(root)
    assert len(list_clips(root.parent / "named otherwise", "real/a,0", "fake/c,1", "other/b,1")) == 3


def test_a_root_beside_another_of_a_longer_name_is_not_it(root, clip):
    shutil.copytree(clip, root.parent / "root2" / "clip")
    (root / "fake/c").symlink_to(root.parent / "root2" / "clip")
    with pytest.raises(DatasetError, match="leads out"):
        list_clips(root, "real/a,0", "fake/c,1")


def test_a_packs_shards_lie_where_the_pack_says(tmp_path):
    for name in ("../secret.tar", "/etc/passwd", "..", "a/b.tar"):
        (tmp_path / "pack.sqlite").unlink(missing_ok=True)
        database = sqlite3.connect(tmp_path / "pack.sqlite")
        database.executescript(SCHEMA)
        database.executemany(
            "INSERT INTO about VALUES (?, ?)", {"format": "1", "frames": "video", "shards": ""}.items()
        )
        database.execute("INSERT INTO shards VALUES (0, ?, 1)", (name,))
        database.commit()
        database.close()
        with pytest.raises(DatasetError, match="is not the name of a file"):
            Pack(tmp_path)


def test_an_object_stores_names_do_not_leave_the_output(tmp_path):
    """An object may be called anything; its name becomes a path."""
    files = fsspec.filesystem("memory")
    with files.open("/hostile/good.mp4", "wb") as file:
        file.write(b"x")
    content = files.store["/hostile/good.mp4"]
    assert len(find_jobs(InputConfig(input="memory://hostile", output=tmp_path)).jobs) == 1
    files.store["/hostile/../../evil.mp4"] = content
    try:
        with pytest.raises(DatasetError, match="outside it"):
            find_jobs(InputConfig(input="memory://hostile", output=tmp_path))
    finally:
        files.store.clear()
