"""The interface of a method: what train.py, test.py and models/judging require of every detector.

To add a method, write a package `models/<name>/` with a config dataclass (see utils/config.py) and a detector

    class MyDetector(nn.Module, Method): ...

and an objective `losses/<name>.py`, then add a line to MODELS (models/menu.py) and to LOSSES
(losses/__init__.py). `Method` holds the defaults; members without a default must be defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypedDict

from torch import Tensor, nn

from utils.clip_type import INPUTS
from utils.errors import CheckpointError, UsageError
from utils.types import MODALITIES, ClipBatch, DetectorOutput

Values = Mapping[str, Any]  # name of a flag -> value


class Method(Protocol):
    """A detector of forged clips, also an nn.Module: Method(config) builds it, method(batch) scores clips."""

    # dataclass of the method's own flags, with unused() -> {flag without effect here: reason}
    config_type: ClassVar[type[Any]]
    # name -> {flag group (train, data, model, loss, ...): {flag: value}}; "corrected" is the default preset
    presets: ClassVar[dict[str, dict[str, dict[str, Any]]]]
    # what is loaded: any of "video", "sound", "landmarks", and "features/NAME" for each cached feature NAME;
    # see also inputs_of()
    inputs: ClassVar[frozenset[str]] = INPUTS
    # of these, what scores do not depend on: only a loss reads it, and an exported network does without
    for_losses: ClassVar[frozenset[str]] = frozenset()
    # what is judged: "video", "audio" or both. A method that judges audio is undecided on a silent clip
    modalities: frozenset[str] = MODALITIES
    # A method whose config has a field `task`, "deepfake" or "emotion", gives DetectorOutput.emotion_logits
    # for the latter, and reads ClipBatch.labels as places in EMOTIONS.
    # whether every frame is judged by itself, by DetectorOutput.frame_logits: --frames_per_clip needs it
    judges_frames: ClassVar[bool] = False
    # shortest window in seconds that forward() takes; 0 = a single frame
    min_window_s: ClassVar[float] = 0.0
    # flags that name weights to start from: ignored when a checkpoint is restored
    weight_sources: ClassVar[tuple[str, ...]] = ()
    # how keys of its published checkpoints begin: a prefix before all of them is left out
    released_keys: ClassVar[tuple[str, ...]] = ()

    config: Any  # of `config_type`
    # of a restored model: cached feature -> how those were made that it learnt from (FeatureInfo.recipe)
    recipes: Mapping[str, Mapping[str, Any]] = {}

    def __init__(self, config: Any) -> None: ...

    def forward(self, batch: ClipBatch) -> DetectorOutput:
        """(B,) logits, > 0 = fake. Optional: logits per modality (B,), embedding (B, E), frame_logits (B, T).

        A subclass of DetectorOutput carries what only the method's own loss reads. Padding is masked: a
        clip's score must not depend on the other clips of the batch.
        """
        raise NotImplementedError

    @classmethod
    def inputs_of(cls, config: Any) -> frozenset[str]:
        """What is loaded with a configuration (of `config_type`); `inputs` by default."""
        return cls.inputs

    @classmethod
    def reads_labels(cls, config: Any) -> bool:
        """Whether it learns from labels with a configuration: if not, clips of one class will do."""
        return True

    @staticmethod
    def check(config: Mapping[str, Values]) -> None:
        """Raise UsageError if flags of different groups contradict each other: {group: {flag: value}}.

        Called before clips are listed. Contradictions within a group belong to its dataclass.
        """
        return

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser; learning rate and weight decay are the flags' unless set here.

        "lr_scale" multiplies a group's rate, for layers that are to learn more slowly. One group with all
        trained parameters by default. `without_decay_of_vectors` makes two of it.
        """
        assert isinstance(self, nn.Module)
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    @staticmethod
    def released_fields(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
        """Fields of the config read from a published checkpoint `state` (file `name`); {} by default.

        Raises CheckpointError if it is not a checkpoint of this method.
        """
        return {}

    def load_released(self, state: Mapping[str, Tensor]) -> None:
        """Load a published checkpoint; every key must match. Raises CheckpointError if it does not fit."""
        raise CheckpointError("this method has no published weights")


class LoaderNeeds(TypedDict):
    """What a method asks of a loader, as its arguments."""

    inputs: frozenset[str]
    min_window_s: float
    recipes: dict[str, Any]


def needs_of(method: Method | type[Method], config: Any) -> LoaderNeeds:
    """The loader's arguments for a method with a configuration (of its `config_type`)."""
    return {
        "inputs": method.inputs_of(config),
        "min_window_s": method.min_window_s,
        "recipes": dict(method.recipes),
    }


def without_decay_of_vectors(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Split biases and norms (1-d tensors) into groups of their own, without weight decay.

    For a method's parameter_groups(), or by --decay_vectors false. Runs with other groups cannot be resumed.
    """
    split = []
    for group in groups:
        params = group["params"]
        split.append(group | {"params": [p for p in params if p.ndim > 1]})
        split.append(group | {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0})
    return [group for group in split if group["params"]]


def clips_at_once(config: Mapping[str, Values]) -> int:
    """How many clips the batch norms of a method's `check` see together, in all processes."""
    num_parts = config.get("train", {}).get("accumulate_steps", 1)
    return int(config.get("workers", {}).get("batch_size", 2 * num_parts)) // int(num_parts)


def check_config(method: type[Method], config: Mapping[str, Values]) -> None:
    """Raise UsageError if the flags do not suit the method; `config` has at least "data" and "model"."""
    window_s = config["data"]["window_s"]
    if config["data"].get("frames_per_clip"):
        if not method.judges_frames:
            raise UsageError("--frames_per_clip is for methods that judge single frames")
    elif window_s < method.min_window_s:
        raise UsageError(f"window_s must be >= {method.min_window_s}, got {window_s}")
    if config["data"]["trim_silence"] and "sound" not in method.inputs:
        raise UsageError("--trim_silence has no effect here: the method loads no sound")
    task, rule = config["model"].get("task", "deepfake"), config["data"].get("label_rule", "any")
    if (task == "emotion") != (rule == "emotion"):
        raise UsageError(
            f"--label_rule {rule} does not go with --task {task}"
            if "task" in config["model"]
            else "--label_rule emotion is for methods that tell emotions apart, by --task emotion: td3mf"
        )
    select_by = config.get("train", {}).get("select_by")
    if select_by == "val_accuracy" and task != "emotion":
        raise UsageError("--select_by val_accuracy is for --task emotion")
    method.check(config)
