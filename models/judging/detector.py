"""Judge raw videos with a trained detector: each face over its whole track, preprocessed as in training.

    from models import load_detector
    detector = load_detector("saved_models/X/best.pt")
    print(detector.judge("clip.mp4").verdict)

Like test.py, this package wires preprocess/, loaders/ and models/ together: it is an entry point, and lies in
models/ only because callers look for it there.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from loaders.batches.collate import Collate
from loaders.batches.data_config import DataConfig
from loaders.batches.domain import describe, signals_of
from loaders.batches.places import covering_starts
from loaders.batches.sliding import sliding_config, timeline_of
from loaders.batches.windows import ClipDataset, ClipWindow, WindowStart
from models.judging.doubts import doubts_of, doubts_of_sound, face_height_px
from models.judging.evidence import lag_curve, region_map, saturated_probes
from models.judging.verdict import (
    FaceFeatures,
    FaceVerdict,
    Verdict,
    find_segments,
    join_verdicts,
    over_frames,
    runs_of,
)
from models.method import Method, check_config, needs_of
from models.restore import restore_decision, restore_domain, restore_localiser, restore_model
from preprocess.clip.all_faces import TrackClip, TrackedVideo, track_video
from preprocess.features.extraction import extract_alike
from preprocess.work.limits import LimitConfig
from preprocess.work.workers import call_limited
from utils.checkpoint.files import load_checkpoint
from utils.clip.generated import caveat_of, is_demo_video
from utils.clip_type import Clip
from utils.config import from_args, opt, require_at_least, to_plain
from utils.errors import CheckpointError, UsageError
from utils.evaluation.decision import UNDECIDED, Decision, HeadDecision
from utils.evaluation.domain import Domain
from utils.evaluation.metrics import Floats
from utils.evaluation.promise import promise_of, read_shown
from utils.evaluation.scoring import POOLS
from utils.evaluation.segments import Localiser
from utils.evaluation.timelines import WindowLogits, logits_of_streams
from utils.run.device import autocast, exact_float32, resolve_device
from utils.types import DetectorOutput

MISSING_FACE_S = 0.4  # longer gaps without a face are noted
PROBE_WINDOWS = 3  # windows of a face on which lag and regions are probed
# fitted on no clip: P(fake) = sigmoid(logit), and both thresholds at 0.5
_ZEROS: dict[str, Any] = dict.fromkeys(HeadDecision.__annotations__, 0.0)
NO_DECISION = HeadDecision(**_ZEROS | {"temperature": 1.0})


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(LimitConfig):
    """models/judging/detector.py: how a raw video is judged, and the limits of decoding it."""

    stride_s: float = opt(0.0, "seconds from one window to the next; 0 = half a window")
    lag_frames: int = opt(10, "lag curve: shift the sound by up to N frames in both directions; 0 = no curve")
    explain: bool = opt(True, "blur regions of the face to see which ones the score relies on")
    check_domain: bool = opt(True, "faces unlike the training clips in plain facts are undecided")
    weights_dir: Path | None = opt(None, "for methods that read features: folder of the backbones' weights")
    min_face_px: float = opt(48.0, "faces smaller than this, from hairline to chin, are undecided")
    judge_despite_generated: bool = opt(
        False,
        "call videos real or fake although the checkpoint was trained on generated clips (preprocess.demo), "
        "which know nothing of real people: for tests of the software, never for a verdict about anybody",
    )

    def __post_init__(self) -> None:
        LimitConfig.__post_init__(self)
        require_at_least(self, 0, "stride_s", "lag_frames", "min_face_px")


def load_detector(checkpoint: Path | str, *, device: str = "auto", precision: str = "auto") -> LoadedDetector:
    """The detector of a run's checkpoint (best.pt), ready to judge raw videos.

    `precision` "auto" is float32: the steps of bf16 are 0.03 at a logit of 4, which is more than a region of
    the face or a shift of the sound may move it by.
    Raises CheckpointError if it is damaged or a bare state_dict without a configuration; UsageError if the
    device does not exist.
    """
    path = Path(checkpoint)
    content = load_checkpoint(path)
    if "released" in content:
        raise CheckpointError(f"{path}: a bare state_dict does not say how to cut clips; use a run's best.pt")
    where = resolve_device(device)
    model = restore_model(content, path)
    data = from_args(DataConfig, argparse.Namespace(), ("the checkpoint", content["config"]["data"]))
    check_config(type(model), {"data": to_plain(data), "model": to_plain(model.config)})
    decision, precision = restore_decision(content, path), "fp32" if precision == "auto" else precision
    generated, name = content.get("generated_sets") or (), str(path)
    detector = LoadedDetector(
        model, data, decision, device=where, precision=precision, name=name, generated_sets=generated
    )
    detector.domain = restore_domain(content, path)
    detector.localiser = restore_localiser(content, path)
    return detector


class LoadedDetector:
    """A trained model with the clip pipeline and the decision that belong to it."""

    def __init__(
        self,
        model: Method,
        data: DataConfig,
        decision: Decision | None,
        *,
        device: torch.device,
        precision: str = "fp32",
        name: str = "",
        generated_sets: Sequence[str] = (),
    ) -> None:
        data = sliding_config(data)
        assert isinstance(model, nn.Module)  # every method is one
        self.model = model
        self.model.to(device).eval()
        self.tells_emotions = data.label_rule == "emotion"
        # what is judged has no label: rule "video" would ask for that of the picture
        self.data = dataclasses.replace(data, max_length_gap_s=1e9, trim_silence=False, label_rule="any")
        self.has_decision = decision is not None
        self.decision = decision or Decision(rate=0.5, clip=NO_DECISION)
        self.threshold = float(self.decision.clip.prob(np.array(self.decision.clip.threshold)))
        self.inputs = model.inputs_of(model.config)
        self.device, self.precision, self.name = device, precision, name
        self.domain: Domain | None = None  # what the training clips were like, if the checkpoint says so
        self.localiser: Localiser | None = None  # how scores become segments, if the checkpoint says so
        self.shown = read_shown(Path(name)) if name and decision else []
        self.caveat = caveat_of(generated_sets)

    def judge(self, video: Path | str, config: JudgeConfig | None = None) -> Verdict:
        """Judge every face of a raw video.

        Crops and sound are written to a temporary folder; memory does not grow with the video's length.
        Decoding runs in its own process. Raises ClipError if it fails or exceeds the limits of `config`,
        UsageError if the model tells emotions apart.
        """
        with tempfile.TemporaryDirectory() as work_dir:
            return self.judge_tracks(Path(video), Path(work_dir), config or JudgeConfig())[0]

    def judge_tracks(self, video: Path, work_dir: Path, config: JudgeConfig) -> tuple[Verdict, TrackedVideo]:
        """`judge`, plus the tracked faces, whose files stay in `work_dir`."""
        if self.tells_emotions:
            raise UsageError(f"{self.name}: tells emotions apart, and says nothing of real and fake")
        tracked = self._track(video, work_dir, config)
        must_abstain = self.caveat and not (config.judge_despite_generated or is_demo_video(video))
        reasons = [self.caveat] if must_abstain else []
        faces = [
            self._judge_face(track, tracked, config, f"{video.name}: face {number}", reasons)
            for number, track in enumerate(tracked.tracks, start=1)
        ]
        verdict, prob, modalities = join_verdicts(faces)
        fps = float(tracked.fps)
        return Verdict(
            video=video.name,
            verdict=verdict,
            prob=prob,
            modalities=modalities,
            notes=self._notes(tracked),
            fps=fps,
            num_frames=tracked.num_frames,
            duration_s=tracked.num_frames / fps,
            width=tracked.width,
            height=tracked.height,
            threshold=self.threshold,
            threshold_logit=self.decision.clip.threshold,
            temperature=self.decision.clip.temperature,
            faces=faces,
            checkpoint=self.name,
            caveat=self.caveat,
            promise=promise_of(self.decision, num_faces=len(faces)) if self.has_decision else None,
            shown=self.shown,
        ), tracked

    def features(self, video: Path | str, config: JudgeConfig | None = None) -> list[FaceFeatures]:
        """The features of every face of a raw video, by the windows that `judge` scores.

        Without faces that are too short for a window. Raises ClipError as `judge` does, and UsageError if the
        method gives no features.
        """
        config = config or JudgeConfig()
        found: list[FaceFeatures] = []
        with tempfile.TemporaryDirectory() as work_dir:
            tracked = self._track(Path(video), Path(work_dir), config)
            for number, track in enumerate(tracked.tracks, start=1):
                dataset = self._windows_of(track)
                starts = self._starts(track.num_frames, tracked.fps, config.stride_s)
                what = f"{Path(video).name}: face {number}"
                bar = tqdm(starts, what, unit="window", disable=len(starts) < 2)
                rows = [self._embedding(dataset[0, WindowStart(start)]) for start in bar]
                if rows:
                    start_s = (track.first_frame + np.array(starts)) / float(tracked.fps)
                    windows, window_s = np.stack(rows), self.data.window_s
                    fused = windows.mean(axis=0)
                    found.append(
                        FaceFeatures(fused=fused, windows=windows, start_s=start_s, window_s=window_s)
                    )
        return found

    def _track(self, video: Path, work_dir: Path, config: JudgeConfig) -> TrackedVideo:
        """The faces of a video, from a process of its own, with the features that the model reads.

        Their files stay in `work_dir`.
        """
        what = f"{video.name}: faces"
        tracked = call_limited(track_video, video, work_dir, source=video, limits=config, progress=what)
        folders = [track.folder for track in tracked.tracks]
        extract_alike(folders, self.model.recipes, config.weights_dir, self.device)
        return tracked

    def _windows_of(self, track: TrackClip) -> ClipDataset:
        needs = needs_of(self.model, self.model.config)
        needs["inputs"] |= signals_of(self.domain)
        return ClipDataset([_as_clip(track)], self.data, training=False, keeps_frames=True, **needs)

    def _notes(self, tracked: TrackedVideo) -> list[str]:
        fps, notes = float(tracked.fps), [self.caveat] if self.caveat else []
        missing = np.ones(tracked.num_frames, bool)
        for track in tracked.tracks:
            missing[track.first_frame : track.first_frame + track.num_frames] &= ~track.has_face
        if not tracked.tracks:
            notes.append("no face was found")
        else:
            gaps = [(start, end) for start, end in runs_of(missing) if end - start >= MISSING_FACE_S * fps]
            notes += [f"no face from {start / fps:.2f} to {end / fps:.2f} s" for start, end in gaps]
        if tracked.silent:
            mute = tracked.silent_reason == "digital silence"
            notes.append("the video's sound is digital silence" if mute else "the video has no sound track")
        if not self.has_decision:
            notes.append(
                "the checkpoint holds no threshold from validation: 0.5 is used, and nothing is undecided"
            )
        return notes

    def _judge_face(
        self, track: TrackClip, tracked: TrackedVideo, config: JudgeConfig, what: str, reasons: list[str]
    ) -> FaceVerdict:
        decision, fps = self.decision, float(tracked.fps)
        dataset = self._windows_of(track)
        starts = self._starts(track.num_frames, tracked.fps, config.stride_s)
        window_s = self.data.window_s if starts else None
        off_domain = reasons + doubts_of(track, tracked, config.min_face_px, window_s)
        if "audio" in self.model.modalities:
            off_domain += doubts_of_sound(track, tracked)
        verdict, logit, heads = UNDECIDED, None, [None, None]
        window_logits, located = np.zeros(0), dict[str, list[list[float]]]()
        if starts:
            logits, facts, located = self._read_all(dataset, track, tracked.fps, starts, config, what)
            off_domain += self._unlike_training(facts, [face_height_px(track), fps])
            window_logits = logits[:, 0]
            logit, *heads = POOLS[self.data.pooling](logits, axis=0).tolist()
            verdict = decision.verdict(logit, off_domain=off_domain)
        frame_logits = over_frames(starts, window_logits, track.num_frames, self.window_frames(fps))
        frame_probs = decision.clip.prob(frame_logits)
        video_logit, audio_logit = (None if head is None or math.isnan(head) else head for head in heads)
        probes = _spread(starts, PROBE_WINDOWS)
        lags = regions = None
        if probes and config.lag_frames and "sound" in self.inputs and not tracked.silent:
            lags = lag_curve(self._logit, dataset, probes, tracked.fps, config.lag_frames)
        if probes and config.explain and "video" in self.inputs:
            regions = region_map(self._logit, dataset, probes, tracked.fps)
        return FaceVerdict(
            verdict=verdict,
            prob=_prob(decision.clip, logit),
            logit=logit,
            modalities=decision.modality_verdicts(video_logit, audio_logit, off_domain=off_domain),
            video_prob=_prob(decision.video, video_logit),
            audio_prob=_prob(decision.audio, audio_logit),
            off_domain=off_domain,
            first_frame=track.first_frame,
            num_frames=track.num_frames,
            num_frames_with_face=int(track.has_face.sum()),
            face_height_px=face_height_px(track),
            num_windows=len(starts),
            segments=find_segments(frame_probs, self.threshold, fps, track.first_frame),
            located=located,
            lag_curve=lags,
            regions=regions,
            frame_probs=frame_probs,
            frame_logits=frame_logits,
            window_starts=starts,
            window_logits=window_logits,
            saturated={} if logit is None else saturated_probes(lags, regions, logit, self.precision),
        )

    def _read_all(
        self,
        dataset: ClipDataset,
        track: TrackClip,
        fps: Fraction,
        starts: Sequence[int],
        config: JudgeConfig,
        what: str,
    ) -> tuple[Floats, Floats, dict[str, list[list[float]]]]:
        """Logits (n, 3) and facts of the windows at `starts`; FaceVerdict.located, of windows of its own."""
        sliding = self._starts(track.num_frames, fps, self.localiser.stride_s) if self.localiser else []
        places = sorted({*starts, *sliding})
        progress = tqdm(places, desc=what, unit="window", dynamic_ncols=True, disable=len(places) < 2)
        read = {start: self._read(dataset[0, WindowStart(start)], config) for start in progress}
        logits, facts, _ = zip(*(read[start] for start in starts), strict=True)
        if self.localiser is None:
            return np.stack(logits), np.stack(facts), {}
        line = timeline_of(dataset, 0, sliding, [read[start][2] for start in sliding])
        shift = np.array([0.0, 1.0, 1.0]) * track.first_frame / float(fps)
        proposals = self.localiser.propose(line).items()
        located = {stream: (rows + shift).round(4).tolist() for stream, rows in proposals}
        return np.stack(logits), np.stack(facts), located

    def _starts(self, num_frames: int, fps: Fraction, stride_s: float) -> list[int]:
        """First frames of windows that cover a track, 0: half a window apart; [] if it is too short."""
        num_steps = int(num_frames / fps * self.data.video_fps + 1e-6)  # as ClipDataset counts them
        if num_steps == 0 or num_steps / self.data.video_fps < self.model.min_window_s:
            return []
        return covering_starts(num_frames, fps, self.data.window_s, stride_s or self.data.window_s / 2)

    def window_frames(self, fps: float) -> int:
        """Frames of a video that a window covers; a frame of a slow video outlasts a window of one."""
        return max(1, round(self.data.window_s * fps))

    @torch.no_grad()
    def _read(self, window: ClipWindow, config: JudgeConfig) -> tuple[Floats, Floats, WindowLogits]:
        """(3,) logits, facts (F,) of a window, (0,) without a domain, and its logits over time."""
        facts = np.zeros(0)
        if self.domain and config.check_domain:
            batch = Collate(self.data.video_fps)([window]).to(self.device)
            facts = describe(self.domain, batch)[0].double().cpu().numpy()
        output = self._output(window)
        over_time: WindowLogits = logits_of_streams(output)[0].float().cpu().numpy()
        return _head_logits(output), facts, over_time

    def _unlike_training(self, facts: Floats, of_file: list[float]) -> list[str]:
        """Why a face is unlike the training clips, by facts (windows, W) and FILE_FACTS; [] if it is not."""
        if self.domain is None or not facts.size:
            return []
        (row,) = self.domain.complete(facts.mean(axis=0)[None], np.log([of_file]))
        return self.domain.reasons(row)

    @torch.no_grad()
    def _output(self, window: ClipWindow) -> DetectorOutput:
        batch = Collate(self.data.video_fps)([window]).to(self.device)
        with autocast(self.device, self.precision), exact_float32():
            output: DetectorOutput = self.model(batch)
        return output

    @torch.no_grad()
    def _embedding(self, window: ClipWindow) -> npt.NDArray[np.float32]:
        """(E,) features of a window."""
        embedding = self._output(window).embedding
        if embedding is None:
            raise UsageError(f"{type(self.model).__name__} gives no features")
        return embedding[0].float().cpu().numpy()

    @torch.no_grad()
    def _logit(self, window: ClipWindow) -> float:
        return float(_head_logits(self._output(window))[0])


def _head_logits(output: DetectorOutput) -> Floats:
    """(3,) logits of a batch of one window: clip, picture, sound; NaN if the method lacks the head."""
    nothing = torch.full_like(output.logits, torch.nan)
    heads = [nothing if head is None else head for head in (output.video_logits, output.audio_logits)]
    return torch.cat([output.logits, *heads]).float().cpu().double().numpy()


def _as_clip(track: TrackClip) -> Clip:
    """A clip of which nothing is known."""
    texts = ("category", "method", "identity", "target_id", "pair_key", "stratum", "dataset")
    unknown: dict[str, Any] = dict.fromkeys(texts, "") | {"video_label": None, "audio_label": None}
    return Clip(clip_id=track.folder.name, folder=track.folder, label=0, source_ids=(), **unknown)


def _prob(head: HeadDecision | None, logit: float | None) -> float | None:
    return None if logit is None else float((head or NO_DECISION).prob(np.array(logit)))


def _spread(starts: Sequence[int], count: int) -> list[int]:
    """At most `count` of the starts, evenly spaced."""
    places = np.linspace(0, len(starts) - 1, min(count, len(starts)) + 2)[1:-1].round().astype(int)
    return [starts[place] for place in dict.fromkeys(places.tolist())]
