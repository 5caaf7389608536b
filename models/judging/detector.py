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
import functools
import itertools
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from loaders.batches.collate import Collate
from loaders.batches.data_config import DataConfig
from loaders.batches.domain import describe, signals_of
from loaders.batches.places import covering_starts
from loaders.batches.sliding import sliding_config, timeline_of
from loaders.batches.windows import ClipDataset, ClipWindow, WindowStart
from models.judging.batches import batch_size_for, batches_of, logits_of, unlabelled_clip
from models.judging.config import JudgeConfig
from models.judging.doubts import doubts_of, doubts_of_sound, face_height_px, notes_of
from models.judging.evidence import lag_curve, region_map, saturated_probes, spread_probes
from models.judging.stream import DetectorStream
from models.judging.verdict import (
    NO_DECISION,
    FaceFeatures,
    FaceVerdict,
    Verdict,
    find_segments,
    join_verdicts,
    over_frames,
    prob_of,
)
from models.method import Method, check_config, needs_of
from models.restore import restore_decision, restore_domain, restore_localiser, restore_model
from preprocess.clip.all_faces import PASSES, TrackClip, TrackedVideo, track_video
from preprocess.faces.backends import resolve_like
from preprocess.features.extraction import config_alike, extract_alike
from preprocess.work.workers import call_limited
from utils.checkpoint.files import load_checkpoint
from utils.clip.backends import describe_change
from utils.clip.generated import caveat_of, is_demo_video
from utils.config import from_args, to_plain
from utils.errors import CheckpointError, UsageError
from utils.evaluation.decision import UNDECIDED, Decision
from utils.evaluation.domain import Domain
from utils.evaluation.metrics import Floats
from utils.evaluation.promise import promise_of, read_shown
from utils.evaluation.scoring import POOLS
from utils.evaluation.segments import Localiser
from utils.evaluation.timelines import logits_of_streams
from utils.run.device import autocast, exact_float32, resolve_device
from utils.run.progress import Bar
from utils.types import ClipBatch, DetectorOutput


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
    detector.trained_backends = content.get("landmark_backends", {})
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
        self.trained_backends: dict[str, int] = {}  # landmark backend -> training clips; {}: it is not known
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
        self.require_ready(config)
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
            notes=self._notes(tracked, config),
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
            landmark_backend=self.backend_for(config),
        ), tracked

    def stream(
        self, fps: Fraction | float, sample_rate: int, config: JudgeConfig | None = None
    ) -> DetectorStream:
        """Judge a video while it is shown (see stream.py). Raises UsageError if the method cannot."""
        rate = Fraction(fps).limit_denominator(1001)
        return DetectorStream(self, rate, sample_rate, config or JudgeConfig())

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
                starts = self.starts_of(track.num_frames, tracked.fps, config.stride_s)
                what = f"{Path(video).name}: face {number}"
                batches = self._batches_of(dataset, starts, config, what)
                rows = [self._embeddings(output) for _, output in batches]
                if rows:
                    start_s = (track.first_frame + np.array(starts)) / float(tracked.fps)
                    windows, window_s = np.concatenate(rows), self.data.window_s
                    fused = windows.mean(axis=0)
                    found.append(
                        FaceFeatures(fused=fused, windows=windows, start_s=start_s, window_s=window_s)
                    )
        return found

    def _track(self, video: Path, work_dir: Path, config: JudgeConfig) -> TrackedVideo:
        """The faces of a video, from a process of its own, with the features that the model reads.

        Their files stay in `work_dir`.
        """
        options: dict[str, Any] = {"source": video, "limits": config, "progress": f"{video.name}: faces"}
        options |= {"rules": config.tracker, "effort": PASSES[config.tracker]}
        options["backend"] = self.backend_for(config)
        tracked: TrackedVideo = call_limited(track_video, video, work_dir, **options)
        folders = [track.folder for track in tracked.tracks]
        extract_alike(folders, self.model.recipes, config.weights_dir, self.device)
        return tracked

    def _windows_of(self, track: TrackClip) -> ClipDataset:
        needs = needs_of(self.model, self.model.config)
        needs["inputs"] |= signals_of(self.domain)
        clip = unlabelled_clip(track.folder.name, track.folder)
        return ClipDataset([clip], self.data, training=False, keeps_frames=True, **needs)

    def require_ready(self, config: JudgeConfig) -> None:
        """Raise UsageError or CheckpointError if it can judge no video, whatever is in it."""
        if self.tells_emotions:
            raise UsageError(f"{self.name}: tells emotions apart, and says nothing of real and fake")
        self.backend_for(config)
        for name, recipe in self.model.recipes.items():
            config_alike(name, recipe, config.weights_dir, self.device)

    def backend_for(self, config: JudgeConfig) -> str:
        """The landmark backend that finds the faces. Raises UsageError if what `config` names is not here."""
        return resolve_like(config.landmark_backend, self.trained_backends)

    def backend_note(self, config: JudgeConfig) -> str:
        """What is to be said if that is another one than in training; "" if nothing."""
        return describe_change(self.trained_backends, [self.backend_for(config)], "the video")

    def notes(self, config: JudgeConfig) -> list[str]:
        """What is to be said of the verdicts on any video."""
        missing = "the checkpoint holds no threshold from validation: 0.5 is used, and nothing is undecided"
        return [*filter(None, [self.backend_note(config)]), *([] if self.has_decision else [missing])]

    def _notes(self, tracked: TrackedVideo, config: JudgeConfig) -> list[str]:
        return [*filter(None, [self.caveat]), *self.notes(config), *notes_of(tracked)]

    def _judge_face(
        self, track: TrackClip, tracked: TrackedVideo, config: JudgeConfig, what: str, reasons: list[str]
    ) -> FaceVerdict:
        decision, fps = self.decision, float(tracked.fps)
        dataset = self._windows_of(track)
        starts = self.starts_of(track.num_frames, tracked.fps, config.stride_s)
        window_s = self.data.window_s if starts else None
        off_domain = reasons + doubts_of(track, tracked, config.min_face_px, window_s)
        if "audio" in self.model.modalities:
            off_domain += doubts_of_sound(track, tracked)
        verdict, logit, heads = UNDECIDED, None, [None, None]
        window_logits, located = np.zeros(0), dict[str, list[list[float]]]()
        if starts:
            logits, facts, located = self._read_all(dataset, track, tracked.fps, starts, config, what)
            off_domain += self.unlike_training(facts, [face_height_px(track), fps])
            window_logits = logits[:, 0]
            logit, *heads = POOLS[self.data.pooling](logits, axis=0).tolist()
            verdict = decision.verdict(logit, off_domain=off_domain)
        frame_logits = over_frames(starts, window_logits, track.num_frames, self.window_frames(fps))
        frame_probs = decision.clip.prob(frame_logits)
        video_logit, audio_logit = (None if head is None or math.isnan(head) else head for head in heads)
        probes = spread_probes(starts)
        lags = regions = None
        score = functools.partial(self._scores, config=config)
        if probes and config.lag_frames and "sound" in self.inputs and not tracked.silent:
            lags = lag_curve(score, dataset, probes, tracked.fps, config.lag_frames)
        if probes and config.explain and "video" in self.inputs:
            regions = region_map(score, dataset, probes, tracked.fps)
        return FaceVerdict(
            verdict=verdict,
            prob=prob_of(decision.clip, logit),
            logit=logit,
            modalities=decision.modality_verdicts(video_logit, audio_logit, off_domain=off_domain),
            video_prob=prob_of(decision.video, video_logit),
            audio_prob=prob_of(decision.audio, audio_logit),
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
        sliding = self.starts_of(track.num_frames, fps, self.localiser.stride_s) if self.localiser else []
        places = sorted({*starts, *sliding})
        read = [self._read(*batch, config) for batch in self._batches_of(dataset, places, config, what)]
        logits, facts = (
            np.concatenate([rows[kind] for rows in read])[np.searchsorted(places, starts)] for kind in (0, 1)
        )
        if self.localiser is None:
            return logits, facts, {}
        over_time = dict(zip(places, itertools.chain.from_iterable(rows for _, _, rows in read), strict=True))
        line = timeline_of(dataset, 0, sliding, [over_time[start] for start in sliding])
        shift = np.array([0.0, 1.0, 1.0]) * track.first_frame / float(fps)
        proposals = self.localiser.propose(line).items()
        return logits, facts, {stream: (rows + shift).round(4).tolist() for stream, rows in proposals}

    def starts_of(self, num_frames: int, fps: Fraction, stride_s: float) -> list[int]:
        """First frames of windows that cover a track, 0: half a window apart; [] if it is too short."""
        num_steps = int(num_frames / fps * self.data.video_fps + 1e-6)  # as ClipDataset counts them
        if num_steps == 0 or num_steps / self.data.video_fps < self.model.min_window_s:
            return []
        return covering_starts(num_frames, fps, self.data.window_s, stride_s or self.data.window_s / 2)

    def window_frames(self, fps: float) -> int:
        """Frames of a video that a window covers; a frame of a slow video outlasts a window of one."""
        return max(1, round(self.data.window_s * fps))

    def _read(
        self, batch: ClipBatch, output: DetectorOutput, config: JudgeConfig
    ) -> tuple[Floats, Floats, npt.NDArray[np.float32]]:
        """(B, 3) logits, facts (B, F) of windows, (B, 0) without a domain, and (B, 3, 1 or T) over time."""
        facts = np.zeros((len(batch.clip_ids), 0))
        if self.domain and config.check_domain:
            facts = describe(self.domain, batch).double().cpu().numpy()
        return logits_of(output), facts, logits_of_streams(output).detach().float().cpu().numpy()

    def judge_windows(self, windows: Sequence[ClipWindow], config: JudgeConfig) -> tuple[Floats, Floats]:
        """Logits (n, 3) and facts (n, F) of windows, see `_read`."""
        read = [self._read(*batch, config)[:2] for batch in self._batches(windows, config)]
        logits, facts = (np.concatenate(parts) for parts in zip(*read, strict=True))
        return logits, facts

    def unlike_training(self, facts: Floats, of_file: list[float]) -> list[str]:
        """Why a face is unlike the training clips, by facts (windows, W) and FILE_FACTS; [] if it is not."""
        if self.domain is None or not facts.size:
            return []
        (row,) = self.domain.complete(facts.mean(axis=0)[None], np.log([of_file]))
        return self.domain.reasons(row)

    def _batches_of(
        self, dataset: ClipDataset, starts: Sequence[int], config: JudgeConfig, what: str
    ) -> Iterator[tuple[ClipBatch, DetectorOutput]]:
        """`_batches` of a face's windows, with a bar."""
        windows = (dataset[0, WindowStart(start)] for start in starts)
        bar = Bar(total=len(starts), desc=what, unit="window", dynamic_ncols=True, disable=len(starts) < 2)
        with bar:
            for batch, output in self._batches(windows, config):
                yield batch, output
                bar.update(len(batch.clip_ids))

    def _batches(
        self, windows: Iterable[ClipWindow], config: JudgeConfig
    ) -> Iterator[tuple[ClipBatch, DetectorOutput]]:
        """Batches of windows on the device, and what the model says of them."""
        collate = Collate(self.data.video_fps)
        for taken in batches_of(windows, config.batch_size or batch_size_for(self.data, self.inputs)):
            batch = collate(taken).to(self.device)
            with torch.no_grad(), autocast(self.device, self.precision), exact_float32():
                output: DetectorOutput = self.model(batch)
            yield batch, output

    def _embeddings(self, output: DetectorOutput) -> npt.NDArray[np.float32]:
        """(B, E) features of windows."""
        if output.embedding is None:
            raise UsageError(f"{type(self.model).__name__} gives no features")
        return output.embedding.detach().float().cpu().numpy()

    def _scores(self, windows: Iterable[ClipWindow], config: JudgeConfig) -> Floats:
        """(n,) logits of n windows."""
        return np.concatenate([logits_of(output)[:, 0] for _, output in self._batches(windows, config)])
