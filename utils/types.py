"""The contract between the floors: what a loader yields, a model returns and a loss reads.

B clips in a batch, T video frames, N waveform samples. Labels everywhere: 1 = fake, 0 = real, NaN (or None) =
unknown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import UsageError

MODALITIES = frozenset({"video", "audio"})  # what can be forged, and judged
Record = TypeVar("Record")


def map_tensors(record: Record, function: Callable[[Tensor], Any], **changes: Any) -> Record:
    """A copy of a dataclass or mapping, with `changes`, and with function(tensor) in place of every other
    tensor in it, however deep, in the order of the fields.
    """
    if isinstance(record, Tensor):
        return function(record)
    if isinstance(record, Mapping):
        mapped: Any = {name: map_tensors(value, function) for name, value in record.items()}
        return mapped
    if not dataclasses.is_dataclass(record) or isinstance(record, type):
        return record
    names = (f.name for f in dataclasses.fields(record) if f.name not in changes)
    mapped = {name: map_tensors(getattr(record, name), function) for name in names}
    return dataclasses.replace(record, **mapped, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipBatch:
    """Raw signals of B windows. Models make what they need of them (equalisation, MFCC, ...) on the device.

    What a method does not load (see Method.inputs) has size 0: video (B, 3, T, 0, 0), waveform (B, 0),
    landmarks (B, T, 0, 2) with all of their mask True, no features.
    """

    video: Tensor  # (B, 3, T, H, W) uint8 RGB
    waveform: Tensor  # (B, N) float32 in [-1, 1], mono
    # (B, T, 478, 2) float32, normalised as `DataConfig.landmark_normalization` says; 0 where masked
    landmarks: Tensor
    video_padding_mask: Tensor  # (B, T) bool, True = padding
    audio_padding_mask: Tensor  # (B, N) bool, True = padding
    landmark_padding_mask: Tensor  # (B, T) bool, True = padding or a frame in which no face was found
    # (B, T) float32, 1 = fake: of each frame's picture, or of the clip where that is unknown; 0 in padding
    frame_labels: Tensor
    video_labels: Tensor  # (B,) float32, 1 = fake picture, NaN = unknown
    audio_labels: Tensor  # (B,) float32, 1 = fake sound, NaN = unknown
    # (B,) float32, 1 = fake; with --label_rule emotion the place in EMOTIONS
    labels: Tensor
    clip_ids: tuple[str, ...]  # B ids, stable across runs: video-level scores group by them
    video_fps: float  # frames per second of `video` and `landmarks`, the same for the whole batch
    sample_rate_hz: int  # samples per second of `waveform`
    # the frames are single ones of the whole clip, to be judged one by one (--frames_per_clip)
    spread_frames: bool = False
    is_equalized: bool = False  # the luma of `video` is histogram-equalised already (a pack of such frames)
    # (B, T) float32, 1 = picture or sound is forged at that time, NaN = unknown or padding
    forged_frames: Tensor | None = None
    # cached features (see utils/clip/features.py): name -> (B, S, D) float32, S differs from name to name
    features: Mapping[str, Tensor] = field(default_factory=dict)
    feature_padding_masks: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (B, S) bool

    def __post_init__(self) -> None:
        if torch.compiler.is_exporting():  # sizes are symbols, which must not be compared
            return
        num_clips, num_frames = self.video.shape[0], self.video.shape[2]
        expected = {
            "landmarks": (num_clips, num_frames, *self.landmarks.shape[2:]),
            **dict.fromkeys(
                ("video_padding_mask", "landmark_padding_mask", "frame_labels"), (num_clips, num_frames)
            ),
            **dict.fromkeys(("waveform", "audio_padding_mask"), (num_clips, *self.waveform.shape[1:])),
            **dict.fromkeys(("video_labels", "audio_labels", "labels"), (num_clips,)),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"ClipBatch.{name} is {tuple(getattr(self, name).shape)}, expected {shape}")
        if self.forged_frames is not None and self.forged_frames.shape != (num_clips, num_frames):
            raise ValueError(f"ClipBatch.forged_frames is {tuple(self.forged_frames.shape)}")
        for name, values in self.features.items():
            shape, mask = tuple(values.shape), tuple(self.feature_padding_masks[name].shape)
            if len(shape) != 3 or shape[0] != num_clips or mask != shape[:2]:
                raise ValueError(f"ClipBatch.features[{name!r}] is {shape} with a mask of {mask}")
        if len(self.clip_ids) != num_clips:
            raise ValueError(f"ClipBatch has {len(self.clip_ids)} clip_ids for {num_clips} clips")

    def require_plain(self) -> None:
        """Raise UsageError if the frames are packed equalised, for a model that needs them as they were."""
        if self.is_equalized:
            raise UsageError(
                "the model needs plain frames, but the clips are packed equalised; pack them with --frames "
                "video or rgb"
            )

    @property
    def lengths(self) -> tuple[int, ...]:
        """T, N, and S of each of the features: what `padded_to` takes."""
        return self.video.shape[2], self.waveform.shape[1], *(v.shape[1] for v in self.features.values())

    def to(self, device: torch.device | str) -> ClipBatch:
        """The same batch on `device`; copies from pinned memory do not block."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))

    def padded_to(self, lengths: Sequence[int]) -> ClipBatch:
        """The same clips padded with masked zeros to `lengths`, none of them smaller than `self.lengths`."""
        if tuple(lengths) == self.lengths:
            return self
        frames, samples, *rows = (new - old for new, old in zip(lengths, self.lengths, strict=True))
        more = dict(zip(self.features, rows, strict=True))
        masks, forged = self.feature_padding_masks, self.forged_frames
        return dataclasses.replace(
            self,
            video=F.pad(self.video, (0, 0, 0, 0, 0, frames)),
            landmarks=F.pad(self.landmarks, (0, 0, 0, 0, 0, frames)),
            video_padding_mask=F.pad(self.video_padding_mask, (0, frames), value=True),
            landmark_padding_mask=F.pad(self.landmark_padding_mask, (0, frames), value=True),
            frame_labels=F.pad(self.frame_labels, (0, frames)),
            forged_frames=None if forged is None else F.pad(forged, (0, frames), value=torch.nan),
            waveform=F.pad(self.waveform, (0, samples)),
            audio_padding_mask=F.pad(self.audio_padding_mask, (0, samples), value=True),
            features={name: F.pad(self.features[name], (0, 0, 0, n)) for name, n in more.items()},
            feature_padding_masks={name: F.pad(masks[name], (0, n), value=True) for name, n in more.items()},
        )

    def pin_memory(self) -> ClipBatch:
        """The same batch in page-locked memory (called by the DataLoader)."""
        return map_tensors(self, lambda tensor: tensor.pin_memory())


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorOutput:
    """What every detector returns. A method adds what its loss reads by subclassing."""

    logits: Tensor  # (B,), before the sigmoid; > 0 means fake; 0 of a model of classes
    video_logits: Tensor | None = None  # (B,), > 0: the picture is fake; None: the method has no such head
    audio_logits: Tensor | None = None  # (B,), > 0: the sound is fake
    embedding: Tensor | None = None  # (B, E), what the clip's logit is computed from
    frame_logits: Tensor | None = None  # (B, T), > 0: the frame is fake
    emotion_logits: Tensor | None = None  # (B, C), before the softmax: of a model that tells EMOTIONS apart
