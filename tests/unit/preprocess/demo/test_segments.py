"""Forgeries planted in parts of clips: where they are said to be, and nowhere else."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from loaders.batches.labels import true_segments
from loaders.datasets.av_deepfake1m import list_av_deepfake1m
from loaders.listing import MetadataConfig
from loaders.splits.drawing import SplitConfig, draw_split
from preprocess.demo.animation import Puppet
from preprocess.demo.dataset import forge, make_take, record_clip
from preprocess.demo.forgeries import ForgeryConfig
from preprocess.demo.identities import make_identity
from preprocess.demo.layouts import LAYOUTS, plan_clips
from preprocess.demo.plan import FPS, DemoConfig, generator
from preprocess.demo.speech import SAMPLE_RATE_HZ

LAYOUT = "av_deepfake1m"


def test_the_loader_lists_the_planned_segments_and_parts_that_share_nobody(tmp_path):
    config = DemoConfig(output=tmp_path, layout=LAYOUT, num_identities=28)
    clips = plan_clips(config)
    for name, content in LAYOUTS[LAYOUT].metadata(config, clips).items():
        (tmp_path / name).write_bytes(content)
    listing = list_av_deepfake1m(tmp_path, MetadataConfig())
    listed = {clip.clip_id.removeprefix(f"{LAYOUT}/"): clip for clip in listing.all_clips}
    assert len(listed) == len(clips) == 28 * 12
    lengths = []
    for clip in clips:
        found = listed[clip.path.removesuffix(".mp4")]
        spans = [tuple(frame / FPS for frame in clip.segment)] if clip.segment else []
        assert true_segments(found, "clip", "any", 3.0) == spans
        is_forged = {"video": {"lips", "face"}, "audio": {"voice"}}
        for stream, changes in is_forged.items():
            has_some = bool(changes & set(clip.kind.changes))
            assert true_segments(found, stream, "any", 3.0) == spans * has_some
        lengths += [end - start for start, end in spans]
        assert all(0 <= start < end <= 3 for start, end in spans)
        assert clip.donor is None or clip.donor >= 28  # somebody without clips
    assert 0.3 <= min(lengths) < 0.4
    assert 0.9 < max(lengths) < 1.001
    split = draw_split(listing, SplitConfig(val_fraction=0.2))
    persons = defaultdict(set)
    for clip_id, part in split.split_of.items():
        persons[part].add(split.identity_of[clip_id])
    assert {part: len(names) for part, names in persons.items()} == {"train": 17, "val": 4, "test": 7}
    assert len(set.union(*persons.values())) == 28


@pytest.fixture(scope="module")
def take_and_clips(tmp_path_factory):
    """A scene, and the four clips that it is in."""
    root = tmp_path_factory.mktemp("demo")
    config = DemoConfig(output=root, layout=LAYOUT, num_identities=2, duration_s=1.2, frame_size=192)
    puppet = Puppet(make_identity(generator(config, 0, 5)))
    clips = [clip for clip in plan_clips(config) if (clip.identity, clip.scene) == (0, 0)]
    return config, make_take(config, puppet, 0, 0), clips


def test_a_planted_clip_differs_from_its_source_only_within_the_segment(take_and_clips):
    config, take, (real, *fakes) = take_and_clips
    assert [clip.kind.method for clip in fakes] == ["visual_modified", "audio_modified", "both_modified"]

    def made(clip):
        frames, voice = forge(config, ForgeryConfig(), clip, take)
        return frames, record_clip(clip, take, voice, generator(config, 0, 9, 0))

    frames, sound = made(real)
    np.testing.assert_array_equal(frames, take.frames)
    for clip in fakes:
        forged_frames, forged_sound = made(clip)
        start, end = clip.segment
        changed = (forged_frames != frames).any(axis=(1, 2, 3))
        assert changed[start:end].all() == (clip.kind.changes != ("voice",))
        assert not changed[[*range(start), *range(end, len(changed))]].any()
        first, last = (round(frame / FPS * SAMPLE_RATE_HZ) for frame in (start, end))
        difference = np.abs(forged_sound - sound)
        assert not difference[:first].any()
        assert not difference[last:].any()
        loud = np.sqrt((sound**2).mean())
        assert (difference[first:last].max() > loud) == ("voice" in clip.kind.changes)


def test_a_forged_segment_is_spoken_even_where_the_speaker_pauses(take_and_clips):
    _, take, _ = take_and_clips
    spoken = []
    for start in (0, 100, 160):  # of 240 steps of 5 ms
        said = take.said.spoken_from(start / 200, start / 200 + 0.4)
        spoken.append(said.opening[start : start + 80].mean())
    np.testing.assert_allclose(spoken, spoken[0], rtol=1e-6)
    most = max(take.said.opening[start : start + 80].mean() for start in range(161))
    assert spoken[0] == pytest.approx(most)
