"""What a run says of its training clips, and from how many reads."""

import json
import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig
from loaders.batches.domain import describe_training, evaluation_batches
from models.restore import restore_domain
from tests.benchmarks.loader import pack_clips
from tests.clip_factory import clip_info, make_clip, write_clip_folder
from utils.clip import files
from utils.clip.files import INFO_NAME
from utils.errors import ClipError
from utils.run.bad_clips import BadClips

DATA = DataConfig(window_s=0.4, windows_per_clip=3)  # of which each clip has room for one
WORKERS = WorkerConfig(batch_size=1, num_workers=0)
SETTINGS = {"crop_size": 64, "crop_margin": 1.5}


def write_info(folder, *, settings=SETTINGS, side=60.0):
    boxes = [[0.0, 0.0, side + number % 2] for number in range(10)]
    info = clip_info(num_frames=10, face_boxes=boxes, settings=settings)
    (folder / INFO_NAME).write_text(json.dumps(info))


@pytest.fixture
def root(tmp_path):
    """Four prepared clips."""
    for number in range(4):
        folder = tmp_path / "prepared" / "real" / str(number)
        write_clip_folder(folder, num_frames=10, fps=Fraction(25), seed=number)
        write_info(folder)
    return tmp_path / "prepared"


def clips_in(root, name="test", **changes):
    ids = [f"{name}/{number}" for number in range(4)]
    return [make_clip(root / "real" / i[-1], clip_id=i, identity=i, **changes) for i in ids]


def describe(clips):
    needs = {"inputs": frozenset({"video", "sound"}), "min_window_s": 0.0}
    parts = {"train": clips[:3], "val": clips[3:]}
    return describe_training(parts, DATA, WORKERS, 100, 0, torch.device("cpu"), **needs)


def test_one_read_of_clip_json_gives_windows_and_facts_of_the_file(root, monkeypatch):
    reads = []
    real = files.parse_json
    monkeypatch.setattr(files, "parse_json", lambda text: reads.append(1) or real(text))
    clips = clips_in(root)
    batches, found = evaluation_batches(SimpleNamespace(names=()), clips, DATA, WORKERS)
    assert [batch.clip_ids[0] for batch in batches] == [clip.clip_id for clip in clips]
    assert found == {clip.clip_id: [pytest.approx(math.log(60.5 / 1.5)), math.log(25)] for clip in clips}
    assert len(reads) == len(clips)
    reads.clear()
    assert len(describe(clips)["domain"]["names"]) == 19  # with the two facts of files
    assert len(reads) == len(clips)
    batches, found = evaluation_batches(None, clips, DATA, WORKERS)
    assert (len(list(batches)), found) == (4, {})


def test_a_damaged_clip_json_is_a_bad_clip_as_before(root):
    clips = clips_in(root)
    (clips[1].folder / INFO_NAME).write_text("{")
    with pytest.raises(ClipError, match="clip.json"):
        evaluation_batches(SimpleNamespace(names=()), clips, DATA, WORKERS)
    bad_clips = BadClips(limit=1)
    batches, found = evaluation_batches(SimpleNamespace(names=()), clips, DATA, WORKERS, bad_clips=bad_clips)
    assert list(bad_clips.found) == ["test/1"]
    assert len(list(batches)) == len(found) == 3


def test_the_description_says_what_its_units_are(root, caplog):
    caplog.set_level("INFO")
    assert describe(clips_in(root))["domain"]["identity_is"] == "person"
    assert "described by 4 clips of 4 persons" in caplog.text
    clips = clips_in(root, identity_is="family")[:3] + clips_in(root, identity_is="clip")[3:]
    assert describe(clips)["domain"]["identity_is"] == "family+clip"
    assert "described by 4 clips of 4 clip families or single clips" in caplog.text


def test_equalised_and_plain_packs_are_not_described_by_one_fit(root, tmp_path, caplog):
    packed = pack_clips(root, tmp_path / "pack", "equalized")
    both = clips_in(root)[:2] + clips_in(packed, "packed")[2:]
    said = describe(both)
    assert said == {"domain": {"reason": "frames of some are packed equalised, those of others are not"}}
    assert "not described, so no video is called unlike them: frames of some" in caplog.text
    assert restore_domain(said, tmp_path / "best.pt") is None
    assert describe(clips_in(packed))["domain"]["equalized"] is True
    assert describe(clips_in(root))["domain"]["equalized"] is False


def test_clips_of_several_preparations_are_not_described_by_one_fit(root):
    clips = clips_in(root)
    write_info(clips[2].folder, settings=SETTINGS | {"crop_margin": 1.8})
    why = "they were prepared with --crop_margin 1.5 and 1.8"
    assert describe(clips) == {"domain": {"reason": why}}
    write_info(clips[2].folder, settings={})  # it does not say
    assert "names" in describe(clips)["domain"]
