"""The audio-visual expert of M2SD: whether mouth and sound belong together, slot by slot.

The published code holds none of it; the design is the specification's, after Haliassos et al., "Leveraging
Real Talking Faces via Self-Supervision for Robust Forgery Detection" (RealForensics), CVPR 2022, arXiv
2201.07131. A slot is two frames, 0.08 s.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import resample
from torchaudio.transforms import MelSpectrogram

from models.blocks.vit import SIZES, TUBELET, TubeletViT, ViTSize, initialise

SOUND_RATE_HZ = 16_000
FRAMES_PER_S, ROWS_PER_FRAME = 25, 4  # rows of 10 ms
NUM_MELS = 80
RANGE_DB, MIDDLE_DB, SCALE_DB = 80.0, 40.0, 40.0
AUDIO_WIDTH = 512
PROJECTED = 256


class MelRows(nn.Module):
    """(B, N) samples -> (B, 1, 4 T, 80): four rows of mel bands for each of T frames of 25 per second.

    Decibels below the clip's loudest value, down to -80, as (dB + 40) / 40. What a clip lacks is silence.
    """

    stays_eager = True  # complex numbers

    def __init__(self) -> None:
        super().__init__()
        options = {"n_fft": 512, "win_length": 320, "hop_length": 160, "n_mels": NUM_MELS}
        with warnings.catch_warnings():  # the lowest bands are narrower than a bin, and stay empty
            warnings.filterwarnings("ignore", message="At least one mel filterbank")
            self.mel = MelSpectrogram(SOUND_RATE_HZ, pad_mode="constant", **options)

    @torch.no_grad()
    def forward(self, waveform: Tensor, sample_rate_hz: int, num_frames: int) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):  # decibels need float32
            samples = resample(waveform.float(), sample_rate_hz, SOUND_RATE_HZ)
            power = self.mel(samples).transpose(1, 2)  # (B, rows, 80)
            wanted = ROWS_PER_FRAME * num_frames
            power = F.pad(power[:, :wanted], (0, 0, 0, max(0, wanted - power.shape[1])))
            decibels = 10 * power.clamp_min(1e-10).log10()
            loudest = decibels.amax(dim=(1, 2), keepdim=True)
            decibels = (decibels - loudest).clamp_min(-RANGE_DB)
            return ((decibels + MIDDLE_DB) / SCALE_DB)[:, None]


class AudioSlots(nn.Module):
    """(B, 1, 4 T, 80) rows of mel bands -> (B, T / 2, 512): a ResNet-18 that keeps a step per frame.

    num_blocks: in each of its four stages; a ResNet-18 has 2.
    """

    def __init__(self, num_blocks: int = 2) -> None:
        from torchvision.models.resnet import BasicBlock, ResNet  # as slow to import as torch itself

        super().__init__()
        network = ResNet(BasicBlock, [num_blocks] * 4)
        network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride = stage[0].downsample[0].stride = (1, 2)  # in frequency only
        network.avgpool = network.fc = nn.Identity()
        self.network = network

    def forward(self, rows: Tensor) -> Tensor:
        n = self.network
        maps = n.maxpool(n.relu(n.bn1(n.conv1(rows))))
        maps = n.layer4(n.layer3(n.layer2(n.layer1(maps))))  # (B, 512, T, 3)
        frames = maps.mean(dim=3).transpose(1, 2)
        slots: Tensor = frames.unflatten(1, (-1, TUBELET[0])).mean(dim=2)
        return slots


class AudioVisualExpert(nn.Module):
    """Slots of picture and of sound as unit vectors that agree where both belong together."""

    def __init__(
        self,
        size: ViTSize = SIZES["small"],
        num_frames: int = 16,
        image_size: int = 224,
        *,
        audio_blocks: int = 2,
    ) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.video_trunk = TubeletViT(size, num_frames, image_size)
        self.mel = MelRows()
        self.audio_trunk = AudioSlots(audio_blocks)
        self.video_projection = nn.Linear(size.width, PROJECTED)
        self.audio_projection = nn.Linear(AUDIO_WIDTH, PROJECTED)
        for part in (self.video_trunk, self.video_projection, self.audio_projection):
            part.apply(initialise)

    def video_slots(self, video: Tensor) -> Tensor:
        """(B, 3, T, S, S), normalised -> (B, T / 2, 256) of length 1."""
        slots = slot_means(self.video_trunk(video), self.num_frames // TUBELET[0])
        return F.normalize(self.video_projection(slots).float(), dim=2)

    def audio_slots(self, waveform: Tensor, sample_rate_hz: int) -> Tensor:
        """(B, N) samples of the clip's seconds -> (B, T / 2, 256) of length 1."""
        rows = self.mel(waveform, sample_rate_hz, self.num_frames)
        return F.normalize(self.audio_projection(self.audio_trunk(rows)).float(), dim=2)


def slot_means(tokens: Tensor, num_slots: int) -> Tensor:
    """(B, N, E) tokens of tubelets, in order of time -> (B, slots, E) means over each slot's places."""
    return tokens.unflatten(1, (num_slots, -1)).mean(dim=2)
