"""The random changes of training: their distributions are the specification's, over many draws."""

import cv2
import numpy as np
import pytest
import torch

from models.exposing_deception import pictures as of
from models.exposing_deception.pictures import PictureFrontEnd

COUNT = 4000


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def plain(count, colour=(100.0, 120.0, 140.0), side=8):
    return torch.tensor(colour)[None, :, None, None].expand(count, 3, side, side).clone()


def textured(count, side=32):
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.uniform(0, 255, (side, side, 3)), (0, 0), 3)
    picture = cv2.normalize(picture, None, 20, 235, cv2.NORM_MINMAX).round()
    return torch.from_numpy(picture).permute(2, 0, 1).float().expand(count, -1, -1, -1)


def test_noise_has_a_variance_between_10_and_50():
    changed = of.noisy(plain(COUNT, side=32)) - plain(1, side=32)
    variances = changed.var(dim=(1, 2, 3)) - 1 / 12  # of the rounding
    assert variances.min() > 8.5
    assert variances.max() < 56
    assert variances.mean().item() == pytest.approx(30, abs=1)
    assert changed.mean().item() == pytest.approx(0, abs=0.02)
    red, green = changed[:, 0].flatten(), changed[:, 1].flatten()
    assert torch.corrcoef(torch.stack([red, green]))[0, 1].abs() < 0.01


def test_blur_is_opencvs():
    shown = textured(1)
    expected = cv2.GaussianBlur(shown[0].permute(1, 2, 0).numpy(), (3, 3), 0)
    assert np.abs(of.blurred(shown)[0].permute(1, 2, 0).numpy() - expected).max() <= 1


def test_brightness_and_contrast():
    shown = plain(COUNT, (64.0, 96.0, 128.0))
    changed = of.brighter(shown)[:, :, 0, 0]
    contrast = (changed[:, 2] - changed[:, 0]) / 64
    offset = changed[:, 0] - 64 * contrast
    for values, bound, spread in ((contrast - 1, 0.2, 0.2 / 3**0.5), (offset, 51, 51 / 3**0.5)):
        assert values.abs().max() < bound * 1.1
        assert values.mean().abs() < 0.05 * bound
        assert values.std().item() == pytest.approx(spread, rel=0.05)


def test_a_shift_along_principal_colours_is_by_their_variances():
    shown = textured(COUNT)
    colours = shown[0].flatten(1).numpy() / 255
    variances, axes = np.linalg.eigh(np.cov(colours))
    inside = ((shown > 60) & (shown < 195)).all(dim=1)[0]
    shifts = (of.along_principal_colours(shown) - shown)[:, :, inside].mean(dim=2).numpy()
    expected = 255 * axes @ variances  # times a normal factor of 0.1
    factors = shifts @ expected / (expected @ expected)
    assert factors.mean() == pytest.approx(0, abs=0.01)
    assert factors.std() == pytest.approx(0.1, rel=0.1)
    assert np.abs(shifts - factors[:, None] * expected).max() < 0.6  # rounding


def test_hue_saturation_and_value_are_opencvs():
    rng = np.random.default_rng(1)
    shown = torch.from_numpy(rng.integers(0, 256, (1, 3, 40, 40)).astype(np.float32))
    drawn = iter([torch.tensor([9.0]), torch.tensor([-20.0]), torch.tensor([11.0])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of, "uniform", lambda *_: next(drawn))
        changed = of.shifted_hue(shown)[0].permute(1, 2, 0).numpy()
    hsv = cv2.cvtColor((shown[0].permute(1, 2, 0).numpy() / 255), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 2 * 9) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] - 20 / 255, 0, 1)
    hsv[..., 2] = np.clip(hsv[..., 2] + 11 / 255, 0, 1)
    assert np.abs(changed - 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).max() <= 1


def test_shifts_scales_and_turns():
    side = 101
    shown = torch.zeros(COUNT, 1, side, side)  # all colours move alike
    for row, column in ((50, 50), (50, 70)):  # two spots, 20 apart
        shown[:, :, row - 1 : row + 2, column - 1 : column + 2] = 255
    changed = of.moved(shown)[:, 0].double()
    weights = changed / changed.sum((1, 2), keepdim=True)
    places = torch.arange(side, dtype=torch.float64)
    x, y = (weights.sum(1) * places).sum(1), (weights.sum(2) * places).sum(1)
    right, below = places - x[:, None], places - y[:, None]
    columns, rows = (weights.sum(1) * right**2).sum(1), (weights.sum(2) * below**2).sum(1)
    across = (weights * below[:, :, None] * right[:, None]).sum((1, 2))
    scale = 2 * (columns + rows - 4 / 3).clamp_min(0).sqrt() / 20
    assert scale.mean().item() == pytest.approx(1, abs=0.01)
    assert scale.std().item() == pytest.approx(0.4 / 12**0.5, rel=0.1)
    for middle in (x, y):  # of both spots, which lies 10 right of the centre
        assert middle.std().item() == pytest.approx(0.2 * side / 12**0.5, rel=0.1)
    angle = 0.5 * torch.atan2(2 * across, columns - rows).rad2deg()
    assert angle.abs().max() < 11.5
    assert angle.std().item() == pytest.approx(20 / 12**0.5, rel=0.1)


def test_how_often_each_change_befalls_a_picture(monkeypatch):
    expected = {"noisy": 0.1, "blurred": 0.05, "brighter": 0.7 / 3, "along_principal_colours": 0.7 / 3}
    expected |= {"shifted_hue": 0.7 / 3, "grey": 0.2, "moved": 0.5}
    counts = dict.fromkeys(expected, 0)
    for name in counts:

        def counted(some, name=name):
            counts[name] += len(some)
            return some

        monkeypatch.setattr(of, name, counted)
    of.change(plain(COUNT, side=2))
    assert {name: count / COUNT for name, count in counts.items()} == pytest.approx(expected, abs=0.025)


def test_compression_and_mirroring_befall_half_of_the_pictures():
    front_end = PictureFrontEnd(32, "rgb", "corrected").train()
    shown = textured(COUNT)
    compressed = (front_end._compressed(shown) != shown).any(dim=(1, 2, 3))
    assert compressed.double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_outside_training_pictures_are_resized_and_normalised_only():
    shown = textured(2).to(torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (of.MEAN, of.STD))
    for order in ("rgb", "bgr"):
        found = PictureFrontEnd(32, order, "corrected").eval()(shown)
        colours = shown.flip(1) if order == "bgr" else shown
        expected = (colours / 255 - torch.tensor(of.MEAN)[:, None, None]) / torch.tensor(of.STD)[
            :, None, None
        ]
        torch.testing.assert_close(found, expected)
        halved = PictureFrontEnd(48, order, "corrected").eval()(shown)
        expected = cv2.resize(colours[0].permute(1, 2, 0).numpy(), (48, 48), interpolation=cv2.INTER_LINEAR)
        levels = (
            halved[0] * torch.tensor(of.STD)[:, None, None] + torch.tensor(of.MEAN)[:, None, None]
        ) * 255
        assert np.abs(levels.permute(1, 2, 0).numpy() - expected).max() <= 1.01


def test_released_colour_changes_take_bgr_for_rgb(monkeypatch):
    seen = []
    monkeypatch.setattr(of, "change", lambda pictures: seen.append(pictures.clone()) or pictures)
    monkeypatch.setattr(of, "chosen", lambda count, probability: torch.zeros(0, dtype=torch.long))
    shown = plain(2).to(torch.uint8)
    for augmentation, order in (
        ("corrected", "rgb"),
        ("corrected", "bgr"),
        ("released", "rgb"),
        ("released", "bgr"),
    ):
        found = PictureFrontEnd(8, order, augmentation).train()(shown)
        first = 100 if augmentation == "corrected" else 140
        assert seen.pop()[0, 0, 0, 0] == first
        first = 100 if order == "rgb" else 140
        assert found[0, 0, 0, 0].item() == pytest.approx((first / 255 - 0.485) / 0.229, abs=1e-5)


def test_pictures_are_as_exact_under_autocast():
    frames = textured(64).to(torch.uint8)
    found = []
    for enabled in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found.append(PictureFrontEnd(32, "rgb", "corrected").train()(frames))
    assert torch.equal(*found)
