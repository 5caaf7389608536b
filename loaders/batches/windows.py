"""Clip -> tensors of one window: picture, sound and landmarks are cut by the same seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from loaders.batches.silence import clip_leading_silence_s
from utils.clip.files import SAMPLE_RATE_HZ, VIDEO_NAME, find_audio, open_landmarks
from utils.clip.frames import open_crop, read_video_header
from utils.clip.sound import SoundReader, open_sound, read_waveform
from utils.config import opt
from utils.errors import ClipError, UsageError
from utils.types import Clip

MIN_WINDOW_S = 0.1  # less sound than that leaves the audio encoder without a step
RELEASED_FRAMES = 60  # the published code's clip length


@dataclass(frozen=True)
class WindowStart:
    """A window that begins at a frame of one's choice. What is heard in it comes `sound_delay_s` late."""

    frame: int
    sound_delay_s: float = 0.0


# number of an evaluation window, or where one begins, or (epoch, repetition) in training
Draw = int | WindowStart | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """loaders/batches/windows.py: what is cut out of a clip, and which labels it gets."""

    window: str = opt(
        "seconds",
        "seconds = one window cuts picture, sound and landmarks; released = the published code's middle 60 "
        "frames beside the whole sound, of which the model takes the middle columns",
        choices=("seconds", "released"),
    )
    window_s: float = opt(2.4, "length of the window in seconds (60 frames at 25 fps)")
    video_fps: float = opt(
        25.0, "frames per second that the model sees: sources are read at the nearest frames"
    )
    windows_per_clip: int = opt(3, "evenly spread windows per clip in evaluation, whose logits are pooled")
    pooling: str = opt(
        "mean",
        "score of a clip from those of its windows; max finds clips that are forged only in places",
        choices=("mean", "max"),
    )
    landmark_normalization: str = opt(
        "face_box",
        "face_box = units of the face's width, origin at its middle, per frame; clip_zscore = per "
        "coordinate over the clip (published code: erases the face's shape)",
        choices=("face_box", "clip_zscore"),
    )
    label_rule: str = opt(
        "any",
        "any = fake if picture or sound is; video = by the picture alone (published code)",
        choices=("any", "video"),
    )
    min_fake_s: float = opt(
        0.1,
        "a training window of a clip that is forged in places is fake if it shows so much of a forged "
        "segment in seconds, or all of a shorter one (evaluation windows, and window released: the clip's "
        "label)",
    )
    augment: bool = opt(
        False, "in training, change brightness and colour of each window at random: cameras are not evidence"
    )
    trim_silence: bool = opt(
        False,
        "windows start after the clip's leading silence, in training and testing, reals and fakes alike",
    )
    max_length_gap_s: float = opt(0.1, "largest difference in length of a clip's picture and sound")

    def __post_init__(self) -> None:
        for name in ("window_s", "video_fps", "windows_per_clip", "max_length_gap_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.min_fake_s < 0:
            raise ValueError(f"min_fake_s must be >= 0, got {self.min_fake_s}")
        if self.window_s < MIN_WINDOW_S:
            raise ValueError(f"window_s must be >= {MIN_WINDOW_S}, got {self.window_s}")
        if self.window == "released" and self.windows_per_clip != 1:
            raise ValueError("window released has one window per clip: set --windows_per_clip 1")
        if self.window == "released" and self.trim_silence:
            raise ValueError("trim_silence needs window seconds: the published code takes the whole sound")

    @property
    def window_frames(self) -> int:
        """T of a full window."""
        return RELEASED_FRAMES if self.window == "released" else max(1, round(self.window_s * self.video_fps))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipWindow:
    """One window before batching: T frames, N samples, none of them padding."""

    video: Tensor  # (T, H, W, 3) uint8 RGB
    waveform: Tensor  # (N,) float32
    landmarks: Tensor  # (T, 478, 2) float32, 0 where there is no face
    has_landmarks: Tensor  # (T,) bool
    video_label: float  # NaN = unknown
    audio_label: float
    label: float
    clip_id: str
    is_equalized: bool = False  # the luma of its frames is histogram-equalised already


def normalize_face_box(landmarks: np.ndarray) -> np.ndarray:
    """(T, 478, 2) in any unit -> units of the face's width, origin at the middle of the face's box, frame by
    frame.

    Keeps the face's shape and pose, drops where it is and how large. NaN stays NaN.
    """
    by_axis = np.ascontiguousarray(landmarks.transpose(0, 2, 1))  # the points innermost, for speed
    low, high = by_axis.min(axis=2)[:, None], by_axis.max(axis=2)[:, None]  # (T, 1, 2)
    width = np.maximum(high[..., :1] - low[..., :1], 1e-6)
    return (landmarks - (low + high) / 2) / width


def normalize_clip_zscore(landmarks: np.ndarray) -> np.ndarray:
    """(T, 478, 2) -> every coordinate standardised over all T frames of the clip (population deviation, 0 ->
    1e-6).
    """
    if np.isnan(landmarks).all():
        return landmarks
    mean, std = np.nanmean(landmarks, axis=0), np.nanstd(landmarks, axis=0)
    return (landmarks - mean) / np.where(std == 0, 1e-6, std)


def jitter_color(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random gain (0.8 to 1.2) and one offset per channel (-25 to 25) for all frames (T, H, W, 3) of a
    window.
    """
    gain, offset = rng.uniform(0.8, 1.2), rng.uniform(-25, 25, 3)
    table = np.arange(256)[:, None] * gain + offset  # (256, 3)
    table = table.round().clip(0, 255).astype(np.uint8)
    stacked = cv2.LUT(frames.reshape(-1, *frames.shape[2:]), table[None])  # (T*H, W, 3)
    return stacked.reshape(frames.shape)


def clip_labels(clip: Clip, rule: str) -> tuple[float, float, float]:
    """(label, video_label, audio_label) of a clip under a label rule, NaN = unknown."""
    video, audio = (
        math.nan if value is None else float(value) for value in (clip.video_label, clip.audio_label)
    )
    if rule == "video":
        if clip.video_label is None:
            raise UsageError(
                f"--label_rule video: {clip.dataset} does not say whether the picture of {clip.clip_id} "
                "is fake"
            )
        return video, video, audio
    return float(clip.label), video, audio


def window_labels(
    clip: Clip, rule: str, start_s: float, end_s: float, min_fake_s: float
) -> tuple[float, float, float]:
    """(label, video_label, audio_label) of what is seen and heard of a clip from `start_s` to `end_s`.

    A modality with forged segments is fake where one of them is shown for `min_fake_s`, or as a whole if it
    is shorter. Where a modality's label is unknown and the other shows nothing forged, the clip's label
    stays.
    """
    label, video, audio = clip_labels(clip, rule)
    if clip.video_fake_segments is None and clip.audio_fake_segments is None:
        return label, video, audio
    parts = []
    for part, segments in ((video, clip.video_fake_segments), (audio, clip.audio_fake_segments)):
        if part == 1 and segments is not None:
            part = float(
                any(
                    min(end_s, end) - max(start_s, start) >= min(min_fake_s, end - start) - 1e-6
                    for start, end in segments
                )
            )
        parts.append(part)
    video, audio = parts
    if rule == "video":
        return video, video, audio
    if 1 in parts:
        return 1.0, video, audio
    return label if any(map(math.isnan, parts)) else 0.0, video, audio


class ClipDataset(Dataset):
    """Windows of clips. An item is asked for by (clip index, draw).

    With a `WindowStart` the window begins there. In training, `draw` is (epoch, repetition) and the window's
    start is drawn from (seed, epoch, repetition, clip index) alone, so a resumed run sees the same windows.
    In evaluation it is the number of one of `windows_per_clip` evenly spread windows.
    """

    def __init__(self, clips: Sequence[Clip], config: DataConfig, *, training: bool, seed: int = 0) -> None:
        self.clips = list(clips)
        self.config = config
        self.training = training
        self.seed = seed

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, Draw]) -> ClipWindow:
        index, draw = key
        clip = self.clips[index]
        landmarks = open_landmarks(clip.folder)
        with open_crop(clip.folder / VIDEO_NAME) as crop:
            if crop.num_frames and crop.num_frames != len(landmarks):
                raise ClipError(
                    clip.folder,
                    f"{len(landmarks)} landmark frames for {crop.num_frames} video frames; prepare it again",
                )
            if self.config.window == "released":
                frames, waveform, landmarks = self._released_window(clip, landmarks)
                labels = clip_labels(clip, self.config.label_rule)
            else:
                frames, waveform, landmarks, start_s = self._window(clip, landmarks, crop.fps, index, draw)
                labels = self._window_labels(clip, start_s, len(frames))
            video = crop.read(frames)
            is_equalized = crop.is_equalized
        has_landmarks = ~np.isnan(landmarks.reshape(len(landmarks), -1)).any(axis=1)
        landmarks = np.where(has_landmarks[:, None, None], landmarks, 0.0).astype(np.float32)
        label, video_label, audio_label = labels
        if self.training and self.config.augment:
            if is_equalized:
                raise UsageError(
                    f"--augment changes frames before they are equalised, but those of {clip.clip_id} are "
                    "packed equalised: pack with --frames rgb or video"
                )
            # a stream of its own, so that the flag does not move the windows
            video = jitter_color(video, np.random.default_rng((self.seed, *draw, index, 1)))
        return ClipWindow(
            video=torch.from_numpy(video),
            waveform=torch.from_numpy(waveform),
            landmarks=torch.from_numpy(landmarks),
            has_landmarks=torch.from_numpy(has_landmarks),
            video_label=video_label,
            audio_label=audio_label,
            label=label,
            clip_id=clip.clip_id,
            is_equalized=is_equalized,
        )

    def _window(
        self, clip: Clip, landmarks: np.ndarray, fps: Fraction, index: int, draw: Draw
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """(frame numbers, samples, normalised landmarks, start in seconds) of a window in seconds."""
        config, num_frames = self.config, len(landmarks)
        with open_sound(find_audio(clip.folder)) as sound:
            gap_s = sound.duration_s - num_frames / float(fps)
            if abs(gap_s) > max(config.max_length_gap_s, 1 / float(fps)):
                raise ClipError(sound.path, f"is {abs(gap_s):.2f} s {'longer' if gap_s > 0 else 'shorter'} "
                                            "than the picture; prepare the clip again")  # fmt: skip
            frames, start_s, delay_s = self._window_frames(clip, num_frames, fps, index, draw)
            waveform = _read_sound(sound, start_s - delay_s, len(frames) / config.video_fps)
        if config.landmark_normalization == "clip_zscore":
            normalized = normalize_clip_zscore(np.asarray(landmarks, np.float32))[frames]
        else:
            normalized = normalize_face_box(np.asarray(landmarks[frames], np.float32))
        return frames, waveform, normalized, start_s

    def _window_frames(
        self, clip: Clip, num_frames: int, fps: Fraction, index: int, draw: Draw
    ) -> tuple[np.ndarray, float, float]:
        """(frame numbers, start in seconds, delay of the sound in seconds) of a window in seconds."""
        first_start, num_starts = self._starts(clip, num_frames, fps)
        delay_s = 0.0
        if isinstance(draw, WindowStart):
            start, delay_s = draw.frame, draw.sound_delay_s
        elif self.training:
            start = first_start + int(np.random.default_rng((self.seed, *draw, index)).integers(num_starts))
        else:
            start = first_start + evaluation_starts(num_starts - 1, self.config.windows_per_clip)[draw]
        frames = window_frames(start, num_frames, fps, self.config)
        if len(frames) / self.config.video_fps < MIN_WINDOW_S:
            silence = " after its leading silence" if first_start else ""
            raise ClipError(
                clip.folder, f"is shorter than {MIN_WINDOW_S} s{silence}; exclude it with --exclude_list"
            )
        return frames, start / float(fps), delay_s

    def _window_labels(self, clip: Clip, start_s: float, num_steps: int) -> tuple[float, float, float]:
        """(label, video_label, audio_label) of a window of `num_steps` frames at `video_fps`."""
        config = self.config
        if not self.training:
            return clip_labels(clip, config.label_rule)
        end_s = start_s + num_steps / config.video_fps
        return window_labels(clip, config.label_rule, start_s, end_s, config.min_fake_s)

    def _starts(self, clip: Clip, num_frames: int, fps: Fraction) -> tuple[int, int]:
        """(first frame at which a window may start, number of frames at which one may)."""
        first = 0
        if self.config.trim_silence:
            # a clip that is too short for a full window after its silence gives a shorter one
            first = math.ceil(clip_leading_silence_s(find_audio(clip.folder)) * float(fps) - 1e-6)
        return first, max(0, last_start_frame(num_frames, fps, self.config.window_s) - first) + 1

    def _released_window(
        self, clip: Clip, landmarks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Middle 60 frames (the last one repeated where there are fewer), the whole sound, landmarks of the
        60 frames.
        """
        start = max(0, (len(landmarks) - RELEASED_FRAMES) // 2)
        frames = np.minimum(start + np.arange(RELEASED_FRAMES), len(landmarks) - 1)
        landmarks = np.asarray(landmarks, np.float32)
        if self.config.landmark_normalization == "clip_zscore":
            normalized = normalize_clip_zscore(landmarks)[frames]
        else:
            normalized = normalize_face_box(landmarks[frames])
        return frames, read_waveform(find_audio(clip.folder), SAMPLE_RATE_HZ), normalized

    def evaluation_keys(self) -> list[tuple[int, int]]:
        """All (clip index, window number); a clip that is not longer than a window has one."""
        return [key for index in range(len(self.clips)) for key in self.clip_keys(index)]

    def clip_keys(self, index: int) -> list[tuple[int, int]]:
        """The evaluation keys of one clip."""
        clip, num_windows = self.clips[index], 1
        if self.config.window == "seconds" and self.config.windows_per_clip > 1:
            fps, _ = read_video_header(clip.folder / VIDEO_NAME)
            _, num_starts = self._starts(clip, len(open_landmarks(clip.folder)), fps)
            num_windows = len(evaluation_starts(num_starts - 1, self.config.windows_per_clip))
        return [(index, window) for window in range(num_windows)]

    def window_spans_s(self, index: int) -> list[tuple[float, float]]:
        """(start, end) of the evaluation windows of a clip, in seconds of its picture."""
        folder = self.clips[index].folder
        fps, _ = read_video_header(folder / VIDEO_NAME)
        num_frames = len(open_landmarks(folder))
        if self.config.window == "released":
            start = max(0, (num_frames - RELEASED_FRAMES) // 2)
            return [(start / float(fps), min(start + RELEASED_FRAMES, num_frames) / float(fps))]
        first, num_starts = self._starts(self.clips[index], num_frames, fps)
        starts = [first + start for start in evaluation_starts(num_starts - 1, self.config.windows_per_clip)]
        end_s = num_frames / float(fps)
        return [
            (start / float(fps), min(start / float(fps) + self.config.window_s, end_s)) for start in starts
        ]


def window_frames(start: int, num_frames: int, fps: Fraction, config: DataConfig) -> np.ndarray:
    """Numbers of the clip's frames that a window from frame `start` on shows, at most `window_frames`."""
    # the epsilon keeps a frame whose middle falls on a boundary by rounding; first + 0.5 is the middle of a
    # frame
    num_steps = min(config.window_frames, math.floor((num_frames - start) / fps * config.video_fps + 1e-6))
    steps = (np.arange(num_steps) + 0.5) / config.video_fps * float(fps)
    return np.minimum(start + np.floor(steps + 1e-6).astype(np.int64), num_frames - 1)


def _read_sound(sound: SoundReader, start_s: float, duration_s: float) -> np.ndarray:
    """A slice of a clip's sound, silent where it reaches over the beginning."""
    missing_s = min(max(0.0, -start_s), duration_s)
    waveform = sound.read(SAMPLE_RATE_HZ, start_s=max(0.0, start_s), duration_s=duration_s - missing_s)
    if not missing_s:
        return waveform
    return np.concatenate([np.zeros(round(missing_s * SAMPLE_RATE_HZ), np.float32), waveform])


def last_start_frame(num_frames: int, fps: Fraction, window_s: float) -> int:
    """The last frame at which a full window can start; 0 for clips that are shorter."""
    return max(0, num_frames - math.ceil(window_s * float(fps) - 1e-6))


def evaluation_starts(last_start: int, windows: int) -> list[int]:
    """At most `windows` different start frames, evenly spread over 0..last_start; a single one lies in the
    middle.
    """
    if windows == 1:
        return [last_start // 2]
    return sorted({round(place) for place in np.linspace(0, last_start, windows)})
