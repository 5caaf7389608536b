"""The stages of M2SD's training: teacher, expert, and what the student learns of both."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

import train
from losses.m2sd import M2SDLoss, M2SDLossConfig, synchrony, synchrony_accuracy
from models.blocks.face_parts import places_of_parts
from models.m2sd import M2SDDetector
from models.m2sd.config import PRESETS, M2SDConfig
from models.m2sd.front_end import AlignedClips
from models.m2sd.teachers import masks_of, moved_sound
from models.method import needs_of
from tests.clip_factory import make_batch
from tests.unit.models.backbones.test_videomae import encoder_file, pretrained_file
from tests.unit.models.test_face_parts import drawn, face, shares
from utils.checkpoint.files import save_checkpoint
from utils.config import to_plain
from utils.errors import CheckpointError, UsageError

TINY = {"vit": "tiny", "image_size": 32, "clip_frames": 4, "jitter_px": 0.0}
SECONDS = 0.16  # of four frames


def model_of(stage, seed=0, **fields):
    torch.manual_seed(seed)
    return M2SDDetector(M2SDConfig(stage=stage, **TINY | {"mask_ratio": 0.5} | fields))


def batch_of(count=4, seed=0):
    return make_batch(count, 4, size=40, seconds=SECONDS, seed=seed)


def saved(model, path):
    """A run's checkpoint of a model."""
    config = {"train": {}, "data": {}, "model": to_plain(model.config)}
    save_checkpoint(path, {"model": model.state_dict(), "config": config, "split_checksums": {}})
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Checkpoints of teacher and expert, 45 MB of it; do not write into them."""
    root = tmp_path_factory.mktemp("files")
    return {stage: saved(model_of(stage, seed=3), root / f"{stage}.pt") for stage in ("teacher", "expert")}


def student(files, stage="pretrain", **fields):
    return model_of(stage, **{"stp": "both", "vac": "mixed"} | files | fields)


def steps(model, batch, count, rate=3e-3, **weights):
    """The terms of `count` steps on one batch."""
    criterion = M2SDLoss(M2SDLossConfig(**weights))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate)
    told = []
    for _ in range(count):
        terms = criterion(model(batch), batch)
        told.append({name: term.item() for name, term in terms.items()})
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
    return told


def test_the_teacher_learns_pixels_and_its_score_is_its_error():
    model, batch = model_of("teacher"), batch_of()
    told = steps(model.train(), batch, 30)
    assert told[-1]["stp_pixels"] < told[0]["stp_pixels"]
    assert told[-1].keys() == {"total", "stp_pixels"}
    with torch.no_grad():
        once, again = (model.eval()(batch) for _ in range(2))
        alone = model(dataclasses.replace(batch_of(1), labels=batch.labels[:1]))
    assert torch.equal(once.logits, again.logits)  # masks are drawn in training only
    errors = (once.pixel_predictions - once.pixel_targets).square().mean((1, 2))
    torch.testing.assert_close(once.logits, errors - 1)
    assert alone.logits.shape == (1,)


@pytest.mark.parametrize("align", [True, False])
def test_parts_of_the_face_are_masked_where_the_network_is_shown_them(align):
    """Pictures are white where the landmarks have a part, turned, moved and mirrored with them."""
    points = torch.stack([face(scale=0.25, turn=turn, middle=(0.55, 0.5)) for turn in (0.3, -0.2)])
    pictures = torch.stack([torch.from_numpy(drawn(row, 280)) for row in points])
    batch = make_batch(3, 4, size=280, seconds=SECONDS)
    video, landmarks = batch.video.clone(), batch.landmarks.clone()
    video[:2] = pictures[:, None, None]
    landmarks[:2] = points[:, None]
    unknown = batch.landmark_padding_mask.clone()
    landmarks[0, 1], unknown[0, 1], unknown[2] = 0.0, True, True  # one frame, and a clip without a face
    batch = dataclasses.replace(batch, video=video, landmarks=landmarks, landmark_padding_mask=unknown)
    fields = {"image_size": 224, "mask_parts": True, "align": align, "jitter_px": 4.0 if align else 0.0}
    clips = AlignedClips(M2SDConfig(**TINY | fields)).train()
    torch.manual_seed(0)
    mirrored = set()
    for _ in range(6):
        shown = clips(batch)
        levels = clips.levels(shown.video)
        found = places_of_parts(shown.points, (2, 14, 14))
        masks = masks_of(shown, (2, 14, 14), 0.9, training=True)[:, :196]
        assert masks.sum(1).tolist() == [176] * 3
        assert masks[found].all()
        for row in range(2):
            picture = (255 * levels[row, 0, 0]).round().byte().numpy()
            assert found[row][shares(picture, 14, 14) > 0.1].all()
            assert not found[row][shares(picture, 14, 14, margin=2) == 0].any()
        mirrored.add(bool(shown.points[0, 33, 0] > shown.points[0, 263, 0]))
        assert shown.points[2].isnan().all()
        assert not found[2].any()
    assert mirrored == {True, False}
    assert AlignedClips(M2SDConfig(**TINY))(batch).points is None


def test_the_teacher_starts_from_videomae(tmp_path):
    torch.save({"model": pretrained_file()}, tmp_path / "videomae.pth")
    model = model_of("teacher", init_from=tmp_path / "videomae.pth")
    weights = model.state_dict()["teacher_stage.network.encoder.patch_embedding.weight"]
    assert torch.equal(weights, encoder_file()["encoder.patch_embed.proj.weight"])


def reals(batch):
    nothing_fake = torch.zeros(len(batch.labels))
    return dataclasses.replace(
        batch, labels=nothing_fake, video_labels=nothing_fake, audio_labels=nothing_fake
    )


def test_the_expert_learns_which_slots_belong_together():
    model, batch = model_of("expert").train(), reals(make_batch(4, 20, size=40, seconds=0.8))
    told = steps(model, batch, 40, rate=1e-3)
    assert told[-1].keys() == {"total", "sync"}
    assert told[-1]["sync"] < 0.5 * told[0]["sync"]
    with torch.no_grad():
        output = model.eval()(batch)
        found = M2SDLoss(M2SDLossConfig()).eval()(output, batch)
    assert output.shifts.tolist() == [[-4, -3, -2, -1, 1, 2, 3, 4, 0]] * 4
    assert found["sync_accuracy"] > 0.7  # of nine
    assert model.modalities == {"video", "audio"}
    assert needs_of(model, model.config)["inputs"] == {"video", "sound", "landmarks"}


def test_the_experts_sound_is_that_of_the_windows_middle_moved_by_slots():
    rate, shifts = 100, torch.tensor([[-4, 1, 0], [4, -2, 0]])
    samples = torch.arange(80.0).repeat(2, 1)  # 0.8 s: 4 frames, and 8 before and after them
    pieces = moved_sound(samples, rate, shifts, 4)
    starts = 32 + 8 * shifts
    torch.testing.assert_close(pieces, (starts[..., None] + torch.arange(16)).float())
    ended = moved_sound(samples[:, :50], rate, shifts, 4)
    assert torch.equal(ended, torch.where(pieces < 50, pieces, 0.0))


def test_synchrony_knows_no_neighbours_and_no_fakes():
    torch.manual_seed(0)
    seen = F.normalize(torch.randn(3, 4, 6), dim=2).requires_grad_()
    heard = F.normalize(torch.randn(3, 2, 4, 6), dim=3).requires_grad_()
    known, shifts = torch.tensor([True, False, True]), torch.tensor([[2, 0], [3, 0], [-3, 0]])
    loss = synchrony(seen, heard, shifts, known)
    seen_slots = [(row, slot, seen[row, slot]) for row in (0, 2) for slot in range(4)]
    heard_slots = [
        (row, slot + int(shifts[row, piece]), piece, heard[row, piece, slot])
        for row in (0, 2) for piece in range(2) for slot in range(4)
    ]  # fmt: skip
    found = [], []
    for row, slot, one in seen_slots:
        rivals = [other for r, s, _, other in heard_slots if r == row and abs(s - slot) > 1]
        scores = torch.stack([one @ heard[row, 1, slot], *(one @ other for other in rivals)]) / 0.07
        found[0].append(torch.logsumexp(scores, 0) - scores[0])
    for row, time, _, one in heard_slots:
        if 0 <= time < 4:
            rivals = [other for r, s, other in seen_slots if r == row and abs(s - time) > 1]
            scores = torch.stack([one @ seen[row, time], *(one @ other for other in rivals)]) / 0.07
            found[1].append(torch.logsumexp(scores, 0) - scores[0])
    assert [len(losses) for losses in found] == [8, 8 + 2 + 1]
    by_hand = sum(torch.stack(losses).mean() for losses in found) / 2
    torch.testing.assert_close(loss, by_hand, atol=1e-5, rtol=0)
    loss.backward()
    assert (seen.grad[1] == 0).all()
    assert (heard.grad[1] == 0).all()
    assert synchrony(seen, heard, shifts, torch.zeros(3, dtype=torch.bool)).item() == 0


def test_a_place_in_the_clip_is_not_synchrony():
    places = torch.eye(8).expand(2, 8, 8)
    known, shifts = torch.tensor([True, True]), torch.tensor([[3, 0], [-2, 0]])
    of_places = synchrony(places, places[:, None].expand(2, 2, 8, 8), shifts, known)
    times = torch.eye(16)
    seen = times[4:12].expand(2, 8, 16)
    heard = torch.stack([torch.stack([times[4 + k : 12 + k] for k in row]) for row in shifts.tolist()])
    of_times = synchrony(seen, heard, shifts, known)
    assert of_times < 0.1 < 0.5 < of_places
    assert synchrony_accuracy(places, places[:, None].expand(2, 9, 8, 8), known).item() == 0


def test_the_accuracy_of_synchrony_is_over_shifts():
    slots = F.normalize(torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(0)), dim=2)
    known = torch.tensor([True, True])
    moved = torch.stack([slots.roll(2, dims=1), slots.roll(1, dims=1), slots], dim=1)
    assert synchrony_accuracy(slots, moved, known).item() == 1
    assert synchrony_accuracy(slots, moved.flip(1), known).item() == 0
    half = torch.stack([moved[0], moved[1].flip(0)])
    assert synchrony_accuracy(slots, half, known).item() == 0.5


def test_a_student_learns_of_both_and_keeps_neither(files):
    model, batch = student(files), batch_of()
    told = steps(model.train(), batch, 25)
    assert told[0].keys() == {"total", "stp_tokens", "stp_pixels", "vac"}
    assert told[-1]["vac"] < told[0]["vac"]
    assert told[-1]["stp_tokens"] < told[0]["stp_tokens"]
    frozen = student(files).frozen
    for name, value in model.frozen.named_parameters():
        assert value.grad is None
        assert torch.equal(value, frozen.get_parameter(name))
    assert not model.frozen.training
    assert not any("frozen" in key for key in model.state_dict())
    trained = {id(p) for group in model.parameter_groups() for p in group["params"]}
    assert not trained & {id(p) for p in model.frozen.parameters()}
    fresh = student(files, seed=5)
    fresh.load_state_dict(model.state_dict())  # as a resumed run does
    bare = student({})
    bare.load_state_dict(model.state_dict())  # as testing does, which has no files
    with torch.no_grad():
        expected = model.eval()(batch)
        torch.testing.assert_close(fresh.eval()(batch).token_predictions, expected.token_predictions)
        output = bare.eval()(batch)
    assert output.token_predictions is output.slot_predictions is None
    assert (output.logits == 0).all()


def test_targets_are_the_teachers_features_of_the_whole_clip_and_the_experts_slots(files):
    model, batch = student(files, vac="video").eval(), batch_of()
    with torch.no_grad():
        output, video = model(batch), model.clips(batch).video
        features = model.frozen.teacher(video)
        slots = model.frozen.expert.video_slots(video)
    assert output.token_targets.shape == (4, 4, 48)
    rows = {int((features[0] == target).all(1).nonzero()) for target in output.token_targets[0]}
    assert len(rows) == 4
    torch.testing.assert_close(output.slot_targets, slots)


def test_half_of_the_clips_with_real_sound_learn_the_sounds_slots(files):
    batch = batch_of(200)
    silent = batch.waveform.clone()
    silent[:50] = 0
    audio_labels = torch.zeros(200)
    audio_labels[50:100] = 1
    batch = dataclasses.replace(batch, waveform=silent, audio_labels=audio_labels)
    model = student(files, stp="none").train()
    model.clips.eval()
    with torch.no_grad():
        targets = model(batch).slot_targets
        seen = model.frozen.expert.video_slots(model.clips(batch).video)
    changed = (targets - seen).abs().amax((1, 2)) > 1e-4
    assert not changed[:100].any()
    assert changed[100:].double().mean() == pytest.approx(0.5, abs=0.15)


def test_fine_tuning_goes_on_from_pre_training(files, tmp_path):
    before = student(files, seed=7)
    path = saved(before, tmp_path / "pretrain.pt")
    model = student(files, stage="finetune", init_from=path, vac="video")
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    told = steps(model.train(), batch_of(), 2)
    assert {"ce", "rs", "stp_tokens", "stp_pixels", "vac", "cosine_real"} < told[0].keys()
    with pytest.raises(CheckpointError, match="not a checkpoint of m2sd's stage pretrain"):
        student(files, stage="finetune", init_from=files["teacher"])


def blended_batch():
    """Eight real clips, and eight whose faces have a patch of another one blended in."""
    torch.manual_seed(0)
    real, donor = (
        F.interpolate(torch.rand(8, 3, 5, 5), size=(40, 40), mode="bicubic").clamp(0, 1) for _ in range(2)
    )
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 40)] * 2, indexing="ij")
    mask = torch.sigmoid(12 * (0.5 - (x.square() + y.square()).sqrt()))
    pictures = torch.cat([real, real + mask * (donor - real)])
    labels = torch.arange(16) // 8
    video = (255 * pictures).to(torch.uint8)[:, :, None].expand(-1, -1, 4, -1, -1)
    batch = make_batch(16, 4, size=40, seconds=SECONDS)
    return dataclasses.replace(batch, video=video, labels=labels.float(), video_labels=labels.float())


def test_sixteen_clips_are_learnt_by_heart():
    model = model_of("finetune", align=False, drop_path=0.0).train()
    model.clips.eval()
    told = steps(model, blended_batch(), 80)
    assert told[-1]["ce"] < 0.05


def test_a_published_videomae_can_teach(tmp_path):
    torch.save({"model": pretrained_file()}, tmp_path / "videomae.pth")
    model = student({}, teacher=tmp_path / "videomae.pth", stp="tokens", vac="none")
    assert torch.equal(
        model.frozen.teacher.patch_embedding.weight, encoder_file()["encoder.patch_embed.proj.weight"]
    )


def test_checkpoints_of_other_stages_or_sizes_are_refused(files):
    with pytest.raises(CheckpointError, match="not a checkpoint of m2sd's stage expert"):
        student(files, expert=files["teacher"])
    with pytest.raises(CheckpointError, match="--image_size was 32, and is 48 here"):
        student(files, image_size=48)
    with pytest.raises(CheckpointError, match="give --teacher_vit tiny"):
        student(files, teacher_vit="small")


def test_a_student_without_what_it_learns_from_says_so(files):
    with pytest.raises(UsageError, match="--teacher"):
        student({"expert": files["expert"]}).train()(batch_of())
    with pytest.raises(UsageError, match="--expert"):
        student({"teacher": files["teacher"]}).train()(batch_of())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--preset", "m2sd_teacher", "--stp", "pixels"), "stp has no effect here: stage is teacher"),
        (
            ("--preset", "m2sd_expert", "--mask_ratio", "0.5"),
            "mask_ratio has no effect here: stage is expert",
        ),
        (
            ("--preset", "m2sd_expert", "--mask_parts"),
            "mask_parts has no effect here: stage is expert",
        ),
        (("--mask_parts",), "mask_parts has no effect here: nothing is masked without stp"),
        (
            ("--stp", "pixels", "--mask_parts", "--align", "false", "--landmark_normalization", "face_box"),
            "--mask_parts needs landmarks in the crop",
        ),
        (("--expert", "x.pt"), "expert has no effect here: vac asks for no slots"),
        (
            ("--preset", "m2sd_pretrain", "--fake_index", "1"),
            "fake_index has no effect here: stage is pretrain",
        ),
        (("--stage", "pretrain"), "stage pretrain needs stp or vac"),
    ],
)
def test_flags_of_other_stages_are_errors(flags, message):
    with pytest.raises(UsageError, match=message):
        train.parse_args(["--model", "m2sd", *flags])


def test_the_stages_are_presets():
    stages = {name: fields["model"].get("stage", "finetune") for name, fields in PRESETS.items()
              if name.startswith("m2sd_")}  # fmt: skip
    assert stages == {f"m2sd_{stage}": stage for stage in ("teacher", "expert", "pretrain", "finetune")}
