"""Clip -> tensors of one window: picture, sound and landmarks are cut by the same seconds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from loaders.batches.data_config import RELEASED_FRAMES, DataConfig
from loaders.batches.kept import KeptCrop
from loaders.batches.labels import clip_labels, forged_frames, frame_labels, window_labels
from loaders.batches.places import (
    covering_starts,
    evaluation_starts,
    last_start_frame,
    spread_frames,
    window_frames,
)
from loaders.batches.silence import clip_leading_silence_s
from loaders.batches.transforms import change_frames, normalize_landmarks
from utils.clip.features import read_features
from utils.clip.files import (
    SAMPLE_RATE_HZ,
    VIDEO_NAME,
    find_audio,
    known_header,
    open_landmarks,
)
from utils.clip.frames import Crop, open_crop
from utils.clip.packed import FEATURES
from utils.clip.sound import SoundReader, open_sound
from utils.clip_type import INPUTS, Clip
from utils.errors import ClipError, UsageError


@dataclass(frozen=True)
class WindowStart:
    """A window from a given frame on, whose sound comes `sound_delay_s` late."""

    frame: int
    sound_delay_s: float = 0.0


Header = tuple[Fraction, int]  # frames per second, number of frames
# number of an evaluation window, start of a window, or (epoch, repetition) in training
Draw = int | WindowStart | tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipWindow:
    """One window before batching: T frames, N samples, without padding.

    What was not loaded has size 0: video (T, 0, 0, 3), waveform (0,), landmarks (T, 0, 2), no features.
    """

    video: Tensor  # (T, H, W, 3) uint8 RGB
    waveform: Tensor  # (N,) float32
    landmarks: Tensor  # (T, 478, 2) float32, 0 where there is no face
    has_landmarks: Tensor  # (T,) bool
    frame_labels: Tensor  # (T,) float32, of the pictures
    forged_frames: Tensor  # (T,) float32, of picture or sound at the time of a frame, NaN = unknown
    video_label: float  # NaN = unknown
    audio_label: float
    label: float
    clip_id: str
    is_equalized: bool = False  # the luma of its frames is histogram-equalised already
    features: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (S, D) float32


@dataclass(eq=False, repr=False)
class ClipDataset(Dataset[Any]):
    """Windows of clips; an item's key is (clip index, draw).

    With a `WindowStart` the window begins there. In training, `draw` is (epoch, repetition) and the window's
    start is drawn from (seed, epoch, repetition, clip index) alone, so that a resumed run sees the same
    windows. In evaluation it is the number of one of `windows_per_clip` evenly spread windows. With
    `frames_per_clip` the "window" is that many frames of the whole clip, drawn from the same numbers.

    Only `inputs` (see models/method.py) are read from disk; other signals have size 0. A window shorter than
    `min_window_s` is a ClipError, and so are cached features that `recipes` (name -> FeatureInfo.recipe) says
    to have been made otherwise; where it says nothing, the first ones that are read do. `headers` remembers
    what the evaluation windows were counted by: a clip that is found to be another one when it is read is a
    ClipError. With `keeps_frames`, for windows of one clip that overlap, a clip's crop is a KeptCrop.
    """

    clips: Sequence[Clip]
    config: DataConfig
    _: KW_ONLY
    training: bool
    seed: int = 0
    inputs: frozenset[str] = INPUTS
    min_window_s: float = 0.0
    recipes: dict[str, Any] = field(default_factory=dict)
    headers: dict[int, Header] = field(default_factory=dict)
    keeps_frames: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError if there are folders of frames, but another signal or a rate is needed."""
        self._kept: tuple[int, KeptCrop] | None = None  # index of the clip, its crop
        clip = next((clip for clip in self.clips if clip.frames is not None), None)
        if clip and self.inputs != {"video"}:
            what = "is a folder of frames, without sound and landmarks: choose a --model that only sees"
            raise UsageError(f"{clip.clip_id} {what}")
        if clip and not self.config.frames_per_clip:
            raise UsageError(
                f"{clip.clip_id} is a folder of frames, of no known rate: give --frames_per_clip"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, Draw]) -> Any:
        """ClipWindow; subclasses for worker processes wrap it."""
        index, draw = key
        clip, is_released = self.clips[index], self.config.window == "released"
        landmarks = self._open_landmarks(clip)
        with self._open_crop(index) as crop, self._open_sound(clip) as sound:
            fps, num_frames = _header(clip, crop, landmarks)
            _require_same(clip, self.headers.get(index), (fps, num_frames))
            if sound is not None and not is_released:
                self._require_same_length(sound, num_frames, fps)
            frames, start_s, window_s = self._place(index, draw, fps, num_frames)
            waveform = np.zeros(0, np.float32)
            if sound is not None and is_released:
                waveform = sound.read(SAMPLE_RATE_HZ)
            elif sound is not None:
                delay_s = draw.sound_delay_s if isinstance(draw, WindowStart) else 0.0
                waveform = _read_sound(sound, start_s, window_s, delay_s)
            video = np.zeros((len(frames), 0, 0, 3), np.uint8)
            if "video" in self.inputs:
                video = crop.read(frames)
            is_equalized = crop.is_equalized
        if self.training and self.config.frame_changes and "video" in self.inputs:
            if is_equalized:
                what = f"{self.config.frame_changes[0]} cannot change the frames of {clip.clip_id}"
                raise UsageError(f"{what}, which are packed equalised; pack with --frames rgb or video")
            assert isinstance(draw, tuple)
            video = change_frames(video, self.config, (self.seed, *draw, index))
        points, has_landmarks = self._landmarks(landmarks, frames)
        label, video_label, audio_label = self._labels(clip, start_s, window_s)
        features_end_s = start_s + max(window_s, self.config.window_s if self.config.rows_after_end else 0)
        rule, times_s = self.config.label_rule, np.asarray((frames + 0.5) / float(fps), np.float64)
        return ClipWindow(
            video=torch.from_numpy(video),
            waveform=torch.from_numpy(waveform),
            landmarks=torch.from_numpy(points),
            has_landmarks=torch.from_numpy(has_landmarks),
            frame_labels=torch.from_numpy(frame_labels(clip, rule, times_s)),
            forged_frames=torch.from_numpy(forged_frames(clip, rule, times_s, num_frames / float(fps))),
            video_label=video_label,
            audio_label=audio_label,
            label=label,
            clip_id=clip.clip_id,
            is_equalized=is_equalized,
            features={
                name.removeprefix(FEATURES): torch.from_numpy(
                    read_features(clip.folder, name, start_s, features_end_s, self.recipes)
                )
                for name in sorted(self.inputs)
                if name.startswith(FEATURES)
            },
        )

    def _open_crop(self, index: int) -> contextlib.AbstractContextManager[Crop]:
        clip = self.clips[index]
        if not self.keeps_frames:
            return open_crop(clip.folder / VIDEO_NAME, clip.frames)
        if self._kept is None or self._kept[0] != index:
            self._kept = index, KeptCrop(clip.folder / VIDEO_NAME, clip.frames)
        return contextlib.nullcontext(self._kept[1])

    def _open_landmarks(self, clip: Clip) -> npt.NDArray[Any] | None:
        return open_landmarks(clip.folder) if "landmarks" in self.inputs else None

    def _open_sound(self, clip: Clip) -> contextlib.AbstractContextManager[SoundReader | None]:
        if "sound" not in self.inputs:
            return contextlib.nullcontext()
        return open_sound(find_audio(clip.folder))

    def _require_same_length(self, sound: SoundReader, num_frames: int, fps: Fraction) -> None:
        gap_s = sound.duration_s - num_frames / float(fps)
        if abs(gap_s) > max(self.config.max_length_gap_s, 1 / float(fps)):
            how = "longer" if gap_s > 0 else "shorter"
            what = f"is {abs(gap_s):.2f} s {how} than the picture; prepare the clip again"
            raise ClipError(sound.path, what)

    def _require_long_enough(self, clip: Clip, window_s: float, frame_s: float) -> None:
        least_s = max(self.min_window_s, frame_s)
        if window_s < least_s:
            silence = " after its leading silence" if self.config.trim_silence else ""
            what = f"is shorter than {least_s:g} s{silence}; exclude it with --exclude_list"
            raise ClipError(clip.folder, what)

    def _landmarks(
        self, landmarks: npt.NDArray[Any] | None, frames: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Normalised landmarks (T, 478, 2), 0 where there is no face, and which frames have one (T,)."""
        if landmarks is None:
            return np.zeros((len(frames), 0, 2), np.float32), np.zeros(len(frames), bool)
        points = normalize_landmarks(landmarks, frames, self.config.landmark_normalization)
        has_landmarks = np.asarray(~np.isnan(points.reshape(len(points), -1)).any(axis=1), np.bool_)
        return np.where(has_landmarks[:, None, None], points, 0.0).astype(np.float32), has_landmarks

    def _labels(self, clip: Clip, start_s: float, window_s: float) -> tuple[float, float, float]:
        """(label, video_label, audio_label): of the window in training, of the clip in evaluation."""
        rule = self.config.label_rule
        if not self.training or self.config.window == "released":
            return clip_labels(clip, rule)
        return window_labels(clip, rule, start_s, start_s + window_s, self.config.min_fake_s)

    def _starts(self, clip: Clip, fps: Fraction, num_frames: int) -> range:
        """The frames at which a window may start."""
        if self.config.window == "released":
            middle = max(0, (num_frames - RELEASED_FRAMES) // 2)
            return range(middle, middle + 1)
        first = 0
        if self.config.trim_silence:
            # a clip too short for a full window after its silence gives a shorter window
            silence_s = clip_leading_silence_s(find_audio(clip.folder), self.config.trim_rule)
            first = math.ceil(silence_s * float(fps) - 1e-6)
        return range(first, max(first, last_start_frame(num_frames, fps, self.config.window_s)) + 1)

    def _evaluation_starts(self, clip: Clip, fps: Fraction, num_frames: int) -> list[int]:
        """First frames of the evaluation windows."""
        starts = self._starts(clip, fps, num_frames)
        return [starts[place] for place in evaluation_starts(len(starts) - 1, self.config.windows_per_clip)]

    def _place(
        self, index: int, draw: Draw, fps: Fraction, num_frames: int
    ) -> tuple[npt.NDArray[np.int64], float, float]:
        """Numbers of the frames that are shown, and the window's start and length in seconds."""
        config, clip = self.config, self.clips[index]
        # all that is random in training: a resumed run draws the same
        rng = np.random.default_rng((self.seed, *draw, index)) if isinstance(draw, tuple) else None
        if config.frames_per_clip:
            return spread_frames(num_frames, config.frames_per_clip, rng), 0.0, num_frames / float(fps)
        if rng is not None:
            starts = self._starts(clip, fps, num_frames)
            start = starts[rng.integers(len(starts))]
        elif isinstance(draw, WindowStart):
            start = draw.frame
        else:
            assert isinstance(draw, int)
            start = self._evaluation_starts(clip, fps, num_frames)[draw]
        frames = window_frames(start, num_frames, fps, config)
        rate = float(fps) if config.window == "released" else config.video_fps
        self._require_long_enough(clip, len(frames) / rate, 1 / rate)
        return frames, start / float(fps), len(frames) / rate

    def learn_header(self, index: int, info: Mapping[str, Any]) -> None:
        """Take a clip's header from the values of its clip.json, which were read for something else."""
        if header := known_header(self.clips[index].folder, info):
            self.headers[index] = header

    def _header_of(self, index: int) -> Header:
        """The header of a clip, which is read once: its crop is opened only where nothing else tells it."""
        if index not in self.headers:
            clip = self.clips[index]
            header = known_header(clip.folder) if clip.frames is None else None
            if header is None:
                with open_crop(clip.folder / VIDEO_NAME, clip.frames) as crop:
                    header = _header(clip, crop, self._open_landmarks(clip))
            self.headers[index] = header
        return self.headers[index]

    def evaluation_keys(self) -> list[tuple[int, int]]:
        """All (clip index, window number); a clip that is not longer than a window has one window."""
        return [key for index in range(len(self.clips)) for key in self.clip_keys(index)]

    def clip_keys(self, index: int) -> list[tuple[int, int]]:
        """The evaluation keys of one clip."""
        num_windows = 1
        if self.config.windows_per_clip > 1 and not self.config.frames_per_clip:
            num_windows = len(self._evaluation_starts(self.clips[index], *self._header_of(index)))
        return [(index, window) for window in range(num_windows)]

    def sliding_keys(self, index: int, stride_s: float) -> list[tuple[int, WindowStart]]:
        """The windows that cover a clip, `stride_s` from one to the next."""
        fps, num_frames = self._header_of(index)
        starts = covering_starts(num_frames, fps, self.config.window_s, stride_s)
        return [(index, WindowStart(start)) for start in starts]

    def num_steps(self, index: int) -> int:
        """How many frames a clip has at the rate that the model sees."""
        fps, num_frames = self._header_of(index)
        return max(1, math.floor(num_frames / fps * self.config.video_fps + 1e-6))

    def step_of(self, index: int, frame: int) -> int:
        """The step, of `num_steps`, at which a window from a frame on begins."""
        return round(frame / self._header_of(index)[0] * Fraction(self.config.video_fps))

    def window_spans_s(self, index: int) -> list[tuple[float, float]]:
        """(start, end) of the evaluation windows or frames of a clip, in seconds of its picture."""
        (fps, num_frames), rate = self._header_of(index), float(self._header_of(index)[0])
        if count := self.config.frames_per_clip:
            return [(frame / rate, (frame + 1) / rate) for frame in spread_frames(num_frames, count, None)]
        starts = self._evaluation_starts(self.clips[index], fps, num_frames)
        if self.config.window == "released":
            return [(start / rate, min(start + RELEASED_FRAMES, num_frames) / rate) for start in starts]
        return [
            (start / rate, min(start / rate + self.config.window_s, num_frames / rate)) for start in starts
        ]


def _require_same(clip: Clip, counted: Header | None, found: Header) -> None:
    """Raise ClipError if a clip does not have the header that its windows were counted by, if they were.

    Readers round odd rates (OpenCV's to the nearest fraction below 1001), so rates may differ by a millionth.
    """
    if counted and (counted[1] != found[1] or abs(counted[0] / found[0] - 1) > Fraction(1, 10**6)):
        said, has = (f"{number} frames at {rate} per second" for rate, number in (counted, found))
        what = f"clip.json, or the pack, says {said}, but the crop has {has}; prepare the clip again"
        raise ClipError(clip.folder, what)


def _header(clip: Clip, crop: Crop, landmarks: npt.NDArray[Any] | None) -> Header:
    """(frames per second, number of frames) of a clip. Raises ClipError if its landmarks do not fit."""
    if landmarks is None:  # not every header gives the number of frames
        return crop.fps, crop.num_frames or len(open_landmarks(clip.folder))
    if crop.num_frames not in (0, len(landmarks)):
        what = f"{len(landmarks)} landmark frames for {crop.num_frames} video frames; prepare it again"
        raise ClipError(clip.folder, what)
    return crop.fps, len(landmarks)


def _read_sound(
    sound: SoundReader, start_s: float, duration_s: float, delay_s: float
) -> npt.NDArray[np.float32]:
    """A slice of a clip's sound; of a delayed one, with silence before its beginning and after its end."""
    start_s -= delay_s
    missing_s = min(max(0.0, -start_s), duration_s)
    waveform = sound.read(SAMPLE_RATE_HZ, start_s=max(0.0, start_s), duration_s=duration_s - missing_s)
    if not delay_s:
        return waveform
    before = round(missing_s * SAMPLE_RATE_HZ)
    after = max(0, round(duration_s * SAMPLE_RATE_HZ) - before - len(waveform))
    return np.pad(waveform, (before, after))
