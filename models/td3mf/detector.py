"""2D3MF: picture and sound as features of frozen encoders, mixed by cross-attention.

"2D3MF: Deepfake Detection using Multi-Modal Middle Fusion"; published code: aiden200/2D3MF, d4fd8e8. The
features are computed once by preprocess.extract_features; what is trained is small (fusion.py).

The presets:

- `corrected`, the default: a window's rows are means of equal parts of it, so that row i of picture and sound
  show about the same seconds and a clip's length leaves no zeros; a dropped modality is a learnt row.
- `released`: the published numbers of rows, cut or filled up with zeros, and its optimiser.
- `emotion`: `corrected` for the eight emotions of RAVDESS in place of real and fake.
- `demo`: a network for the demo set and two CPU cores.

Deviations of all presets: middle fusion runs for every feature (the published head fits MFCC alone, unless
both streams are equally wide); the epoch is chosen by the AUC of all validation clips, not by the mean of
batches' AUCs; encoders are in evaluation mode when they extract.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.backbone import PICTURE_SIZE
from models.backbones.menu import BACKBONES, backbone_of
from models.blocks.features import over_clips, parts_of_rows
from models.blocks.frames import resize_frames
from models.method import Method
from models.td3mf.config import PRESETS, SEEING, TD3MFConfig
from models.td3mf.fusion import MFCC_STEPS, NUM_MFCC, TD3MFNetwork
from models.td3mf.published import load_network
from utils.checkpoint.foreign import read_foreign_weights
from utils.clip.packed import FEATURES
from utils.clip_type import EMOTIONS
from utils.errors import CheckpointError
from utils.types import MODALITIES, ClipBatch, DetectorOutput


class TD3MFDetector(nn.Module, Method):
    """model(ClipBatch) -> DetectorOutput; the embedding is the fused vector, sound first."""

    config_type = TD3MFConfig
    presets = PRESETS
    weight_sources = ("init_from",)
    released_keys = ("project_down.", "audio_model_cnn.", "video_model_cnn.", "classifier_1.", "av1.")

    def __init__(self, config: TD3MFConfig) -> None:
        super().__init__()
        c = self.config = config
        self.modalities = MODALITIES if c.only == "both" else frozenset({c.only})
        video_dim = BACKBONES[c.video_features].width
        self.network = TD3MFNetwork(
            video_dim=video_dim,
            audio_kind=c.audio_kind,
            audio_dim=c.audio_dim,
            hidden_dim=c.hidden_dim,
            num_heads=c.num_heads,
            num_steps=c.num_steps,
            num_audio_steps=c.num_audio_tokens,
            num_classes=len(EMOTIONS) if c.task == "emotion" else 1,
            fusion_type=c.fusion_type,
            late=c.fusion == "lf",
            audio_positions=c.audio_positions,
            only="" if c.only == "both" else c.only,
        )
        if c.only == "both" and c.modality_dropout and c.dropped_modality == "token":
            widths = video_dim, backbone_of(c.audio_features).width
            self.dropped = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in widths)
        if c.finetune and c.only != "audio":
            self.video_backbone = BACKBONES[c.video_features].make()
            if c.init_from:
                self.video_backbone.load_published(read_foreign_weights(c.init_from), str(c.init_from))

    @classmethod
    def inputs_of(cls, config: TD3MFConfig) -> frozenset[str]:
        """The features of picture and sound; of the picture raw frames with finetune."""
        video = "video" if config.finetune else FEATURES + config.video_features
        return frozenset(
            {"video": {video}, "audio": {FEATURES + config.audio_features}}.get(
                config.only, {video, FEATURES + config.audio_features}
            )
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All but the backbone at the learning rate of the flags, the backbone at its own."""
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if hasattr(self, "dropped"):
            groups.append({"params": list(self.dropped)})
        if hasattr(self, "video_backbone"):
            backbone = list(self.video_backbone.parameters())
            groups.append({"params": backbone, "lr": self.config.backbone_learning_rate})
        return groups

    def forward(self, batch: ClipBatch) -> DetectorOutput:
        c = self.config
        video = audio = batch.waveform.new_zeros(batch.waveform.shape[0], 0, 0)
        if c.only != "audio":
            fitted = functools.partial(self._fitted, length=c.num_steps)
            if c.finetune:
                video = torch.cat([fitted(rows[None]) for rows in self._rows_of_frames(batch)])
            else:
                video = over_clips(fitted, batch, c.video_features)
        if c.only != "video":
            fitted = functools.partial(self._fitted, length=c.num_audio_rows)
            audio = over_clips(fitted, batch, c.audio_features)
        if c.only == "both" and self.training and c.modality_dropout:
            video, audio = self._with_dropped([video, audio])
        logits, fused = self.network(video, audio if c.only == "video" else self._tokens(audio))
        if c.task == "emotion":
            nothing = torch.zeros_like(logits[:, 0])
            return DetectorOutput(logits=nothing, embedding=fused, emotion_logits=logits)
        return DetectorOutput(logits=logits[:, 0], embedding=fused)

    def _rows_of_frames(self, batch: ClipBatch) -> list[Tensor]:
        """(S, V) rows of each clip's raw frames by the backbone in the graph."""
        batch.require_plain()
        plan_of, pieces = BACKBONES[self.config.video_features].plan, []
        for clip, padding in zip(batch.video, batch.video_padding_mask, strict=True):
            shown = clip[:, ~padding]
            if shown.shape[2:] != (PICTURE_SIZE, PICTURE_SIZE):
                shown = resize_frames(shown[None], PICTURE_SIZE)[0].round().clamp(0, 255).to(torch.uint8)
            plan = plan_of(Fraction(batch.video_fps), shown.shape[1])
            numbers = torch.from_numpy(plan.pieces).to(shown.device)
            pieces.append(shown.permute(1, 2, 3, 0)[numbers])  # (P, n, H, W, 3)
        rows = self.video_backbone(torch.cat(pieces))  # (all P, R, V)
        return [part.flatten(0, 1) for part in rows.split([len(clip) for clip in pieces])]

    def _fitted(self, rows: Tensor, length: int) -> Tensor:
        """(B, S, D) rows -> (B, length, D): cut or filled up with zeros, or the means of equal parts."""
        if self.config.rows == "cut":
            return F.pad(rows, (0, 0, 0, length))[:, :length]
        if torch.compiler.is_exporting():  # ONNX has no pooling of a number of rows that is not known
            return parts_of_rows(rows.shape[1], length, rows) @ rows
        return F.adaptive_avg_pool1d(rows.mT, length).mT

    def _with_dropped(self, streams: list[Tensor]) -> list[Tensor]:
        """Picture or sound of a share of the windows replaced, each as often."""
        count, device, kind = len(streams[0]), streams[0].device, self.config.dropped_modality
        is_dropped = torch.rand(count, device=device) < self.config.modality_dropout
        which = torch.randint(2, (count,), device=device)
        changed = []
        for number, rows in enumerate(streams):
            instead = torch.randn_like(rows) if kind == "noise" else torch.zeros_like(rows)
            if kind == "token":
                instead = instead + self.dropped[number]
            changed.append(torch.where((is_dropped & (which == number))[:, None, None], instead, rows))
        return changed

    def _tokens(self, rows: Tensor) -> Tensor:
        """(B, N, A) tokens of the sound's rows, or (B, N, 10, 87) MFCC."""
        if self.config.audio_kind == "mfcc":
            return rows.unflatten(2, (NUM_MFCC, MFCC_STEPS))
        return rows.unflatten(2, (-1, self.config.audio_dim)).flatten(1, 2)

    @staticmethod
    def released_fields(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
        """Features, widths and the kind of fusion, as far as shapes tell them apart."""
        try:
            hidden_dim, video_dim = state["project_down.weight"].shape
            audio_width = len(state["av1.norm1_q.weight"])
            num_classes, fused = state["classifier_1.0.weight"].shape
        except KeyError as error:
            raise CheckpointError(f"{name}: not a released checkpoint of td3mf (it lacks {error})") from error
        if num_classes not in (1, len(EMOTIONS)):
            raise CheckpointError(
                f"{name}: tells {num_classes} classes apart, neither real from fake nor emotions"
            )
        audio = {hidden_dim: "mfcc", 512: "audio_resnet18"}.get(audio_width, "emotion2vec")
        if any(key.startswith("eat_down.") for key in state):
            audio = "eat"
        elif "fc_xvec.weight" in state:
            audio = "xvector_scores"
        video = next((seen for seen in SEEING if BACKBONES[seen].width == video_dim), "marlin_small")
        fusion = "mf" if fused == 2 * hidden_dim else "lf"
        return {
            "task": "deepfake" if num_classes == 1 else "emotion",
            "hidden_dim": hidden_dim,
            "audio_features": audio,
            "video_features": video,
            "fusion": fusion,
        }

    def load_released(self, state: Mapping[str, Tensor]) -> None:
        """Load a published checkpoint. Raises CheckpointError if keys or shapes do not fit."""
        load_network(self.network, state, "the released checkpoint")
