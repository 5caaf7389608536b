"""What the device computes is what the CPU, OpenCV and the published code compute."""

import copy

import numpy as np
import pytest
import torch

from loaders.batches.collate import Collate
from loaders.batches.transforms import jitter_color
from loaders.batches.windows import ClipWindow
from models.beyond_masking.config import PRESETS, BeyondMaskingConfig
from models.beyond_masking.detector import BeyondMaskingDetector
from models.beyond_masking.mfcc import Mfcc
from models.beyond_masking.video import VideoFrontEnd, equalize_luma_on_device
from tests.clip_factory import make_batch
from tests.conftest import SHARED
from tests.parity import beyond_masking
from utils.clip.files import SAMPLE_RATE_HZ
from utils.media import luma

pytestmark = pytest.mark.gpu
GPU_TOLERANCE = 1e-3  # of each value: other kernels add in another order than the fixture's CPU did
FIXTURE = SHARED / "fixtures" / "beyond_masking_reference.safetensors"
SMALL = {"feature_dim": 16, "video_channels": (4, 4, 8), "audio_channels": (8, 8, 8), "image_size": 16,
         "feedforward_dim": 32, "classifier_hidden_dim": 16, "dropout": 0.0}  # fmt: skip


def pictures():
    """(1, 3, T, H, W): noise, dark, bright and flat frames, and every colour on a coarse grid."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=generator)
    flat = torch.full((1, 3, 64, 64), 77, dtype=torch.uint8)
    levels = torch.linspace(0, 255, 16).round().to(torch.uint8)
    grid = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 64, 64)
    return torch.cat([noise, noise // 8, 255 - noise // 8, flat, grid]).transpose(0, 1)[None]


def test_equalisation_on_the_device_equals_opencv(device):
    video = pictures()
    by_opencv = luma.equalize_luma(video.permute(0, 2, 3, 4, 1).numpy())
    on_device = equalize_luma_on_device(video.to(device)).cpu().permute(0, 2, 3, 4, 1).numpy()
    np.testing.assert_array_equal(on_device, by_opencv)


def test_mfcc_on_the_device_equal_those_of_the_cpu(device):
    generator = torch.Generator().manual_seed(0)
    tone = torch.sin(torch.arange(48_000) * 0.05)
    waveform = torch.stack([tone, 0.1 * torch.randn(48_000, generator=generator), torch.zeros(48_000)])
    padding = torch.arange(48_000) >= torch.tensor([48_000, 30_000, 48_000])[:, None]
    mfcc = Mfcc(13, SAMPLE_RATE_HZ)
    expected, columns = mfcc(waveform, padding)
    actual, columns_there = mfcc.to(device)(waveform.to(device), padding.to(device))
    assert columns_there.tolist() == columns.tolist()
    # decibels, up to several hundred: a hundredth of one is far below what any layer notices
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-2)


def test_augmented_frames_reach_the_network_as_on_the_cpu(device):
    generator = torch.Generator().manual_seed(1)
    windows = []
    for number in range(2):
        frames = torch.randint(0, 256, (10, 32, 32, 3), dtype=torch.uint8, generator=generator).numpy()
        frames = jitter_color(frames, np.random.default_rng((3, number)))
        windows.append(
            ClipWindow(
                video=torch.from_numpy(frames), waveform=torch.zeros(0), landmarks=torch.zeros(10, 0, 2),
                has_landmarks=torch.zeros(10, dtype=torch.bool), frame_labels=torch.zeros(10),
                forged_frames=torch.zeros(10), video_label=0.0, audio_label=0.0, label=0.0,
                clip_id=str(number),
            )
        )  # fmt: skip
    batch = Collate(25.0)(windows)
    front_end = VideoFrontEnd(16, equalize=True, kinetics_normalization=True)
    expected = front_end(batch.video)
    actual = front_end.to(device)(batch.to(device).video)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_the_released_preset_equals_the_published_code_in_float32(device):
    """Logits, losses and gradient norms of the fixture next to the project."""
    if not FIXTURE.is_file():
        pytest.skip(f"no {FIXTURE.name}: it is not part of the project; see the test with drawn weights")
    errors = beyond_masking.compare(FIXTURE, str(device))
    tolerance = beyond_masking.TOLERANCE if device.type == "cpu" else GPU_TOLERANCE
    too_large = {name: error for name, error in errors.items() if error > tolerance}
    assert not too_large


@pytest.mark.parametrize("preset", ["corrected", "released"])
def test_drawn_weights_give_the_logits_of_the_cpu_in_float32(device, preset):
    config = BeyondMaskingConfig(**PRESETS[preset].get("model", {}) | SMALL)
    torch.manual_seed(0)
    model = BeyondMaskingDetector(config).eval()
    batch = make_batch(4, 60, size=64, seconds=2.4)
    there = copy.deepcopy(model).to(device)
    with torch.no_grad():
        expected, actual = model(batch), there(batch.to(device))
    largest = expected.logits.abs().max().item()
    torch.testing.assert_close(actual.logits.cpu(), expected.logits, rtol=1e-4, atol=1e-4 * largest)
