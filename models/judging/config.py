"""The flags of judging."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from preprocess.clip.all_faces import PASSES
from preprocess.faces.backends import BACKENDS
from preprocess.work.limits import LimitConfig
from utils.config import opt, require_at_least


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(LimitConfig):
    """models/judging/config.py: how a raw video is judged, and the limits of decoding it."""

    tracker: str = opt(
        "ours",
        "how faces are followed; ours: whenever they come, until a cut, over gaps of 1.5 s; m2sd: by the "
        "rules of M2SD's released script, to compare with its numbers: faces that are in all frames, whose "
        "boxes overlap by half from each to the next; if none is, one face per stretch between misses",
        choices=tuple(PASSES),
    )
    landmark_backend: str = opt(
        "auto",
        "networks that find faces (see preprocess.prepare --help); auto: those of the training clips where "
        "they are installed, else the first that is there, and the verdict says so",
        choices=BACKENDS,
    )
    stride_s: float = opt(0.0, "seconds from one window to the next; 0 = half a window")
    lag_frames: int = opt(10, "lag curve: shift the sound by up to N frames in both directions; 0 = no curve")
    explain: bool = opt(True, "blur regions of the face to see which ones the score relies on")
    check_domain: bool = opt(True, "faces unlike the training clips in plain facts are undecided")
    batch_size: int = opt(
        0,
        "windows of a face that are scored at once, which take memory; 0 = as many as have 24 MB of frames "
        "and sound, at most 16",
    )
    weights_dir: Path | None = opt(None, "for methods that read features: folder of the backbones' weights")
    min_face_px: float = opt(48.0, "faces smaller than this, from hairline to chin, are undecided")
    judge_despite_generated: bool = opt(
        False,
        "call videos real or fake although the checkpoint was trained on generated clips (preprocess.demo), "
        "which know nothing of real people: for tests of the software, never for a verdict about anybody",
    )

    def __post_init__(self) -> None:
        LimitConfig.__post_init__(self)
        require_at_least(self, 0, "stride_s", "lag_frames", "min_face_px", "batch_size")
        if self.tracker not in PASSES:
            raise ValueError(f"tracker must be one of {', '.join(PASSES)}, got {self.tracker!r}")
