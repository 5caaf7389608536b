"""M2SD's student: published weights, its polarity, short clips, alignment, and learning rates by layer."""

import dataclasses
import logging
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import train
from models.blocks.vit import ViTSize
from models.m2sd import M2SDDetector
from models.m2sd.config import PRESETS, STUDENTS, M2SDConfig
from models.m2sd.front_end import MEAN, STD, AlignedClips, mirrored_places
from models.method import check_config
from models.restore import released_fields
from tests.clip_factory import make_batch
from tests.parity.m2sd import fill, normalised, published_names
from utils.config import to_plain
from utils.errors import CheckpointError, UsageError
from utils.run.loop_config import LoopConfig
from utils.run.training import make_optimizer

TINY = {"vit": "tiny", "image_size": 32, "clip_frames": 4}


def tiny(**fields):
    torch.manual_seed(0)
    return M2SDDetector(M2SDConfig(**TINY | fields))


def released_shapes(size):
    """Shapes of a published checkpoint's tensors."""
    width, hidden = size.width, 4 * size.width
    shapes = {"cls_token": (1, 1, width), "patch_embed.proj.weight": (width, 3, 2, 16, 16)}
    shapes |= {"head.weight": (2, width), "head.bias": (2,)}
    of_blocks = {"attn.qkv.weight": (3 * width, width), "attn.proj.weight": (width, width)}
    of_blocks |= {"mlp.fc1.weight": (hidden, width), "mlp.fc1.bias": (hidden,)}
    of_blocks |= {"mlp.fc2.weight": (width, hidden)}
    parts = {key: ".".join(key.split(".")[2:]) for key in published_names(size.depth)}
    return {key: shapes.get(key) or of_blocks.get(part) or (width,) for key, part in parts.items()}


def released_file(size=STUDENTS["tiny"], seed=0):
    """A published checkpoint's state_dict with random weights."""
    return {key: fill(key, shape, seed) for key, shape in released_shapes(size).items()}


def plain_batch(frames):
    """(B, T, H, W, 3) uint8 with landmarks of no face."""
    count, length, side = frames.shape[:3]
    batch = make_batch(count, length, size=side)
    video = frames.permute(0, 4, 1, 2, 3)
    return dataclasses.replace(
        batch, video=video, landmark_padding_mask=torch.ones(count, length, dtype=torch.bool)
    )


@pytest.mark.parametrize(("vit", "count", "tensors"), [("tiny", 130_466, 33), ("base", 86_229_506, 163)])
def test_number_of_parameters(vit, count, tensors):
    with torch.device("meta"):
        model = M2SDDetector(M2SDConfig(vit=vit))
    assert sum(value.numel() for value in model.parameters()) == count
    assert len(model.state_dict()) == tensors  # no positions, no statistics of colours


F5 = {  # logits, first values of the feature, its norm, tolerance
    "tiny": ((-0.0325, 0.0481), (-0.9881, 1.1374, -0.7317, 1.1444), math.sqrt(48), 1e-3),
    "base": ((-0.1220, 0.1413), (-2.0153, -0.7494, 0.1952, 0.8611), 27.7128, 2e-3),
}


@pytest.mark.parametrize("vit", ["tiny", pytest.param("base", marks=pytest.mark.slow)])
def test_the_deterministic_network_gives_the_specifications_numbers(vit):
    """F5: weights of sines by the rank of their names."""
    sizes = TINY if vit == "tiny" else {"vit": "base"}
    model = M2SDDetector(M2SDConfig(**sizes)).eval()
    shapes = released_shapes(STUDENTS[vit])
    state = {}
    for rank, key in enumerate(sorted(shapes)):
        numbers = torch.arange(math.prod(shapes[key]), dtype=torch.float64)
        values = 0.02 * torch.sin(0.37 * numbers + rank)
        if "norm" in key:
            values = torch.full_like(numbers, float(key.endswith("weight")))
        state[key] = values.float().view(shapes[key])
    model.load_released(state)
    frames, side = model.config.clip_frames, model.config.image_size
    video = torch.sin(0.01 * torch.arange(3 * frames * side**2, dtype=torch.float64)).float()
    with torch.no_grad():
        feature = model.vit(video.view(1, 3, frames, side, side))[:, 0]
        scores = model.head(feature)
    logits, start, norm, tolerance = F5[vit]
    torch.testing.assert_close(scores[0], torch.tensor(logits), atol=tolerance, rtol=0)
    torch.testing.assert_close(feature[0, :4], torch.tensor(start), atol=tolerance, rtol=0)
    assert feature.norm().item() == pytest.approx(norm, abs=tolerance)


@pytest.mark.parametrize("fake_index", [0, 1])
def test_a_released_file_scores_as_published_by_the_stated_polarity(shared, fake_index):
    """Trap T2: which score is that of a fake is a setting."""
    fixture = load_file(shared / "fixtures/m2sd_released.safetensors")
    state = released_file(seed=20241227)
    fields = released_fields(M2SDDetector, {"released": state}, "M2SD.pt")
    assert fields == {"vit": "tiny"}
    model = tiny(**fields, fake_index=fake_index, align=False).eval()
    model.load_released(state)
    with torch.no_grad():
        output = model(plain_batch(fixture["tiny.clip"]))
    probs = output.logits.sigmoid().double()
    expected = fixture["tiny.prob_index0"]
    torch.testing.assert_close(probs, expected if fake_index == 0 else 1 - expected, atol=1e-4, rtol=0)
    assert output.video_logits is output.logits
    assert output.audio_logits is None
    torch.testing.assert_close(output.embedding, fixture["tiny.feature"], atol=1e-4, rtol=1e-4)


def test_a_released_file_is_loaded_whole_or_not_at_all(caplog):
    """Trap T5: random weights would give plausible scores."""
    model, state = tiny(), released_file()
    with caplog.at_level(logging.INFO):
        model.load_released(state | {"decoder.norm.weight": torch.ones(3)})
    assert "not used, of the released checkpoint: 'decoder.norm.weight'" in caplog.text
    for key in ("blocks.1.attn.q_bias", "head.bias", "cls_token"):
        lacking = {name: value for name, value in state.items() if name != key}
        with pytest.raises(CheckpointError, match="does not fit"):
            tiny().load_released(lacking)
    with pytest.raises(CheckpointError, match="not a released checkpoint of m2sd"):
        released_fields(M2SDDetector, {"released": released_file(ViTSize(48, 3, 3))}, "M2SD.pt")


def test_the_whole_model_moves_to_another_device():
    """Trap T1: mean and deviation of the colours stay on the CPU, where no clip on a GPU can be."""
    model = tiny().to("meta")
    assert all(value.is_meta for value in (*model.buffers(), *model.parameters()))
    assert {"clips.mean", "clips.std", "clips.template", "vit.positions"} == dict(
        model.named_buffers()
    ).keys()
    left = [value for module in model.modules() for value in vars(module).values() if torch.is_tensor(value)]
    assert not left


def test_the_head_starts_small_and_the_released_one_at_nothing():
    """Trap T7: a head of zeros sends no gradient into the network."""
    batch = make_batch(2, 4, size=40)
    for scale in (PRESETS["released"]["model"]["head_init_scale"], M2SDConfig.head_init_scale):
        model = tiny(head_init_scale=scale)
        logits = model(batch).logits
        nn.functional.binary_cross_entropy_with_logits(logits, batch.labels).backward()
        norm = model.vit.blocks[0].qkv.weight.grad.norm()
        assert (norm == 0) == (scale == 0) == (logits == 0).all()


def test_a_narrow_students_first_weights_see_detail():
    """What tells two clips of the same colours apart reaches the class token, as it hardly does otherwise."""
    noise = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    parts = noise.unflatten(4, (2, 16)).unflatten(3, (2, 16)).unflatten(2, (2, 2))
    clips = parts.sub(parts.mean(dim=(3, 5, 7), keepdim=True)).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    cosines = {}
    for name in ("published", "narrow"):
        features = tiny(first_weights=name).vit(clips / 4)[:, 0]
        cosines[name] = nn.functional.cosine_similarity(*features, dim=0).item()
    assert cosines["published"] > 0.999
    assert cosines["narrow"] < 0.99


def test_short_clips_are_mirrored_and_padding_changes_nothing():
    """Trap T8: up to four frames end the published program."""
    places = mirrored_places(torch.tensor([1, 2, 3, 5, 16]), 16).tolist()
    assert places[0] == [0] * 16
    assert places[1] == [0, 1] * 8
    assert places[2] == [0, 1, 2, 1] * 4
    assert places[3][:9] == [0, 1, 2, 3, 4, 3, 2, 1, 0]
    assert places[4] == list(range(16))
    model = tiny().eval()
    whole = make_batch(2, 4, size=40)
    cut = dataclasses.replace(
        whole,
        video=whole.video[:, :, :3],
        landmarks=whole.landmarks[:, :3],
        video_padding_mask=whole.video_padding_mask[:, :3],
        landmark_padding_mask=whole.landmark_padding_mask[:, :3],
        frame_labels=whole.frame_labels[:, :3],
        forged_frames=whole.forged_frames[:, :3],
    )
    with torch.no_grad():
        expected, padded = model(cut), model(cut.padded_to((4, cut.lengths[1])))
    torch.testing.assert_close(padded.logits, expected.logits, rtol=0, atol=0)


def test_without_landmarks_the_crop_is_shown_as_prepared():
    frames = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    batch = plain_batch(frames)
    clips = AlignedClips(M2SDConfig(**TINY | {"image_size": 224})).eval()
    side = AlignedClips(M2SDConfig(**TINY | {"align": False})).eval()
    torch.testing.assert_close(side(batch).video, normalised(frames).float(), atol=1e-5, rtol=0)
    large = clips(batch).video
    assert large.shape == (2, 3, 4, 224, 224)
    # the middle of a pixel of the crop is that of seven here
    torch.testing.assert_close(large[..., 3::7, 3::7], normalised(frames).float(), atol=0.02, rtol=0)


def face_batch(turn=0.0, shift=(0.0, 0.0), side=160):
    """A picture of soft blobs with the five points, turned and shifted together."""
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    cosine, sine = math.cos(turn), math.sin(turn)
    middle = side / 2
    u = cosine * (x - middle - shift[0]) + sine * (y - middle - shift[1])
    v = -sine * (x - middle - shift[0]) + cosine * (y - middle - shift[1])
    level = 128 + 60 * torch.sin(u / 9) * torch.cos(v / 7)
    batch = make_batch(1, 4, size=side)
    spots = {33: (-30, -20), 133: (-18, -20), 362: (18, -20), 263: (30, -20), 1: (0, 8)}
    spots |= {61: (-17, 28), 291: (17, 28)}
    landmarks = torch.zeros(1, 4, 478, 2)
    for number, (a, b) in spots.items():
        place = (cosine * a - sine * b + middle + shift[0], sine * a + cosine * b + middle + shift[1])
        landmarks[..., number, :] = torch.tensor(place) / side
    video = level.round().to(torch.uint8).expand(1, 3, 4, side, side)
    return dataclasses.replace(batch, video=video, landmarks=landmarks)


def test_a_turned_and_shifted_face_looks_the_same():
    clips = AlignedClips(M2SDConfig(**TINY | {"image_size": 64})).eval()
    upright = clips(face_batch()).video
    turned = clips(face_batch(turn=0.3, shift=(6.0, -4.0))).video
    inner = (..., slice(16, 48), slice(16, 48))
    assert (upright[inner] - turned[inner]).abs().max() < 0.1
    assert upright[inner].std() > 0.4
    crop = AlignedClips(M2SDConfig(**TINY | {"image_size": 64, "align": False})).eval()
    cropped, tilted = (crop(face_batch(turn=turn)).video for turn in (0.0, 0.3))
    assert (cropped[inner] - tilted[inner]).abs().max() > 1


def test_frames_without_a_face_do_not_move_the_others():
    batch = face_batch()
    spoilt = batch.landmarks.clone()
    spoilt[:, 2] = 0
    mask = batch.landmark_padding_mask.clone()
    mask[:, 2] = True
    clips = AlignedClips(M2SDConfig(**TINY)).eval()
    missing = dataclasses.replace(batch, landmarks=spoilt, landmark_padding_mask=mask)
    torch.testing.assert_close(clips(missing).video, clips(batch).video, atol=0.02, rtol=0)


def test_training_moves_and_mirrors_whole_clips():
    clips, batch = AlignedClips(M2SDConfig(**TINY)).train(), face_batch()
    torch.manual_seed(0)
    shown = torch.cat([clips(batch).video for _ in range(12)])
    torch.testing.assert_close(shown, shown[:, :, :1].expand_as(shown))  # all frames of a clip alike
    plain = AlignedClips(M2SDConfig(**TINY | {"jitter_px": 0.0})).train()
    variants = torch.cat([plain(batch).video for _ in range(12)])
    assert len(variants.unique(dim=0)) == 2
    torch.testing.assert_close(*variants.unique(dim=0).flip(-1)[[0, 1]].flip(0)[[0, 0]])
    assert len(shown.unique(dim=0)) == 12


def test_pictures_are_normalised_by_imagenets_colours():
    levels = torch.tensor([0, 255, 128], dtype=torch.uint8)
    frames = levels.expand(1, 4, 32, 32, 3)
    found = AlignedClips(M2SDConfig(**TINY | {"align": False})).eval()(plain_batch(frames)).video
    expected = (levels.numpy() / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(found[0, :, 0, 0, 0], expected, atol=1e-5)


def test_learning_rates_fall_from_the_head_to_the_first_layer():
    model = tiny(layer_decay=0.5)
    groups = model.parameter_groups()
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    optimizer, scheduler = make_optimizer(
        LoopConfig(learning_rate=0.1, weight_decay=0.05, warmup_epochs=0), groups, 1
    )
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert scheduler.get_last_lr()[0] == pytest.approx(0.1)  # the one that is logged
    vit = model.vit
    assert found[model.head.weight] == (pytest.approx(0.1), 0.05)
    assert found[vit.norm.weight] == (pytest.approx(0.1), 0)
    assert found[vit.blocks[1].qkv.weight] == (pytest.approx(0.05), 0.05)
    assert found[vit.blocks[0].q_bias] == (pytest.approx(0.025), 0)
    assert found[vit.patch_embedding.weight] == (pytest.approx(0.0125), 0.05)
    assert found[vit.class_token] == (pytest.approx(0.0125), 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--window_s", "1"), "gives 25 frames, but stage finetune with --clip_frames 16 takes 16"),
        (("--window", "released", "--windows_per_clip", "1"), "--window released is of another method"),
        (("--landmark_normalization", "face_box"), "--align needs landmarks in the crop"),
        (("--real_similarity", "margin"), "need each other"),
        (("--real_direction", "true"), "need each other"),
        (("--image_size", "1600"), "are more than 16384 tubelets"),
        (("--align", "false", "--jitter_px", "2"), "jitter_px has no effect here"),
        (("--rs_weight", "0", "--real_similarity", "centre"), "real_similarity has no effect here"),
        (("--init_from", "x.pt", "--first_weights", "narrow"), "first_weights has no effect here"),
    ],
)
def test_contradictions_are_errors(flags, message):
    with pytest.raises(UsageError, match=message):
        train.parse_args(["--model", "m2sd", *flags])


def test_what_is_loaded_follows_the_flags():
    assert M2SDDetector.inputs_of(M2SDConfig()) == {"video", "landmarks"}
    assert M2SDDetector.inputs_of(M2SDConfig(align=False)) == {"video"}
    masked = M2SDConfig(align=False, stp="pixels", mask_parts=True)
    assert M2SDDetector.inputs_of(masked) == {"video", "landmarks"}
    for preset in PRESETS:
        config = train.parse_args(["--model", "m2sd", "--preset", preset])
        check_config(M2SDDetector, {"data": to_plain(config.data), "model": to_plain(config.model)})
        assert config.model.clip_frames == 16
        assert config.data.window_frames == (32 if preset == "m2sd_expert" else 16)
