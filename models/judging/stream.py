"""Judge a video while it is being shown: frames and samples in, running verdicts out, in bounded memory.

    stream = load_detector("saved_models/X/best.pt").stream(fps=25, sample_rate=48_000)
    for frame, samples in camera:
        for verdict in stream.write_sound(samples) + stream.write_frame(frame):
            print(verdict.end_s, verdict.verdict)
    stream.close()

Windows and pixels are those of the file: the same code follows, crops, encodes and cuts.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from loaders.batches.data_config import DataConfig
from loaders.batches.domain import signals_of
from loaders.batches.places import last_start_frame, window_frames
from loaders.batches.transforms import normalize_landmarks
from loaders.batches.windows import ClipWindow
from models.judging.config import JudgeConfig
from models.judging.doubts import doubts_of, doubts_of_level, face_height_px
from models.judging.live_sound import LiveSound, LoudestSecond, Samples
from models.method import Method
from preprocess.clip.all_faces import MIN_TRACK_S, TrackClip, TrackedVideo
from preprocess.clip.live import FacePiece, LiveFaces
from utils.clip.files import CROP_SIZE, NUM_LANDMARKS, SAMPLE_RATE_HZ
from utils.clip.packed import FEATURES
from utils.errors import UsageError
from utils.evaluation.decision import Decision
from utils.evaluation.domain import Domain
from utils.media.picture import Picture, PictureConverter
from utils.media.sound import SILENCE

# crops come about 1.2 s after their frames; sound that is later than this counts as silence
PATIENCE_S = 1.6
MOST_EARLY = 1000  # pieces of sound that wait for the first frame
REMEMBERED = 15_000  # frames of a face by which its size is judged: ten minutes at 25 frames per second


class Detector(Protocol):
    """What a stream asks of LoadedDetector (models/judging/detector.py, which imports this file)."""

    data: DataConfig
    decision: Decision
    domain: Domain | None
    inputs: frozenset[str]
    name: str
    caveat: str
    tells_emotions: bool

    @property
    def model(self) -> Method:
        """The method."""

    def judge_windows(
        self, windows: Sequence[ClipWindow], config: JudgeConfig
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Logits (n, 3) of windows, and facts (n, F)."""

    def starts_of(self, num_frames: int, fps: Fraction, stride_s: float) -> list[int]:
        """First frames of the windows of a whole track."""

    def backend_for(self, config: JudgeConfig) -> str:
        """The landmark backend that finds the faces."""

    def unlike_training(self, facts: npt.NDArray[np.float64], of_file: list[float]) -> list[str]:
        """Why a face is unlike the training clips, by facts (n, F) of its windows and of its file."""


@dataclass(frozen=True, kw_only=True)
class RunningVerdict:
    """What is known of a face after one more window."""

    face: int  # its number: the same person may have several, as in a file's tracks
    start_s: float  # of the window, from the first frame on
    end_s: float
    window_logit: float
    logit: float  # of all windows of the face so far, pooled as in a file
    prob: float  # calibrated P(fake) of it
    verdict: str  # real, fake or undecided
    reasons: list[str]  # why the detector is not to be trusted with it
    box: list[float]  # x, y, side in pixels of the displayed frame, the last one
    num_windows: int


@dataclass
class _Face:
    """A face on the way: the frames that a later window may show, and what its windows said."""

    first_frame: int
    video: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    landmarks: list[npt.NDArray[np.float32]] = field(default_factory=list)
    kept_from: int = 0  # number, within the face, of the first frame that is kept
    num_frames: int = 0
    is_complete: bool = False
    last_start: int = -1  # first frame of the last window that was scored
    box: list[float] = field(default_factory=list)
    sides: collections.deque[float] = field(default_factory=lambda: collections.deque(maxlen=REMEMBERED))
    seen: collections.deque[bool] = field(default_factory=lambda: collections.deque(maxlen=REMEMBERED))
    total: float = 0.0  # of the windows' logits, or the largest
    num_windows: int = 0
    facts: npt.NDArray[np.float64] | None = None  # sum over the windows
    level: LoudestSecond = field(default_factory=LoudestSecond)  # of its sound up to sample `heard_to`
    heard_to: int = 0

    def add(self, piece: FacePiece) -> None:
        self.video.extend(piece.video)
        self.landmarks.extend(piece.landmarks)
        self.num_frames += len(piece.video)
        self.is_complete |= piece.is_last
        self.sides.extend(piece.boxes[:, 2].tolist())
        self.seen.extend((~np.isnan(piece.landmarks[:, 0, 0])).tolist())
        if len(piece.boxes):
            self.box = piece.boxes[-1].tolist()

    def drop_before(self, frame: int) -> None:
        if frame > self.kept_from:
            del self.video[: frame - self.kept_from], self.landmarks[: frame - self.kept_from]
            self.kept_from = frame


class DetectorStream:
    """`write_frame`, `write_sound` and `close` return the verdicts that are ready then, in order of time."""

    def __init__(self, detector: Detector, fps: Fraction, sample_rate_hz: int, config: JudgeConfig) -> None:
        if detector.tells_emotions:
            raise UsageError(f"{detector.name}: tells emotions apart, and says nothing of real and fake")
        if any(name.startswith(FEATURES) for name in detector.inputs):
            raise UsageError("the method reads cached features, which need the whole video: judge the file")
        if config.tracker != "ours":
            raise UsageError(f"tracker {config.tracker} needs the whole video: judge the file")
        if detector.data.landmark_normalization == "clip_zscore":
            raise UsageError("--landmark_normalization clip_zscore needs the whole video: judge the file")
        self._detector, self._config, self.fps = detector, config, fps
        self._inputs = detector.inputs | signals_of(detector.domain)
        self._faces, self._sound = LiveFaces(fps, detector.backend_for(config)), LiveSound(sample_rate_hz)
        self._converter = PictureConverter()
        self._known: dict[int, _Face] = {}
        self._last: tuple[float, Picture] | None = None  # the frame that is shown, and since when
        self._first_s: float | None = None
        self._num_shown = self._num_written = 0  # frames at the constant rate; frames that were written
        self._heard = False
        self._early: list[tuple[Samples, float]] = []  # sound from before the first frame
        self._size = 0, 0
        self._warm_up()

    def write_frame(
        self, frame: npt.NDArray[np.uint8] | Picture, time_s: float | None = None
    ) -> list[RunningVerdict]:
        """Take the next frame, (H, W, 3) uint8 RGB or as decoded, that is shown from `time_s` on.

        Without times frames come at the stream's rate. As in files: at each place of the constant rate the
        nearest frame is taken, over a gap (a stall) the last one stays, and all have the first one's size.
        Waits if frames come faster than faces are found.
        """
        picture = frame if isinstance(frame, Picture) else Picture.from_rgb(frame, self._converter)
        if self._last is None:
            self._size = picture.width, picture.height
        if (picture.width, picture.height) != self._size:
            picture = picture.for_thread(self._converter).of_size(*self._size)
        if time_s is None:
            time_s = float(self._num_written / self.fps)
        self._num_written += 1
        if self._first_s is None:
            self._first_s = time_s
            for samples, heard_s in self._early:
                self._sound.write(samples, heard_s - time_s)
            self._early = []
        self._show_until(time_s - self._first_s, picture)
        self._last = time_s - self._first_s, picture
        return self._verdicts()

    def _show_until(self, time_s: float, picture: Picture) -> None:
        """Hand on the frames of all places up to the time of the next picture."""
        while (until := time_s - (place_s := float(self._num_shown / self.fps))) >= -1e-6:
            shown = picture
            if self._last is not None and (
                until > float(1 / self.fps) + 1e-6 or place_s - self._last[0] <= until
            ):
                shown = self._last[1]
            self._faces.write(shown)
            self._num_shown += 1

    def write_sound(self, samples: Samples, time_s: float | None = None) -> list[RunningVerdict]:
        """Take the next samples, (N,) or (C, N) float32 in [-1, 1], the first of them heard at `time_s`.

        Times are on the clock of the frames; without them samples follow each other from the first frame on.
        """
        self._heard = True
        if time_s is None:
            self._sound.write(samples)
        elif self._first_s is None:  # its place is not known before the first frame
            self._early = [*self._early, (samples, time_s)][-MOST_EARLY:]
        else:
            self._sound.write(samples, time_s - self._first_s)
        return self._verdicts()

    def close(self) -> list[RunningVerdict]:
        """The end of the video: the verdicts that are left."""
        if self._last is not None:
            while float(self._num_shown / self.fps) <= self._last[0] + 0.5 / float(self.fps):
                self._faces.write(self._last[1])
                self._num_shown += 1
        self._faces.close()
        self._sound.finish()
        self._sound.fill_to(round(self._num_shown / self.fps * SAMPLE_RATE_HZ))
        return self._verdicts()

    @property
    def picture(self) -> Picture:
        """The newest frame, which there must be."""
        assert self._last is not None
        return self._last[1]

    @property
    def now_s(self) -> float:
        """Time of the newest frame, from the first one on."""
        return float(self._num_shown / self.fps)

    def _verdicts(self) -> list[RunningVerdict]:
        for piece in self._faces.pieces():
            if piece.face not in self._known:
                origin = round(piece.first_frame / self.fps * SAMPLE_RATE_HZ)
                self._known[piece.face] = _Face(piece.first_frame, heard_to=origin)
            self._known[piece.face].add(piece)
        found = []
        for number, face in list(self._known.items()):
            while (window := self._next_window(face)) is not None:
                found.append(self._judge(number, face, *window))
            if face.is_complete and self._next_start(face) is None:
                del self._known[number]
        self._forget_sound()
        return sorted(found, key=lambda verdict: verdict.end_s)

    def _stride(self) -> int:
        stride_s = self._config.stride_s or self._detector.data.window_s / 2
        return max(1, round(stride_s * self.fps))

    def _next_start(self, face: _Face) -> int | None:
        """First frame of the next window that the frames allow, as in a file; None: not yet, or none."""
        if face.is_complete:
            starts: list[int] = []
            if face.num_frames >= MIN_TRACK_S * self.fps:
                starts = self._detector.starts_of(face.num_frames, self.fps, self._config.stride_s)
            return next((start for start in starts if start > face.last_start), None)
        start = 0 if face.last_start < 0 else face.last_start + self._stride()
        is_full = face.num_frames >= math.ceil(self._detector.data.window_s * float(self.fps) - 1e-6)
        return start if is_full and start <= self._last_start(face) else None

    def _last_start(self, face: _Face) -> int:
        return last_start_frame(face.num_frames, self.fps, self._detector.data.window_s)

    def _next_window(self, face: _Face) -> tuple[int, ClipWindow, float] | None:
        """(start, window, its length in s) of the next window whose frames and sound are there."""
        start = self._next_start(face)
        if start is None:
            return None
        data, inputs = self._detector.data, self._inputs
        frames = window_frames(start, face.num_frames, self.fps, data)
        window_s = len(frames) / data.video_fps
        waveform = np.zeros(0, np.float32)
        if "sound" in inputs:
            origin = round(face.first_frame / self.fps * SAMPLE_RATE_HZ)
            first = origin + round(start / float(self.fps) * SAMPLE_RATE_HZ)
            last = first + round(window_s * SAMPLE_RATE_HZ)
            if face.is_complete:
                last = min(last, origin + round(face.num_frames / self.fps * SAMPLE_RATE_HZ))
            if self._sound.end < last:
                if self._num_shown / self.fps - Fraction(last, SAMPLE_RATE_HZ) < PATIENCE_S:
                    return None
                self._sound.fill_to(last)
            waveform = self._sound.read(first, last)
            face.level.add(self._sound.read(face.heard_to, last))
            face.heard_to = max(face.heard_to, last)
        places = frames - face.kept_from
        video, points = (np.stack([kept[place] for place in places]) for kept in (face.video, face.landmarks))
        points = normalize_landmarks(points, np.arange(len(points)), data.landmark_normalization)
        found = np.asarray(~np.isnan(points.reshape(len(points), -1)).any(axis=1), np.bool_)
        points = np.where(found[:, None, None], points, 0.0).astype(np.float32)
        return start, self._window(video, waveform, points, found), window_s

    def _window(
        self,
        video: npt.NDArray[np.uint8],
        waveform: Samples,
        points: npt.NDArray[np.float32],
        found: npt.NDArray[np.bool_],
    ) -> ClipWindow:
        """A window of frames and their sound, without the inputs that the method does not take."""
        if "video" not in self._inputs:
            video = video[:, :0, :0]
        if "landmarks" not in self._inputs:
            points, found = points[:, :0], np.zeros_like(found)
        unknown = torch.full((len(video),), torch.nan)
        return ClipWindow(
            video=torch.from_numpy(video),
            waveform=torch.from_numpy(waveform),
            landmarks=torch.from_numpy(points),
            has_landmarks=torch.from_numpy(found),
            frame_labels=unknown,
            forged_frames=unknown,
            video_label=math.nan,
            audio_label=math.nan,
            label=math.nan,
            clip_id="stream",
        )

    def _warm_up(self) -> None:
        """Judge a window of noise: the first one takes longest, and nobody waits for it yet."""
        data, rng = self._detector.data, np.random.default_rng(0)
        num_frames = data.window_frames
        num_samples = round(num_frames / data.video_fps * SAMPLE_RATE_HZ) if "sound" in self._inputs else 0
        window = self._window(
            rng.integers(0, 256, (num_frames, CROP_SIZE, CROP_SIZE, 3), np.uint8),
            rng.uniform(-0.1, 0.1, num_samples).astype(np.float32),
            rng.uniform(0, 1, (num_frames, NUM_LANDMARKS, 2)).astype(np.float32),
            np.ones(num_frames, bool),
        )
        self._detector.judge_windows([window], self._config)

    def _judge(
        self, number: int, face: _Face, start: int, window: ClipWindow, window_s: float
    ) -> RunningVerdict:
        detector = self._detector
        logits, facts = detector.judge_windows([window], self._config)
        logit = float(logits[0, 0])
        if detector.data.pooling == "max":
            face.total = max(face.total, logit) if face.num_windows else logit
        else:
            face.total += logit
        face.num_windows += 1
        face.facts = facts[0] if face.facts is None else face.facts + facts[0]
        face.last_start = start
        # the window that would come last if the face were gone now may begin before the next one
        face.drop_before(min(start + self._stride(), self._last_start(face)))
        pooled = face.total if detector.data.pooling == "max" else face.total / face.num_windows
        reasons = self._reasons(face, window_s)
        begin_s = (face.first_frame + start) / float(self.fps)
        return RunningVerdict(
            face=number,
            start_s=begin_s,
            end_s=begin_s + window_s,
            window_logit=logit,
            logit=pooled,
            prob=float(detector.decision.clip.prob(np.array(pooled))),
            verdict=detector.decision.verdict(pooled, off_domain=reasons),
            reasons=reasons,
            box=face.box,
            num_windows=face.num_windows,
        )

    def _reasons(self, face: _Face, window_s: float) -> list[str]:
        detector, sides = self._detector, np.array(face.sides)
        track = TrackClip(
            folder=Path(),
            first_frame=face.first_frame,
            num_frames=face.num_frames,
            face_boxes=np.stack([sides] * 3, axis=1),
            has_face=np.array(face.seen, bool),
        )
        video = TrackedVideo(
            fps=self.fps,
            num_frames=self._num_shown,
            width=self._size[0],
            height=self._size[1],
            silent=not self._heard or self._sound.loudest < SILENCE,
            sound=Path(),
            tracks=[],
        )
        reasons = [detector.caveat] if detector.caveat and not self._config.judge_despite_generated else []
        reasons += doubts_of(track, video, self._config.min_face_px, window_s)
        if "audio" in detector.model.modalities:
            reasons += ["no sound"] if video.silent else doubts_of_level(face.level.dbfs)
        assert face.facts is not None
        of_file = [face_height_px(track), float(self.fps)]
        return reasons + detector.unlike_training(face.facts[None] / face.num_windows, of_file)

    def _forget_sound(self) -> None:
        """Keep the sound of frames that a window may still show; without a face, of the last seconds."""
        seconds = self._detector.data.window_s + 4.0
        first = round((self._num_shown / self.fps - Fraction(seconds)) * SAMPLE_RATE_HZ)
        for face in self._known.values():
            start = Fraction(face.first_frame + face.kept_from) / self.fps
            first = min(first, round(start * SAMPLE_RATE_HZ) - 1)
            if "sound" in self._inputs:
                first = min(first, face.heard_to)
        self._sound.drop_before(first)
