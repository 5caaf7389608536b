"""The shortcut table takes away what it says, and nothing else."""

import numpy as np
import soundfile
import torch

from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader
from loaders.batches.shortcut_probes import PROBES, probe_batches, sound_partners, without
from tests.clip_factory import make_batch, make_clip, write_clip_folder
from utils.clip.files import AUDIO_NAME, SAMPLE_RATE_HZ

WORKERS = WorkerConfig(batch_size=4, num_workers=0)
DATA = DataConfig(window_s=0.6, windows_per_clip=2)


def test_each_probe_leaves_one_thing():
    batch = make_batch()
    silent, grey = torch.zeros_like(batch.waveform), torch.full_like(batch.video, 128)
    hidden = torch.zeros_like(batch.landmarks)
    for name, video, waveform, landmarks in (
        ("video only", batch.video, silent, batch.landmarks),
        ("audio only", grey, batch.waveform, hidden),
        ("landmarks only", grey, silent, batch.landmarks),
    ):
        after = without(batch, PROBES[name][1])
        assert torch.equal(after.video, video)
        assert torch.equal(after.waveform, waveform)
        assert torch.equal(after.landmarks, landmarks)
        assert torch.equal(after.labels, batch.labels)
        assert after.clip_ids == batch.clip_ids


def test_partners_stay_in_their_class():
    classes = ["real"] * 4 + ["fake"] * 3 + ["alone"]
    clips = [make_clip_of(name) for name in classes]
    partners = sound_partners(clips)
    assert partners[-1] is None
    assert sorted(partners[:-1]) == list(range(7))
    assert all(partner != index for index, partner in enumerate(partners))
    assert all(classes[partner] == classes[index] for index, partner in enumerate(partners[:-1]))
    assert sound_partners(clips) == partners


def make_clip_of(category):
    from pathlib import Path

    return make_clip(Path("x"), category=category)


def test_swapped_sound_is_the_other_clips(tmp_path):
    clips = []
    for index, num_frames in enumerate((40, 20)):
        folder = write_clip_folder(tmp_path / str(index), num_frames=num_frames, seed=index)
        level = 0.1 * (index + 1)
        waveform = np.full(round(num_frames / 25 * SAMPLE_RATE_HZ), level, np.float32)
        soundfile.write(folder / AUDIO_NAME, waveform, SAMPLE_RATE_HZ, subtype="PCM_16")
        clips.append(make_clip(folder))
    plain = list(evaluation_loader(clips, DATA, WORKERS))[0]
    rows = dict(probe_batches(clips, DATA, WORKERS))
    (swapped,) = rows["sound swapped within class"]
    own, other = ((batch.waveform * ~batch.audio_padding_mask) for batch in (plain, swapped))
    assert torch.equal(swapped.video, plain.video)
    assert torch.equal(swapped.audio_padding_mask, plain.audio_padding_mask)
    assert swapped.clip_ids == plain.clip_ids
    first = torch.tensor([name == clips[0].clip_id for name in plain.clip_ids])
    for mask, mine, theirs in ((first, 0.1, 0.2), (~first, 0.2, 0.1)):
        torch.testing.assert_close(own[mask].max(), torch.tensor(mine), atol=1e-3, rtol=0)
        torch.testing.assert_close(other[mask].max(), torch.tensor(theirs), atol=1e-3, rtol=0)
        torch.testing.assert_close(other[mask].min(), torch.tensor(theirs), atol=1e-3, rtol=0)


def test_a_short_partners_sound_is_repeated(tmp_path):
    clips = [
        make_clip(write_clip_folder(tmp_path / "long", num_frames=40)),
        make_clip(write_clip_folder(tmp_path / "short", num_frames=5, seed=1)),
    ]
    own = list(evaluation_loader(clips, DATA, WORKERS))[0]
    swapped = list(evaluation_loader(clips, DATA, WORKERS, sound_from=[1, 0]))[0]
    short = own.waveform[-1, ~own.audio_padding_mask[-1]]
    assert len(short) == SAMPLE_RATE_HZ // 5
    assert torch.equal(swapped.waveform[0], short.repeat(3))
