"""M2SD: a video transformer that learns real faces from a pixel-wise teacher and an audio-visual expert.

Yu et al., "Distilling Multi-level Semantic Cues across Multi-modalities for Face Forgery Detection", IEEE
TCSVT, 2024, doi 10.1109/TCSVT.2024.3524602; published code: TianXie834/M2SD, 2025-02, inference only. The
student is its network: a ViT over 16 frames, whose class token is classified, and which sees pictures only.

The presets:

- `corrected`, the default: the head starts at a thousandth of its weights, not at 0.
- `released`: the published network, whose head starts at 0. How it was trained was not published.
- `demo`: a network for the demo set and two CPU cores.
- `m2sd_teacher`, `m2sd_expert`, `m2sd_pretrain`, `m2sd_finetune`: the stages of the paper's training, in our
  reading; each takes the checkpoints of those before (--teacher, --expert, --init_from).

Deviations of all presets: five points are means of Face Mesh's. Clips are crops that follow the face slowly,
so less of its motion is left than in the published code, which joins a clip's boxes in the frame. A clip too
short is mirrored at its end only. Scores of windows are pooled as logits, not as probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks.vit import TubeletViT, initialise, initialise_narrow
from models.m2sd.config import PRESETS, STUDENTS, M2SDConfig, frames_of
from models.m2sd.distillation import Distiller
from models.m2sd.front_end import AlignedClips
from models.m2sd.published import RELEASED_KEYS, size_of_released, start_student, take_released
from models.m2sd.teachers import ExpertStage, Frozen, TeacherStage
from models.method import Method
from utils.errors import UsageError
from utils.types import MODALITIES, ClipBatch, DetectorOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class M2SDOutput(DetectorOutput):
    """What losses/m2sd.py reads, None where the stage lacks it; `embedding` is the class token's feature.

    B clips, M masked tubelets, S slots of two frames.
    """

    real_cosines: Tensor | None = None  # (B,) of the feature and the learnt direction of reals
    token_predictions: Tensor | None = None  # (B, M, E) of the pixel-wise teacher's features
    token_targets: Tensor | None = None  # (B, M, E), not normed
    pixel_predictions: Tensor | None = None  # (B, M, 1536)
    pixel_targets: Tensor | None = None  # (B, M, 1536), standardised
    slot_predictions: Tensor | None = None  # (B, S, 256) of the expert's slots
    clip_predictions: Tensor | None = None  # (B, 256) of their mean, from the class token
    slot_targets: Tensor | None = None  # (B, S, 256)
    seen_slots: Tensor | None = None  # (B, S, 256) of the expert in training, unit vectors
    heard_slots: Tensor | None = None  # (B, K, S, 256) of the sound moved by K shifts, the last one 0
    shifts: Tensor | None = None  # (B, K) of the sound, in slots


class M2SDDetector(nn.Module, Method):
    """model(ClipBatch) -> M2SDOutput, of the stage that `config` names."""

    config_type = M2SDConfig
    presets = PRESETS
    inputs = frozenset({"video", "landmarks"})
    weight_sources = ("init_from", "teacher", "expert")
    released_keys = RELEASED_KEYS

    def __init__(self, config: M2SDConfig) -> None:
        super().__init__()
        c = self.config = config
        self.modalities = MODALITIES if c.stage == "expert" else frozenset({"video"})
        self.clips = AlignedClips(c)
        if c.stage == "teacher":
            self.teacher_stage = TeacherStage(c)
        elif c.stage == "expert":
            self.expert_stage = ExpertStage(c)
        else:
            self._make_student()

    def _make_student(self) -> None:
        c, size = self.config, STUDENTS[self.config.vit]
        self.vit = TubeletViT(size, c.clip_frames, c.image_size, class_token=True, drop_path=c.drop_path)
        if c.stp != "none" or c.vac != "none":
            self.distiller = Distiller(c)
        if c.stage == "finetune":
            self.head = nn.Linear(size.width, 2)
        self.apply(initialise)
        if c.first_weights == "narrow":
            initialise_narrow(self.vit)
        if c.stage == "finetune":
            with torch.no_grad():
                self.head.weight *= c.head_init_scale
        if c.real_direction:
            self.real_direction = nn.Parameter(nn.init.normal_(torch.empty(size.width)))
        if c.init_from:
            start_student(self, c.init_from)
        self.frozen = Frozen(c)

    @classmethod
    def inputs_of(cls, config: M2SDConfig) -> frozenset[str]:
        """Pictures, landmarks where they are aligned or masked by parts, sound where its slots are learnt."""
        hears = config.stage == "expert" or config.vac == "mixed"
        wanted = {"video": True, "landmarks": config.align or config.mask_parts, "sound": hears}
        return frozenset(name for name, is_wanted in wanted.items() if is_wanted)

    @classmethod
    def reads_labels(cls, config: M2SDConfig) -> bool:
        """In its last stage only: the others learn from any real videos."""
        return config.stage == "finetune"

    @staticmethod
    def check(config: Mapping[str, Mapping[str, Any]]) -> None:
        data, model = config["data"], config["model"]
        if data["window"] != "seconds":
            raise UsageError(f"--window {data['window']} is of another method")
        frames = round(data["window_s"] * data["video_fps"])
        wanted = frames_of(model["stage"], model["clip_frames"])
        if frames != wanted:
            given = f"--window_s {data['window_s']:g} with --video_fps {data['video_fps']:g}"
            raise UsageError(
                f"{given} gives {frames} frames, but stage {model['stage']} with --clip_frames "
                f"{model['clip_frames']} takes {wanted}"
            )
        for name in ("align", "mask_parts"):
            if model[name] and data["landmark_normalization"] != "crop":
                raise UsageError(f"--{name} needs landmarks in the crop: --landmark_normalization crop")
        kind = config.get("loss", {}).get("real_similarity", "pairs")
        if model["real_direction"] != (kind == "margin"):
            raise UsageError("--real_similarity margin and --real_direction true need each other")

    def forward(self, batch: ClipBatch) -> M2SDOutput:
        batch.require_plain()
        shown = self.clips(batch)
        video = shown.video
        if self.config.stage == "teacher":
            return M2SDOutput(**self.teacher_stage(shown, self.clips.levels(video)))
        if self.config.stage == "expert":
            return M2SDOutput(**self.expert_stage(video, batch))
        parts: dict[str, Tensor] = {}
        needs_whole = self.config.stage == "finetune" or self.config.vac != "none"
        tokens = self.vit(video) if needs_whole else None
        if hasattr(self, "distiller") and not torch.compiler.is_exporting():
            levels = self.clips.levels(video)
            parts = self.distiller(self.vit, self.frozen, tokens, shown, levels, batch)
        if self.config.stage == "pretrain":  # no score: nothing here knows fakes
            return M2SDOutput(logits=video.new_zeros(len(video)), **parts)
        assert tokens is not None
        feature = tokens[:, 0]
        if self.config.real_direction:
            parts["real_cosines"] = F.cosine_similarity(feature, self.real_direction[None], dim=1)
        scores, fake = self.head(feature), self.config.fake_index
        logits = scores[:, fake] - scores[:, 1 - fake]
        return M2SDOutput(logits=logits, video_logits=logits, embedding=feature, **parts)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups by layer, the head first; norms, biases and the class token have no weight decay."""
        depth = STUDENTS[self.config.vit].depth
        groups: dict[tuple[int, bool], dict[str, Any]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            layer = _layer_of(name, depth)
            decays = parameter.ndim > 1 and not name.endswith("_token")
            scale = self.config.layer_decay ** (depth + 1 - layer)
            no_decay = {} if decays else {"weight_decay": 0.0}
            group = groups.setdefault((-layer, not decays), {"params": [], "lr_scale": scale, **no_decay})
            group["params"].append(parameter)
        return [groups[key] for key in sorted(groups)]

    @staticmethod
    def released_fields(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
        """The size of a published checkpoint. Raises CheckpointError if it is not one of M2SD."""
        return {"vit": size_of_released(state, name)}

    def load_released(self, state: Mapping[str, Tensor]) -> None:
        """Load M2SD.pt; the log lists what else is in it. Raises CheckpointError if anything is missing."""
        take_released(self, state)


def _layer_of(name: str, depth: int) -> int:
    """0: before the first block; 1 to depth: a block; depth + 1: all after the last one."""
    if name.startswith("vit.blocks."):
        return int(name.split(".")[2]) + 1
    return 0 if name.startswith(("vit.patch_embedding.", "vit.class_token")) else depth + 1
