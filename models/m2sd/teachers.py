"""The first two stages of M2SD's training, and what they leave for the others: teacher and expert, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.av_expert import FRAMES_PER_S, AudioVisualExpert
from models.backbones.videomae import VideoMae, vit_weights
from models.blocks.face_parts import places_of_parts
from models.blocks.vit import TUBELET, TubeletViT, standardised_pixels, tube_masks, tubelet_pixels
from models.m2sd.config import MAX_SHIFT, NUM_RIVALS, STUDENTS, M2SDConfig, decoder_of
from models.m2sd.front_end import Shown
from utils.checkpoint.files import CodeError, load_checkpoint
from utils.checkpoint.foreign import read_foreign_weights
from utils.errors import CheckpointError
from utils.types import ClipBatch

Parts = dict[str, Tensor]  # fields of M2SDOutput


class TeacherStage(nn.Module):
    """The pixel-wise teacher: stage(shown, levels) -> its predictions of masked pixels.

    levels: (B, 3, T, S, S), the video that is shown, in 0..1. The logit is how much worse they are than the
    mean of each tubelet would be.
    """

    def __init__(self, config: M2SDConfig) -> None:
        super().__init__()
        c = self.config = config
        sizes = STUDENTS[c.vit], decoder_of(c.vit), c.clip_frames, c.image_size
        self.network = VideoMae(*sizes, drop_path=c.drop_path)
        if c.init_from:
            self.network.load_published(read_foreign_weights(c.init_from), str(c.init_from))

    def forward(self, shown: Shown, levels: Tensor) -> Parts:
        masked = masks_of(shown, self.network.encoder.grid, self.config.mask_ratio, training=self.training)
        predictions, targets = self.network(shown.video, masked), masked_pixels(levels, masked)
        errors = (predictions.float() - targets).square().mean(dim=(1, 2))
        return {"logits": errors - 1, "pixel_predictions": predictions, "pixel_targets": targets}


class ExpertStage(nn.Module):
    """The audio-visual expert: stage(video, batch) -> its slots; the logit is minus their mean cosine.

    The picture is the window's middle. Its sound is cut there and, as rivals, somewhat earlier and later: so
    the place of a slot in the clip, which both networks know, does not tell what belongs together.
    """

    def __init__(self, config: M2SDConfig) -> None:
        super().__init__()
        self.network = new_expert(config.vit, config)
        if config.init_from:
            take_encoder(self.network.video_trunk, read_foreign_weights(config.init_from), config.init_from)

    def forward(self, video: Tensor, batch: ClipBatch) -> Parts:
        count, frames = len(video), self.network.num_frames
        first = (video.shape[2] - frames) // 2
        seen = self.network.video_slots(video[:, :, first : first + frames])
        shifts = torch.tensor([n for n in range(-MAX_SHIFT, MAX_SHIFT + 1) if n]).expand(count, -1)
        if self.training:
            shifts = shifts.gather(1, torch.rand(shifts.shape).argsort(1)[:, :NUM_RIVALS])
        shifts = F.pad(shifts, (0, 1)).to(video.device)
        pieces = moved_sound(sound_of(batch), batch.sample_rate_hz, shifts, frames)
        heard = self.network.audio_slots(pieces.flatten(0, 1), batch.sample_rate_hz).unflatten(0, (count, -1))
        cosines = (seen * heard[:, -1]).sum(2).mean(1)
        return {"logits": -cosines, "seen_slots": seen, "heard_slots": heard, "shifts": shifts}


def moved_sound(waveform: Tensor, sample_rate_hz: int, shifts: Tensor, num_frames: int) -> Tensor:
    """(B, K, n) sound of `num_frames` frames of 25 per second: of the middle of a window, moved by `shifts`
    (B, K) slots. waveform: (B, N) of the window, MAX_SHIFT slots longer at either end; silence where it ends.
    """
    per_slot = TUBELET[0] * sample_rate_hz / FRAMES_PER_S
    length = round(num_frames * sample_rate_hz / FRAMES_PER_S)
    starts = ((shifts + MAX_SHIFT) * per_slot).round().long()
    places = (starts[..., None] + torch.arange(length, device=starts.device)).flatten(1)
    whole = F.pad(waveform, (0, max(0, int(places.max()) + 1 - waveform.shape[1])))
    return whole.gather(1, places).view(*shifts.shape, length)


class Frozen(nn.Module):
    """Teacher and expert of earlier stages: never trained, and no part of a checkpoint.

    They move with the model. Its runs read their files again when they are resumed.
    """

    def __init__(self, config: M2SDConfig) -> None:
        super().__init__()
        if config.teacher:
            self.teacher = read_teacher(config.teacher, config)
        if config.expert:
            self.expert = read_expert(config.expert, config)
        self.requires_grad_(False)
        self.register_load_state_dict_post_hook(_forget_missing)

    def train(self, mode: bool = True) -> Frozen:
        """Always in evaluation mode."""
        super().train(False)
        return self

    def state_dict(self, *args: Any, destination: Any = None, **options: Any) -> Any:
        """Nothing of it is saved."""
        return {} if destination is None else destination


def _forget_missing(module: nn.Module, incompatible: Any) -> None:
    """What a checkpoint does not hold of frozen networks is not missing."""
    own = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    missing = incompatible.missing_keys
    missing[:] = [key for key in missing if key.removeprefix("frozen.") not in own]


def masks_of(shown: Shown, grid: tuple[int, ...], ratio: float, *, training: bool) -> Tensor:
    """(B, N) tube masks of a batch: drawn in training, else from one draw for all clips, always the same.

    Where the face is known, its parts are masked first.
    """
    count = len(shown.video) if training else 1
    generator = None if training else torch.Generator().manual_seed(0)
    first = None if shown.points is None else places_of_parts(shown.points, grid)
    masks = tube_masks(count, grid, ratio, generator, first=first)
    return masks.expand(len(shown.video), -1).to(shown.video.device)


def masked_pixels(levels: Tensor, masked: Tensor) -> Tensor:
    """(B, M, 1536) standardised pixels of the masked tubelets of (B, 3, T, S, S) levels in 0..1."""
    with torch.no_grad(), torch.autocast(levels.device.type, enabled=False):
        pixels = tubelet_pixels(levels)
        return standardised_pixels(pixels[masked].view(len(levels), -1, pixels.shape[2]))


def sound_of(batch: ClipBatch) -> Tensor:
    """(B, N) samples, silent where there are none."""
    return batch.waveform.masked_fill(batch.audio_padding_mask, 0.0)


def read_stage(path: Path, stage: str, config: M2SDConfig) -> tuple[str, dict[str, Tensor]]:
    """(size, weights without what they lie in) of a run's checkpoint of an earlier stage.

    Raises CheckpointError if it is of another stage, or of clips of another size.
    """
    content = load_checkpoint(path)
    saved: Mapping[str, Any] = content.get("config", {}).get("model", {})
    if saved.get("stage") != stage:
        raise CheckpointError(f"{path}: not a checkpoint of m2sd's stage {stage}")
    for name in ("clip_frames", "image_size"):
        if saved[name] != getattr(config, name):
            raise CheckpointError(f"{path}: --{name} was {saved[name]}, and is {getattr(config, name)} here")
    beginning = f"{stage}_stage.network."
    found = {k.removeprefix(beginning): v for k, v in content["model"].items() if k.startswith(beginning)}
    return saved["vit"], found


def read_teacher(path: Path, config: M2SDConfig) -> TubeletViT:
    """The encoder of a teacher's checkpoint, or of a published VideoMAE."""
    encoder = TubeletViT(config.teacher_size, config.clip_frames, config.image_size)
    try:
        is_run = "model" in load_checkpoint(path)
    except CodeError:
        is_run = False
    if not is_run:
        take_encoder(encoder, read_foreign_weights(path), path)
        return encoder
    vit, weights = read_stage(path, "teacher", config)
    if STUDENTS[vit] != config.teacher_size:
        raise CheckpointError(f"{path}: its --vit was {vit}: give --teacher_vit {vit}")
    own = {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}
    encoder.load_state_dict(own)
    return encoder


def new_expert(vit: str, config: M2SDConfig) -> AudioVisualExpert:
    """An expert whose picture is seen by `vit`; that of "tiny" hears with a smaller network, too."""
    blocks = 1 if vit == "tiny" else 2
    return AudioVisualExpert(STUDENTS[vit], config.clip_frames, config.image_size, audio_blocks=blocks)


def read_expert(path: Path, config: M2SDConfig) -> AudioVisualExpert:
    """The network of an expert's checkpoint."""
    vit, weights = read_stage(path, "expert", config)
    expert = new_expert(vit, config)
    expert.load_state_dict(weights)
    return expert


def take_encoder(encoder: TubeletViT, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load the encoder of a published VideoMAE. Raises CheckpointError if it does not fit."""
    try:
        encoder.load_state_dict(vit_weights(weights))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not a VideoMAE of this size: {error}") from error
