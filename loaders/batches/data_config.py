"""The flags of what is cut out of a clip."""

from __future__ import annotations

from dataclasses import dataclass

from loaders.batches.silence import TRIM_RULES
from utils.clip.files import CROP_SIZE, NUM_LANDMARKS, SAMPLE_RATE_HZ
from utils.config import opt, require_at_least, require_between

RELEASED_FRAMES = 60  # the published code's clip length


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """loaders/batches/data_config.py: what is cut out of a clip, and which labels it gets."""

    window: str = opt(
        "seconds",
        "seconds = one window cuts picture, sound and landmarks; released = the published code's middle 60 "
        "frames with the whole sound, whose middle columns the model takes",
        choices=("seconds", "released"),
    )
    window_s: float = opt(2.4, "length of the window in seconds (60 frames at 25 fps)")
    video_fps: float = opt(25.0, "frames per second that the model sees, the nearest ones of the source")
    windows_per_clip: int = opt(3, "evenly spread windows per clip in evaluation, whose logits are pooled")
    frames_per_clip: int = opt(
        0,
        "for methods that judge single frames: N frames of the whole clip instead of a window, evenly spread "
        "in evaluation, one of each of N equal parts at random in every epoch of training; 0 = windows",
    )
    pooling: str = opt(
        "mean",
        "score of a clip from those of its windows or frames; max finds clips forged only in places",
        choices=("mean", "max"),
    )
    landmark_normalization: str = opt(
        "face_box",
        "face_box = units of the face's width, origin at its middle, per frame; clip_zscore = per "
        "coordinate over the clip (published code of beyond_masking: erases the face's shape); crop = as "
        "prepared, in units of the crop's sides, for methods that align pictures",
        choices=("face_box", "clip_zscore", "crop"),
    )
    label_rule: str = opt(
        "any",
        "any = fake if picture or sound is; video = by the picture alone (published code); emotion = which "
        "of eight, for methods that tell emotions apart",
        choices=("any", "video", "emotion"),
    )
    min_fake_s: float = opt(
        0.1,
        "a training window of a partly forged clip is fake if it shows at least this many seconds of a "
        "forged segment, or all of a shorter one (evaluation windows and window released: the clip's label)",
    )
    augment: bool = opt(
        False, "change brightness and colour of each training window at random: cameras are not evidence"
    )
    gray_chance: float = opt(0.0, "how often a training window loses its colours, all frames alike")
    erase_chance: float = opt(
        0.0,
        "how often a rectangle of a training window, 2 to 33 % of the crop and the same in all frames, gets "
        "the mean colour",
    )
    trim_silence: bool = opt(False, "start windows after a clip's leading silence, in training and testing")
    trim_rule: str = opt(
        "level",
        "where the leading silence of --trim_silence ends: level = within 40 dB of the sound's loud part; "
        "amplitude = at the first sample beyond 0.0005 at 16 kHz, as in papers",
        choices=TRIM_RULES,
    )
    rows_after_end: bool = opt(
        False,
        "for methods that read features: of a clip that ends within a window, also the rows about what "
        "follows its end, as far as a backbone gives them (published code of td3mf)",
    )
    max_length_gap_s: float = opt(
        0.1, "largest allowed difference in length between a clip's picture and sound, in seconds"
    )

    def __post_init__(self) -> None:
        for name in ("window_s", "video_fps", "windows_per_clip", "max_length_gap_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        require_at_least(self, 0, "min_fake_s", "frames_per_clip")
        require_between(self, 0, 1, "gray_chance", "erase_chance")
        if self.window == "released" and self.frames_per_clip:
            raise ValueError("frames_per_clip needs window seconds")
        if self.window == "released" and self.windows_per_clip != 1:
            raise ValueError("window released has one window per clip: set --windows_per_clip 1")
        if self.window == "released" and self.trim_silence:
            raise ValueError("trim_silence needs window seconds: the published code takes the whole sound")

    def unused(self) -> dict[str, str]:
        """Fields without effect in this configuration and why: giving such a flag is an error."""
        names = ("window_s", "video_fps", "windows_per_clip", "min_fake_s", "trim_silence", "trim_rule")
        if self.frames_per_clip:
            return dict.fromkeys(names, "frames_per_clip takes single frames")
        return {} if self.trim_silence else {"trim_rule": "trim_silence is false"}

    @property
    def trimming(self) -> str:
        """By which rule leading silence is trimmed; "no" if it is not."""
        return self.trim_rule if self.trim_silence else "no"

    @property
    def window_frames(self) -> int:
        """T of a full window."""
        if self.frames_per_clip:
            return self.frames_per_clip
        return RELEASED_FRAMES if self.window == "released" else max(1, round(self.window_s * self.video_fps))

    @property
    def frame_changes(self) -> tuple[str, ...]:
        """The flags that change frames in training, of those that do here."""
        names = ("augment", "gray_chance", "erase_chance")
        return tuple(f"--{name}" for name in names if getattr(self, name))

    def describe(self, num_windows: int) -> str:
        """What is scored, for the log; `num_windows` of all clips."""
        if self.frames_per_clip:
            return f"{self.frames_per_clip} frames of each at most"
        return f"{num_windows} windows of {self.window_s:.1f} s"

    def window_bytes(self, inputs: frozenset[str]) -> float:
        """About how much memory a window takes, features left aside."""
        # of a released window the sound of the whole clip, which may be long
        seconds = 10.0 if self.window == "released" else self.window_s
        picture = self.window_frames * CROP_SIZE**2 * 3 if "video" in inputs else 0
        sound = seconds * SAMPLE_RATE_HZ * 5 if "sound" in inputs else 0  # with its padding mask
        return 1.05 * (picture + sound + self.window_frames * NUM_LANDMARKS * 8)
