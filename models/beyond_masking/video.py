"""Video front end and encoders: uint8 frames (B, 3, T, H, W) -> features (B, T, D)."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.beyond_masking.config import BeyondMaskingConfig
from models.blocks.frames import resize_frames
from models.blocks.normalization import PaddedBatchNorm3d
from models.blocks.padding import real_padding
from utils.errors import UsageError
from utils.media import luma
from utils.run.device import uses_plain_torch

# per-channel statistics of Kinetics-400, with which torchvision's published video weights were trained
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


def equalize_luma(video: Tensor) -> Tensor:
    """Histogram-equalise the luma of each frame: (B, 3, T, H, W) uint8 RGB -> same shape and type.

    RGB -> YCrCb, equalise Y, back: by OpenCV on a CPU, by tensor operations with identical results on a GPU
    and in an exported network.
    """
    if video.is_cuda or torch.compiler.is_exporting():
        return equalize_luma_on_device(video)
    # loaders lay frames out as (B, T, H, W, 3)
    equalized = torch.from_numpy(luma.equalize_luma(video.permute(0, 2, 3, 4, 1).numpy()))
    return equalized.permute(0, 4, 1, 2, 3)


def equalize_luma_on_device(video: Tensor) -> Tensor:
    """`equalize_luma` by tensor operations."""
    red, green, blue = video.float().unbind(1)  # (B, T, H, W) each; all whole numbers below 2**24 are exact

    def descale(value: Tensor) -> Tensor:  # OpenCV's fixed point has 14 fractional bits and rounds half up
        return ((value + 2**13) * 2**-14).floor()

    luma = descale(red * 4899 + green * 9617 + blue * 1868)
    red_difference = (descale((red - luma) * 11682) + 128).clamp_(0, 255) - 128
    blue_difference = (descale((blue - luma) * 9241) + 128).clamp_(0, 255) - 128
    luma = _equalize(luma.int()).float()
    red = luma + descale(red_difference * 22987)
    green = luma + descale(blue_difference * -5636 + red_difference * -11698)
    blue = luma + descale(blue_difference * 29049)
    return torch.stack([red, green, blue], dim=1).clamp_(0, 255).to(torch.uint8)


def _equalize(luma: Tensor) -> Tensor:
    """OpenCV's equalizeHist on each (H, W) image of (B, T, H, W) int 0..255."""
    images = luma.flatten(0, 1).flatten(1)  # (B*T, H*W)
    num_pixels = images.shape[1]
    histogram = torch.zeros(images.shape[0], 256, dtype=torch.int32, device=luma.device)
    histogram.scatter_add_(1, images.long(), torch.ones_like(images, dtype=torch.int32))
    lowest = (histogram > 0).int().argmax(dim=1, keepdim=True)
    lowest_count = histogram.gather(1, lowest)
    scale = 255.0 / (num_pixels - lowest_count).clamp_min(1).float()
    table = ((histogram.cumsum(1) - lowest_count).float() * scale).round().int().clamp(0, 255)
    # an image of a single value stays as it is
    table = torch.where(lowest_count == num_pixels, lowest.int(), table)
    return table.gather(1, images.long()).view_as(luma)


class VideoFrontEnd(nn.Module):
    """Equalise the luma of uint8 frames, scale to 0..1, resize, normalise: -> float (B, 3, T, S, S).

    Equalisation, from the published pipeline, removes the camera's exposure; it takes about 9 ms per 60
    frames on a CPU core.
    """

    stays_eager = True  # compiling does not speed up integer histograms
    mean: Tensor  # (3, 1, 1, 1)
    std: Tensor

    def __init__(self, image_size: int, *, equalize: bool, kinetics_normalization: bool) -> None:
        super().__init__()
        self.image_size = image_size
        self.equalize = equalize
        mean, std = (KINETICS_MEAN, KINETICS_STD) if kinetics_normalization else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, video: Tensor, *, is_equalized: bool = False) -> Tensor:
        """video: (B, 3, T, H, W) uint8. Raises UsageError for equalised frames if `equalize` is off."""
        if is_equalized and not self.equalize:
            raise UsageError("--equalize_luma false needs plain frames, but these are equalised: pack again")
        if self.equalize and not is_equalized:
            video = equalize_luma(video)
        frames = video.contiguous().float() / 255.0  # same results for any memory layout
        if frames.shape[-2:] != (self.image_size, self.image_size):
            frames = resize_frames(frames, self.image_size)
        return (frames - self.mean) / self.std


class FramePool(nn.MaxPool3d):
    """Max pool over 2x2 pixels of each frame, in the input's dtype.

    Autocast on a CPU pools in float32: the same values, but it copies the largest activations and doubles the
    size of all that follow up to the next convolution.
    """

    def __init__(self) -> None:
        super().__init__((1, 2, 2))

    def forward(self, video: Tensor) -> Tensor:
        with torch.autocast(video.device.type, enabled=False):
            return super().forward(video)


def conv3d_layers(channels: Sequence[int]) -> nn.Sequential:
    """Blocks of [Conv3d, batch norm, max pool (1, 2, 2), ReLU]: (B, 3, T, H, W) -> (B, D, T, H', W').

    Three blocks are the released Beyond-Masking video extractor; each further one doubles the receptive
    field. Max pool and ReLU commute; ReLU last has a quarter of the work.
    """
    layers = nn.Sequential()
    for inputs, outputs in zip((3, *channels), channels, strict=False):
        convolution = nn.Conv3d(inputs, outputs, 3, padding=1)
        layers.extend([convolution, PaddedBatchNorm3d(outputs), FramePool(), nn.ReLU()])
    return layers


def torchvision_layers(name: str, *, pretrained: bool) -> nn.Sequential:
    """A torchvision video ResNet without classifier and temporal strides.

    (B, 3, T, H, W) -> (B, 512, T, H', W'). Distillation and alignment need one feature per frame; published
    weights still fit, since strides have no weights. `pretrained` downloads those of Kinetics-400.
    """
    import torchvision  # slow to import, and rarely used

    network = getattr(torchvision.models.video, name)(weights="KINETICS400_V1" if pretrained else None)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = (1, *module.stride[1:])
        elif isinstance(module, nn.BatchNorm3d):
            module.__class__ = PaddedBatchNorm3d
    return nn.Sequential(network.stem, network.layer1, network.layer2, network.layer3, network.layer4)


class MaskedVideoEncoder(nn.Module):
    """A video encoder whose features do not depend on padding: (B, 3, T, H, W) -> (B, T, D).

    Batch norms leave padding frames out of their statistics and set them to 0, as a convolution sees the
    frames past a clip's end. With `checkpoint_activations` the backward pass recomputes each block, so only
    the activations between blocks are kept. All blocks of conv3d but the last, whose activations are the
    largest, are computed one clip at a time.
    """

    def __init__(self, config: BeyondMaskingConfig) -> None:
        super().__init__()
        self.is_conv3d = config.video_encoder == "conv3d"
        if self.is_conv3d:
            layers, self.out_features = conv3d_layers(config.video_channels), config.video_channels[-1]
        else:
            layers = torchvision_layers(config.video_encoder, pretrained=config.video_pretrained)
            self.out_features = 512
        self.encoder = nn.Sequential(OrderedDict(layers=layers))  # checkpoints have encoder.layers
        self.checkpoint_activations = config.checkpoint_activations
        self.runs_clip_by_clip = not uses_plain_torch()

    def _run(self, block: nn.Module, video: Tensor, padding: Tensor | None) -> Tensor:
        norms = [module for module in block.modules() if isinstance(module, PaddedBatchNorm3d)]
        for norm in norms:
            norm.padding = padding
        try:
            return block(video)
        finally:
            for norm in norms:
                norm.padding = None

    def _blocks(self) -> list[nn.Sequential]:
        layers = self.encoder.layers
        assert isinstance(layers, nn.Sequential)
        step = 4 if self.is_conv3d else 1
        return [layers[first : first + step] for first in range(0, len(layers), step)]

    def forward(self, video: Tensor, padding_mask: Tensor | None) -> Tensor:
        """video: (B, 3, T, H, W) float. padding_mask: (B, T), True = padding; None = no padding."""
        if video.is_cuda or torch.is_autocast_enabled(video.device.type):
            # convolutions are fastest in this layout; float32 on a CPU keeps the order of summation of the
            # published numbers
            video = video.contiguous(memory_format=torch.channels_last_3d)
        padding = real_padding(padding_mask)
        if padding is not None:
            video = video.masked_fill(padding[:, None, :, None, None], 0.0)
        recomputes = self.checkpoint_activations and torch.is_grad_enabled()
        clip_by_clip = recomputes and self.is_conv3d and self.training and self.runs_clip_by_clip
        blocks = self._blocks()
        for block in blocks:
            if not recomputes:
                video = self._run(block, video, padding)
            elif clip_by_clip and block is not blocks[-1]:
                # imports torch's compiler, which takes 2 s
                from models.beyond_masking.clip_by_clip import run_clip_by_clip

                video = run_clip_by_clip(block, video, padding)
            else:  # here, since the compiler does not take a function of its own with these contexts
                contexts = functools.partial(_contexts_of_passes, block)
                video = checkpoint(
                    self._run,
                    block,
                    video,
                    padding,
                    use_reentrant=False,
                    preserve_rng_state=False,
                    context_fn=contexts,
                )
        # at least float32
        wide = torch.promote_types(video.dtype, torch.float32)
        return video.mean(dim=(3, 4), dtype=wide).transpose(1, 2)  # (B, T, D)


def _contexts_of_passes(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of a block's two forward passes only the first updates the running statistics."""
    return contextlib.nullcontext(), _statistics_kept(block)


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    before = []
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm3d):
            counter = norm.num_batches_tracked
            assert counter is not None
            before.append((norm, norm.momentum, counter, counter.clone()))
            norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, counter, count in before:
            norm.momentum = momentum
            counter.copy_(count)
