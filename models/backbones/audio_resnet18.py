"""AudioResNet18: the MFCC of a second of sound -> one feature.

A ResNet-18 with a stem of one 3x3 convolution, trained on the emotions of RAVDESS; published with 2D3MF
(aiden200/2D3MF, d4fd8e8).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from models.backbones.backbone import Backbone, Weights, second_plan
from models.backbones.mfcc import SAMPLE_RATE_HZ, MfccPieces
from models.backbones.published import load_published

WIDTH = 512
RENAMES = [
    (r"conv1\.0\.", "network.conv1."),
    (r"conv1\.1\.", "network.bn1."),
    (r"(layer\d\.\d)\.left\.0\.", r"network.\1.conv1."),
    (r"(layer\d\.\d)\.left\.1\.", r"network.\1.bn1."),
    (r"(layer\d\.\d)\.left\.3\.", r"network.\1.conv2."),
    (r"(layer\d\.\d)\.left\.4\.", r"network.\1.bn2."),
    (r"(layer\d\.\d)\.shortcut\.", r"network.\1.downsample."),
]
IGNORED = r"fc\."  # the emotions


class AudioResNet18(nn.Module):
    """encoder(mfcc) -> (B, 512) features: (B, 10, 87) of windows, 10 coefficients in 87 steps."""

    def __init__(self) -> None:
        from torchvision.models import resnet18  # as slow to import as torch itself

        super().__init__()
        self.network = resnet18(weights=None)
        self.network.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
        self.network.maxpool = nn.Identity()
        self.network.fc = nn.Identity()

    def forward(self, mfcc: Tensor) -> Tensor:
        features: Tensor = self.network(mfcc[:, None])
        return features

    def load_published(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Load a published file. Raises CheckpointError if it does not fit."""
        load_published(self, weights, RENAMES, source, ignored=IGNORED)


BACKBONES = {
    "audio_resnet18": Backbone(
        make=lambda: MfccPieces(AudioResNet18()),
        width=WIDTH,
        weights=Weights(
            "RAVDESS_bs_32_lr_0.001_ep_250_03-30-22-28-29.pth", "github.com/aiden200/2D3MF", "CC BY-NC 4.0"
        ),
        plan=second_plan,
        batch_size=32,
        sample_rate_hz=SAMPLE_RATE_HZ,
        piece_samples=SAMPLE_RATE_HZ,
    )
}
