"""What clip.json and packs say of a clip is used instead of opening its files, and must be true."""

import json
from fractions import Fraction

import pytest

from loaders.batches import windows
from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.batches.windows import ClipDataset
from tests.benchmarks.loader import pack_clips
from tests.clip_factory import clip_info, make_clip, write_clip_folder
from utils.clip.files import INFO_NAME
from utils.errors import ClipError
from utils.run.bad_clips import BadClips

DATA = DataConfig(window_s=0.4, windows_per_clip=3)
WORKERS = WorkerConfig(batch_size=4, num_workers=0)
SIZES = ((9, "25"), (11, "25"), (13, "30000/1001"), (20, "12"))


@pytest.fixture
def root(tmp_path):
    """Clip folders of several lengths and rates, without clip.json."""
    for number, (num_frames, fps) in enumerate(SIZES):
        folder = tmp_path / "prepared" / "real" / str(number)
        write_clip_folder(folder, num_frames=num_frames, fps=Fraction(fps), seed=number)
    return tmp_path / "prepared"


@pytest.fixture
def nothing_opens(monkeypatch):
    """A function after whose call no crop and no landmarks can be opened."""

    def refuse(path):
        raise AssertionError(f"{path} was opened")

    def forbid():
        monkeypatch.setattr(windows, "open_crop", refuse)
        monkeypatch.setattr(windows, "open_landmarks", refuse)

    return forbid


def write_info(folder, num_frames, fps):
    (folder / INFO_NAME).write_text(json.dumps(clip_info(num_frames=num_frames, fps=fps)))


def clips_in(root):
    return [make_clip(folder) for folder in sorted((root / "real").iterdir())]


def keys_and_spans(clips):
    dataset = evaluation_loader(clips, DATA, WORKERS).dataset
    return dataset.evaluation_keys(), [dataset.window_spans_s(index) for index in range(len(clips))]


def test_clip_json_spares_every_file_and_moves_no_window(root, nothing_opens):
    clips = clips_in(root)
    from_headers = keys_and_spans(clips)
    for clip, (num_frames, fps) in zip(clips, SIZES, strict=True):
        write_info(clip.folder, num_frames, fps)
    nothing_opens()
    assert keys_and_spans(clips) == from_headers


def test_a_header_without_clip_json_is_read_once(root, nothing_opens):
    clips = clips_in(root)
    dataset = evaluation_loader(clips, DATA, WORKERS).dataset
    keys = dataset.evaluation_keys()
    nothing_opens()
    assert dataset.evaluation_keys() == keys
    assert len(dataset.window_spans_s(1)) == 2


@pytest.mark.parametrize("frames", ["video", "rgb"])
def test_the_index_of_a_pack_spares_every_file(root, tmp_path, frames, nothing_opens):
    from_headers = keys_and_spans(clips_in(root))
    packed = pack_clips(root, tmp_path / "pack", frames)
    clips = [make_clip(packed / "real" / clip.folder.name) for clip in clips_in(root)]
    nothing_opens()
    assert keys_and_spans(clips) == from_headers


@pytest.mark.parametrize(("num_frames", "fps"), [(31, "25"), (11, "24"), (9, "25")])
def test_a_clip_json_that_is_not_true_is_found_when_the_clip_is_read(root, num_frames, fps):
    clips = clips_in(root)[:2]
    write_info(clips[1].folder, num_frames, fps)
    says = f"says {num_frames} frames at {fps} per second, but the crop has 11 frames at 25 per second"
    with pytest.raises(ClipError, match=says):
        list(evaluation_loader(clips, DATA, WORKERS))
    bad_clips = BadClips(limit=1)
    batches = evaluation_loader(clips, DATA, WORKERS, bad_clips=bad_clips)
    assert [batch.clip_ids for batch in batches] == [("test/0",)]
    assert list(bad_clips.found) == ["test/1"]
    with pytest.raises(ClipError, match=says):  # as in the row of the shortcut table
        list(evaluation_loader(clips, DATA, WORKERS, sound_from=[1, 0]))


def test_a_rate_that_a_reader_rounds_is_the_same(root):
    clip = clips_in(root)[2]
    write_info(clip.folder, 13, "29970030/1000001")
    assert len(list(evaluation_loader([clip], DATA, WORKERS))) == 1
    # windows that are asked for by their place are counted by nothing
    write_info(clip.folder, 7, "5")
    assert ClipDataset([clip], DATA, training=True)[0, (0, 0)].clip_id == "test/2"
