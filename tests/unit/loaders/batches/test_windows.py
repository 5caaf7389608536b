import dataclasses
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from loaders.batches.collate import Collate
from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader, training_loader
from loaders.batches.labels import window_labels
from loaders.batches.places import evaluation_starts, last_start_frame
from loaders.batches.samplers import TrainingSampler
from loaders.batches.transforms import change_frames, normalize_face_box, without_color
from loaders.batches.windows import ClipDataset, WindowStart
from tests.clip_factory import NUM_BITS, make_clip, write_clip_folder
from utils.clip import frames as crop_video
from utils.clip.files import AUDIO_NAME, LANDMARKS_NAME, SAMPLE_RATE_HZ, VIDEO_NAME
from utils.clip_type import EMOTIONS
from utils.errors import ClipError, UsageError


def frame_numbers(window):
    """Which source frames a window of a synthetic clip holds, read from their bits."""
    size = window.video.shape[1]
    bits = window.video[:, : size // 2].float().mean(dim=(1, 3)).unflatten(1, (NUM_BITS, -1)).mean(2) > 128
    return (bits * 2 ** torch.arange(NUM_BITS)).sum(1).tolist()


def sound_start_s(window):
    """Where in the source the sound of a synthetic clip begins, read from its rising level."""
    level = window.waveform[: SAMPLE_RATE_HZ // 10].mean().item() * 10
    return level - 0.05


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30_000, 1001), Fraction(15)])
def test_one_window_cuts_picture_sound_and_landmarks(tmp_path, fps):
    clip = make_clip(write_clip_folder(tmp_path / "clip", num_frames=60, fps=fps))
    config = DataConfig(window_s=0.8, video_fps=25.0, windows_per_clip=3)
    dataset = ClipDataset([clip], config, training=False)
    source = np.load(clip.folder / LANDMARKS_NAME)
    starts = set()
    for key in dataset.evaluation_keys():
        window = dataset[key]
        frames = frame_numbers(window)
        starts.add(frames[0])
        assert len(frames) == 20
        expected = frames[0] + np.floor(
            (np.arange(20) + 0.5) / 25 * float(fps) + 1e-6
        )  # the frame shown at that moment
        assert frames == expected.astype(int).tolist()
        assert len(window.waveform) == round(0.8 * SAMPLE_RATE_HZ)
        assert sound_start_s(window) == pytest.approx(frames[0] / float(fps), abs=0.02)
        torch.testing.assert_close(
            window.landmarks.numpy(), normalize_face_box(source[frames]), rtol=1e-5, atol=1e-5
        )
    assert len(starts) == 3
    assert min(starts) == 0


def test_a_window_begins_where_it_is_told_and_its_sound_may_come_late(tmp_path):
    clip = make_clip(write_clip_folder(tmp_path / "clip", num_frames=40))
    dataset = ClipDataset([clip], DataConfig(window_s=0.8), training=False)
    window, late, early = (dataset[0, WindowStart(10, delay)] for delay in (0.0, 0.2, -0.2))
    assert frame_numbers(window) == frame_numbers(late) == list(range(10, 30))
    shift = round(0.2 * SAMPLE_RATE_HZ)
    assert torch.equal(late.waveform[shift:], window.waveform[:-shift])
    assert torch.equal(early.waveform[:-shift], window.waveform[shift:])
    first = dataset[0, WindowStart(0, 0.2)]
    assert (first.waveform[:shift] == 0).all()
    assert torch.equal(first.waveform[shift:], dataset[0, WindowStart(0)].waveform[:-shift])


@pytest.mark.parametrize("video_fps", [25.0, 12.5])
def test_frames_of_overlapping_windows_are_decoded_once(tmp_path, monkeypatch, video_fps):
    """A window per frame, twice over, as shifts of the sound ask for it; and memory has a bound."""
    clips = [make_clip(write_clip_folder(tmp_path / f"{n}", num_frames=60 + n, seed=n)) for n in range(2)]
    config, converted = DataConfig(window_s=0.4, video_fps=video_fps), []
    plain, keeping = (
        ClipDataset(clips, config, training=False, keeps_frames=keeps) for keeps in (False, True)
    )
    places = [(index, WindowStart(start)) for index in (0, 1) for start in range(50)]
    expected = [plain[place] for place in places]
    monkeypatch.setattr(crop_video._AvCrop, "_rgb", counted(crop_video._AvCrop._rgb, converted))
    for place, window in zip(places, expected, strict=True):
        for _ in range(2):
            assert torch.equal(keeping[place].video, window.video)
        assert len(keeping._kept[1]._kept) <= 6 * 10
    assert len(converted) <= 60 + 61
    for start in (30, 5, 40, 6):  # in any order
        assert torch.equal(keeping[1, WindowStart(start)].video, plain[1, WindowStart(start)].video)


def counted(function, calls):
    """`function`, whose calls are added to a list."""

    def counting(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return counting


def test_training_windows_come_from_seed_epoch_and_clip_alone(tmp_path):
    clips = [make_clip(write_clip_folder(tmp_path / str(i), num_frames=60)) for i in range(2)]
    config = DataConfig(window_s=0.4)

    def start(seed, epoch, index, clips=clips):
        return frame_numbers(ClipDataset(clips, config, training=True, seed=seed)[index, (epoch, 0)])[0]

    assert start(1, 2, 1) == start(1, 2, 1)
    assert len({start(1, epoch, 0) for epoch in range(12)}) > 5
    assert [start(1, e, 0) for e in range(6)] != [start(2, e, 0) for e in range(6)]
    assert [start(1, e, 0) for e in range(6)] != [start(1, e, 1) for e in range(6)]


def test_a_short_clip_is_padded_and_masked(tmp_path):
    clips = [make_clip(write_clip_folder(tmp_path / str(n), num_frames=n)) for n in (10, 40)]
    config = DataConfig(window_s=1.0)
    dataset = ClipDataset(clips, config, training=False)
    assert [key[0] for key in dataset.evaluation_keys()] == [
        0,
        1,
        1,
        1,
    ]  # one window is all of the short clip
    batch = Collate(25.0)([dataset[0, 0], dataset[1, 0]])
    assert batch.video_padding_mask.sum(1).tolist() == [15, 0]
    assert batch.landmark_padding_mask.sum(1).tolist() == [15, 0]
    assert batch.audio_padding_mask.sum(1).tolist() == [SAMPLE_RATE_HZ - round(0.4 * SAMPLE_RATE_HZ), 0]
    assert (batch.waveform[0][batch.audio_padding_mask[0]] == 0).all()
    assert batch.video.shape == (2, 3, 25, 64, 64)


def test_frames_without_a_face_are_masked_not_nan(tmp_path):
    folder = write_clip_folder(tmp_path / "clip", num_frames=20)
    landmarks = np.load(folder / LANDMARKS_NAME)
    landmarks[5:8] = np.nan
    np.save(folder / LANDMARKS_NAME, landmarks)
    cases = (("seconds", "face_box"), ("released", "clip_zscore"), ("seconds", "crop"))
    for window, normalization in cases:
        config = DataConfig(
            window=window, window_s=0.8, windows_per_clip=1, landmark_normalization=normalization
        )
        item = ClipDataset([make_clip(folder)], config, training=False)[0, 0]
        assert not item.landmarks.isnan().any()
        assert (~item.has_landmarks).nonzero().flatten().tolist() == [5, 6, 7]
    np.testing.assert_array_equal(item.landmarks[8:], landmarks[8:])  # in the crop, as they are


def test_face_box_units_keep_shape_and_drop_place_and_size():
    face = np.random.default_rng(0).uniform(0, 1, (4, 478, 2)).astype(np.float32)
    moved = face * 0.3 + np.array([0.5, 0.1], np.float32)
    np.testing.assert_allclose(normalize_face_box(moved), normalize_face_box(face), atol=1e-5)
    assert np.ptp(normalize_face_box(face)[..., 0], axis=1) == pytest.approx(1.0, abs=1e-5)
    stretched = face * np.array([1.0, 1.5], np.float32)
    assert np.abs(normalize_face_box(stretched) - normalize_face_box(face)).max() > 0.1


def test_unknown_labels_stay_unknown(tmp_path):
    folder = write_clip_folder(tmp_path / "clip", num_frames=15)
    clip = make_clip(folder, label=1, video_label=1, audio_label=None)
    item = ClipDataset([clip], DataConfig(window_s=0.4), training=False)[0, 0]
    assert (item.label, item.video_label) == (1.0, 1.0)
    assert np.isnan(item.audio_label)


def test_the_label_rule_video_calls_a_fake_voice_over_a_real_picture_real(tmp_path):
    clip = make_clip(
        write_clip_folder(tmp_path / "clip", num_frames=15), label=1, video_label=0, audio_label=1
    )
    items = {
        rule: ClipDataset([clip], DataConfig(window_s=0.4, label_rule=rule), training=False)[0, 0]
        for rule in ("any", "video")
    }
    assert (items["any"].label, items["video"].label) == (1.0, 0.0)


def _cut_sound(folder):
    samples, rate = soundfile.read(folder / AUDIO_NAME)
    soundfile.write(folder / AUDIO_NAME, samples[: len(samples) // 2], rate)


def _save(landmarks):
    return lambda folder: np.save(folder / LANDMARKS_NAME, landmarks, allow_pickle=landmarks.dtype == object)


BAD_CLIPS = {  # fault: (how to make it, what the error says)
    "landmark width": (_save(np.zeros((30, 468, 2), np.float32)), r"\(30, 468, 2\)"),
    "landmark frames": (_save(np.zeros((29, 478, 2), np.float32)), "29 landmark frames for 30 video frames"),
    "pickled landmarks": (_save(np.array([{}])), "not a readable .npy"),
    "no landmarks": (lambda f: (f / LANDMARKS_NAME).unlink(), "missing"),
    "half the sound": (_cut_sound, "0.60 s shorter than the picture"),
    "text as sound": (lambda f: (f / AUDIO_NAME).write_text("RIFF"), "not a readable sound file"),
    "no sound": (lambda f: (f / AUDIO_NAME).unlink(), "no cropped_video.wav or audio.wav"),
    "text as video": (lambda f: (f / VIDEO_NAME).write_text("no video"), "cannot be decoded"),
    "empty video": (lambda f: (f / VIDEO_NAME).write_bytes(b""), "empty"),
    "no video": (lambda f: (f / VIDEO_NAME).unlink(), "no such file"),
}


@pytest.mark.parametrize("fault", BAD_CLIPS)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_clip_stops_the_loader_with_path_and_reason(tmp_path, fault, num_workers):
    clips = [make_clip(write_clip_folder(tmp_path / name, num_frames=30)) for name in ("good", "bad")]
    spoil, message = BAD_CLIPS[fault]
    spoil(clips[1].folder)
    config = DataConfig(window_s=0.4, windows_per_clip=1)
    workers = WorkerConfig(batch_size=2, num_workers=num_workers)
    batches, _ = training_loader(clips, config, workers, balance="none", seed=0)
    with pytest.raises(ClipError, match=message) as error:
        list(batches)
    assert "/bad" in str(error.value.path)


def test_evaluation_scores_every_window_once(tmp_path):
    clips = [make_clip(write_clip_folder(tmp_path / str(n), num_frames=n)) for n in (12, 30, 31)]
    batches = evaluation_loader(
        clips, DataConfig(window_s=0.4, windows_per_clip=2), WorkerConfig(batch_size=2, num_workers=1)
    )
    ids = [clip_id for batch in batches for clip_id in batch.clip_ids]
    assert ids == [clip.clip_id for clip in clips for _ in range(2)]


def test_opencv_reads_the_same_frames_where_av_is_missing(tmp_path, monkeypatch):
    clip = make_clip(write_clip_folder(tmp_path / "clip", num_frames=40))
    dataset = ClipDataset([clip], DataConfig(window_s=0.4), training=False)
    with_av = dataset[0, 1]
    find_spec = crop_video.importlib.util.find_spec
    monkeypatch.setattr(
        crop_video.importlib.util, "find_spec", lambda name: None if name == "av" else find_spec(name)
    )
    without_av = dataset[0, 1]
    assert frame_numbers(without_av) == frame_numbers(with_av)
    assert (without_av.video.int() - with_av.video.int()).abs().max() <= 2


def test_evaluation_windows_are_spread_from_start_to_end():
    assert evaluation_starts(50, 3) == [0, 25, 50]
    assert evaluation_starts(50, 1) == [25]
    assert evaluation_starts(1, 3) == [0, 1]
    assert evaluation_starts(0, 5) == [0]
    assert last_start_frame(60, Fraction(25), 2.4) == 0
    assert last_start_frame(75, Fraction(25), 2.4) == 15
    assert last_start_frame(10, Fraction(25), 2.4) == 0


def test_real_clips_may_come_several_times_in_an_epoch():
    labels = [float(i >= 3) for i in range(10)]
    sampler = TrainingSampler(labels, seed=3, repeats={0.0: 4, 1.0: 1})
    draws = list(sampler)
    assert len(sampler) == len(draws) == 3 * 4 + 7
    assert Counter(index for index, _ in draws) == {i: 1 if labels[i] else 4 for i in range(10)}
    assert sorted(repetition for index, (_, repetition) in draws if index == 0) == [0, 1, 2, 3]
    clips = [make_clip(Path(str(i)), label=i % 2) for i in range(4)]
    for balance, length in (("none", 6), ("label", 4), ("real", 4)):
        loader, _ = training_loader(
            clips, DataConfig(), WorkerConfig(batch_size=1, num_workers=0), balance=balance, repeat_reals=2,
            seed=1,
        )  # fmt: skip
        assert len(loader) == length
    with pytest.raises(UsageError, match="repeat_reals"):
        training_loader(
            clips, DataConfig(), WorkerConfig(), balance="none", repeat_reals=2, seed=1,
            dataset_weights={"test": 1.0},
        )  # fmt: skip


def test_without_fakes_only_real_clips_are_drawn():
    clips = [make_clip(Path(str(i)), label=i % 2) for i in range(6)]
    workers = WorkerConfig(batch_size=1, num_workers=0)
    loader, sampler = training_loader(clips, DataConfig(), workers, balance="real", seed=1)
    drawn = sorted(loader.dataset.clips[index].folder.name for index, _ in sampler)
    assert drawn == ["0", "2", "4"]
    clips = [dataclasses.replace(clip, emotion=EMOTIONS[n]) for n, clip in enumerate(clips)]
    loader, sampler = training_loader(
        clips, DataConfig(label_rule="emotion"), workers, balance="real", seed=1
    )  # whatever they play
    assert sorted(loader.dataset.clips[index].folder.name for index, _ in sampler) == drawn
    with pytest.raises(UsageError, match="there is no real training clip"):
        training_loader(clips[1::2], DataConfig(), workers, balance="real", seed=1)


def test_balanced_sampling_draws_classes_alike_and_clips_evenly():
    sampler = TrainingSampler([int(i >= 4) for i in range(40)], seed=3)
    drawn = [index for index, _ in sampler]
    reals = [index for index in drawn if index < 4]
    assert (len(drawn), len(reals)) == (40, 20)
    assert {reals.count(i) for i in range(4)} == {5}
    assert drawn == [index for index, _ in sampler]  # the same epoch, the same order
    keys = list(sampler)
    assert len(set(keys)) == 40  # a clip that comes again comes with another window
    assert sorted(draw for index, draw in keys if index == 0) == [(0, k) for k in range(5)]
    sampler.epoch = 1
    assert drawn != [index for index, _ in sampler]
    assert {epoch for _, (epoch, _) in sampler} == {1}
    assert sorted(index for index, _ in TrainingSampler(["all"] * 40, seed=3)) == list(range(40))


def test_data_sets_have_their_shares_and_are_balanced_within(tmp_path):
    clips = [
        make_clip(tmp_path, clip_id=f"{name}/{i}", dataset=name, label=int(i % 4 > 0))
        for name, count in (("large", 80), ("small", 16)) for i in range(count)
    ]  # fmt: skip
    _, sampler = training_loader(
        clips, DataConfig(), WorkerConfig(batch_size=4, num_workers=0),
        balance="label", seed=1, dataset_weights={"large": 1.0, "small": 2.0},
    )  # fmt: skip
    drawn = Counter((clips[index].dataset, clips[index].label) for index, _ in sampler)
    assert drawn == {("large", 0): 16, ("large", 1): 16, ("small", 0): 32, ("small", 1): 32}


def test_the_training_loader_balances_by_the_label_rule(tmp_path):
    folders = [write_clip_folder(tmp_path / f"a{i}", num_frames=15) for i in range(3)]
    voices = [make_clip(folder, label=1, video_label=0, audio_label=1) for folder in folders]
    faces = [make_clip(write_clip_folder(tmp_path / "v", num_frames=15), label=1, video_label=1)]
    workers = WorkerConfig(batch_size=4, num_workers=0)
    config = DataConfig(window_s=0.4, label_rule="video")
    batches, _ = training_loader(voices + faces, config, workers, balance="label", seed=0)
    (batch,) = batches
    assert sorted(batch.labels.tolist()) == [0, 0, 1, 1]


def test_fakes_in_the_sound_alone_are_named_to_a_method_that_does_not_hear(tmp_path, caplog):
    folder = write_clip_folder(tmp_path / "a", num_frames=15)
    clips = [make_clip(folder, label=1, video_label=0), make_clip(folder, label=1, video_label=1)]

    def told(**needs):
        caplog.clear()
        rule = needs.pop("label_rule", "any")
        workers, config = WorkerConfig(num_workers=0), DataConfig(window_s=0.4, label_rule=rule)
        training_loader(clips, config, workers, balance="none", seed=0, **needs)
        return caplog.messages

    (message,) = told(inputs=frozenset({"video", "landmarks"}))
    assert message.startswith("1 training clips are fake by their sound alone")
    assert not told(inputs=frozenset({"video", "sound"}))
    assert not told(inputs=frozenset({"video"}), label_rule="video")


def test_a_clip_without_enough_sound_for_one_step_is_an_error(tmp_path):
    clip = make_clip(write_clip_folder(tmp_path / "clip", num_frames=2))
    with pytest.raises(ClipError, match="shorter than 0.1 s"):
        ClipDataset([clip], DataConfig(window_s=0.4), training=False, min_window_s=0.1)[0, 0]
    one_frame = ClipDataset([clip], DataConfig(window_s=0.04, windows_per_clip=2), training=False)
    assert [len(one_frame[key].video) for key in one_frame.evaluation_keys()] == [1, 1]


def test_colour_jitter_changes_training_windows_alone_and_by_seed_epoch_and_clip(tmp_path):
    clip = make_clip(write_clip_folder(tmp_path / "clip", num_frames=20))
    plain = ClipDataset([clip], DataConfig(window_s=0.4), training=True, seed=1)[0, (3, 0)]

    def jittered(seed=1, training=True):
        config = DataConfig(window_s=0.4, augment=True, windows_per_clip=1)
        return ClipDataset([clip], config, training=training, seed=seed)[0, (3, 0) if training else 0]

    changed = jittered()
    assert (changed.video.float() - plain.video.float()).abs().mean() > 2
    assert frame_numbers(changed) == frame_numbers(plain)  # the same window, and still the same picture
    assert torch.equal(changed.video, jittered().video)
    assert not torch.equal(changed.video, jittered(seed=2).video[: len(changed.video)])
    evaluated = ClipDataset([clip], DataConfig(window_s=0.4, windows_per_clip=1), training=False)[0, 0]
    assert torch.equal(jittered(training=False).video, evaluated.video)


def test_colours_and_rectangles_go_from_whole_windows_at_random():
    noise = np.random.default_rng(0)
    both = DataConfig(gray_chance=0.5, erase_chance=0.5)
    gray, erased = [], []
    for epoch in range(200):
        frames = noise.integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
        found = change_frames(frames, both, (7, epoch, 0, 1))
        alone = change_frames(frames, DataConfig(gray_chance=0.5), (7, epoch, 0, 1))
        gray.append((alone[..., :1] == alone).all())
        changed = (found != alone).any(axis=(0, 3))
        erased.append(changed.any())
        if erased[-1]:
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            inside = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            assert (found[inside] == found[inside][:1, :1, :1]).all()  # one colour in all frames
            np.testing.assert_allclose(found[inside][0, 0, 0], alone.mean(axis=(0, 1, 2)), atol=0.5)
            assert 0.01 < changed.mean() < 0.36
            assert changed[inside[1:]].mean() > 0.9
        if not gray[-1]:
            assert alone is frames
    assert np.mean(gray) == pytest.approx(0.5, abs=0.1)
    assert np.mean(erased) == pytest.approx(0.5, abs=0.1)
    assert abs(np.corrcoef(gray, erased)[0, 1]) < 0.2
    luma = 0.299 * frames[..., 0] + 0.587 * frames[..., 1] + 0.114 * frames[..., 2]
    np.testing.assert_allclose(without_color(frames), np.repeat(luma[..., None], 3, axis=3), atol=1)


def test_changes_of_frames_move_no_window_and_stay_out_of_evaluation(tmp_path):
    clip = make_clip(write_clip_folder(tmp_path / "clip", num_frames=20))
    changed = DataConfig(window_s=0.4, gray_chance=1.0, erase_chance=1.0, windows_per_clip=1)
    plain = DataConfig(window_s=0.4, windows_per_clip=1)
    for draw in ((0, 0), (1, 0), (1, 1)):
        one, two = (ClipDataset([clip], c, training=True, seed=1)[0, draw] for c in (changed, plain))
        assert torch.equal(one.landmarks, two.landmarks)
        assert torch.equal(one.waveform, two.waveform)
        assert (one.video == one.video[..., :1]).all()
        assert not torch.equal(one.video, two.video)
    one, two = (ClipDataset([clip], config, training=False)[0, 0] for config in (changed, plain))
    assert torch.equal(one.video, two.video)
    with pytest.raises(UsageError, match="--gray_chance has no effect here: the method loads no picture"):
        training_loader(
            [clip], changed, WorkerConfig(num_workers=0), balance="label", seed=1, inputs=frozenset({"sound"})
        )


def test_a_training_window_is_labelled_by_what_it_shows(tmp_path):
    """A clip of 2.4 s whose sound is forged from 1.0 to 1.4 s: windows of 0.4 s at all places."""
    clip = make_clip(
        write_clip_folder(tmp_path / "clip", num_frames=60), label=1, audio_label=1,
        audio_fake_segments=((1.0, 1.4),),
    )  # fmt: skip
    dataset = ClipDataset([clip], DataConfig(window_s=0.4), training=True)
    seen = set()
    for repetition in range(60):
        window = dataset[0, (0, repetition)]
        first = frame_numbers(window)[0]
        shown_s = min(1.4, first / 25 + 0.4) - max(1.0, first / 25)
        expected = float(shown_s > 0.099)
        assert (window.label, window.audio_label, window.video_label) == (expected, expected, 0.0), first
        seen.add(expected)
    assert seen == {0.0, 1.0}

    evaluated = ClipDataset([clip], DataConfig(window_s=0.4), training=False)
    assert {evaluated[key].label for key in evaluated.evaluation_keys()} == {1.0}
    released = DataConfig(window="released", windows_per_clip=1)
    assert ClipDataset([clip], released, training=True)[0, (0, 0)].label == 1.0


@pytest.mark.parametrize(
    ("changes", "window", "expected"),
    [
        ({"video_label": 1, "video_fake_segments": ((1.0, 2.0),)}, (0.0, 1.0), (0, 0, 0)),
        ({"video_label": 1, "video_fake_segments": ((1.0, 2.0),)}, (0.0, 1.09), (0, 0, 0)),
        ({"video_label": 1, "video_fake_segments": ((1.0, 2.0),)}, (0.0, 1.1), (1, 1, 0)),
        # shorter than 0.1 s: seen as a whole or not; a cut has no length at all
        ({"video_label": 1, "video_fake_segments": ((1.0, 1.04),)}, (0.0, 1.02), (0, 0, 0)),
        ({"video_label": 1, "video_fake_segments": ((1.0, 1.04),)}, (0.0, 1.04), (1, 1, 0)),
        ({"audio_label": 1, "audio_fake_segments": ((1.0, 1.0),)}, (0.5, 1.5), (1, 0, 1)),
        ({"audio_label": 1, "audio_fake_segments": ((1.0, 1.0),)}, (1.2, 1.5), (0, 0, 0)),
        # each modality by its own segments; without segments, the whole clip is forged
        (
            {
                "video_label": 1,
                "audio_label": 1,
                "video_fake_segments": ((0, 1),),
                "audio_fake_segments": ((2, 3),),
            },
            (2.0, 2.5),
            (1, 0, 1),
        ),
        ({"video_label": 1, "audio_label": 1, "video_fake_segments": ((0, 1),)}, (2.0, 2.5), (1, 0, 1)),
        # the sound may be forged where the picture is not: the clip's label stays
        ({"video_label": 1, "audio_label": None, "video_fake_segments": ((0, 1),)}, (2, 2.5), (1, 0, None)),
        ({"video_label": 1, "audio_label": 1}, (2, 2.5), (1, 1, 1)),
    ],
)
def test_window_labels(tmp_path, changes, window, expected):
    clip = make_clip(tmp_path, label=1, **changes)
    wanted = [np.nan if value is None else float(value) for value in expected]
    np.testing.assert_array_equal(window_labels(clip, "any", *window, 0.1), wanted)
    by_picture = window_labels(clip, "video", *window, 0.1)
    np.testing.assert_array_equal(by_picture, [wanted[1], *wanted[1:]])
