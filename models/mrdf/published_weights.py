"""Published weights for MRDF: checkpoints of its own code, and AV-HuBERT's as initial weights."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones.log_filterbank import NUM_FILTERS
from models.blocks.published import renamed, without_wrappers
from utils.errors import CheckpointError

log = logging.getLogger(__name__)

# prefix in a checkpoint of the published code -> prefix here
RELEASED_PREFIXES = {
    "model.feature_extractor_audio.proj.": "audio_projection.",
    "model.feature_extractor_video.resnet.": "video_encoder.",
    "model.feature_extractor_video.proj.": "video_projection.",
    "model.layer_norm.": "fusion.0.",
    "model.post_extract_proj.": "fusion.1.",
    "model.encoder.": "encoder.",
    "project_audio.": "audio_branch.",
    "project_video.": "video_branch.",
    "audio_classifier.0.": "audio_head.",
    "video_classifier.0.": "video_head.",
    "mm_classifier.": "classifier.",
}
# the same tensors under other names -> their first name
ALIASES = {
    "feature_extractor_audio_hubert.": "model.feature_extractor_audio.",
    "feature_extractor_video_hubert.": "model.feature_extractor_video.",
    "project_hubert.0.": "model.layer_norm.",
    "project_hubert.1.": "model.post_extract_proj.",
    "fusion_encoder_hubert.": "model.encoder.",
    "final_proj_audio.": "model.final_proj.",
    "final_proj_video.": "model.final_proj.",
    "final_proj_hubert.": "model.final_proj.",
}
# names of a normalised weight's parts in newer versions of PyTorch
WEIGHT_NORM = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}
UNUSED = ("model.mask_emb", "model.final_proj.")  # by any variant
RELEASED_KEYS = (*RELEASED_PREFIXES, *ALIASES, *UNUSED)
UNUSED_BY = {
    "avdf_ensemble": ("model.layer_norm.", "model.post_extract_proj.", "model.encoder."),
    **dict.fromkeys(("avdf", "avdf_multiclass", "avdf_multilabel"), ("project_audio.", "project_video.")),
}
STEM = "model.feature_extractor_video.resnet.frontend3D.0.weight"
GREY_OF_RGB = (0.299, 0.587, 0.114)
# keys of AV-HuBERT that MRDF does not use
NOT_WANTED = (*UNUSED, "model.label_embs_concat")
AV_HUBERT = "model."  # AV-HuBERT's place in MRDF


def _first_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once, under its first name. Raises CheckpointError if its other names hold other values."""
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        for new, old in WEIGHT_NORM.items():
            key = key.replace(new, old)
        name = renamed(key, ALIASES) or key
        if name in named and not torch.equal(named[name], value):
            raise CheckpointError(f"{key} differs from {name}, but both name the same tensor")
        named.setdefault(name, value)
    return named


def used_weights(state: Mapping[str, Tensor], variant: str) -> dict[str, Tensor]:
    """The tensors of a published checkpoint that `variant` has, each once and under its first name."""
    unused = (*UNUSED, *UNUSED_BY.get(variant, ()))
    return {key: value for key, value in _first_names(state).items() if not key.startswith(unused)}


def fields_of_released(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """Fields of MrdfConfig read from a published checkpoint: variant, number of layers, widths.

    Keys and shapes do not tell margin, avdf and avdf_multilabel apart, but the file name does: the published
    code begins it with the model's name. The margins are unknown; only training needs them.
    Raises CheckpointError if the keys are not MRDF's.
    """
    state = _first_names(state)
    numbers = [int(m[1]) for key in state if (m := re.match(r"model\.encoder\.layers\.(\d+)\.", key))]
    try:
        width, sound = state["model.feature_extractor_audio.proj.weight"].shape
        positions = state["model.encoder.pos_conv.0.weight_v"].shape
        trunk = "model.feature_extractor_video.resnet.trunk"
        stages = [state[f"{trunk}.layer{stage}.0.conv1.weight"] for stage in range(1, 5)]
        fields: dict[str, Any] = {
            "mrdf_variant": _variant(state, name.lower()),
            "encoder_layers": 1 + max(numbers, default=-1),
            "feature_dim": width,
            "filterbank_stack": sound // NUM_FILTERS,
            "video_channels": tuple(len(weight) for weight in stages),
            "position_kernel": positions[2],
            "position_groups": width // positions[1],
        }
        if numbers:
            fields["feedforward_dim"] = len(state["model.encoder.layers.0.fc1.weight"])
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"not a released MRDF checkpoint: no {error}") from error
    return fields


def _variant(state: Mapping[str, Tensor], file_name: str) -> str:
    if "mm_classifier.2.weight" not in state:
        return "avdf_ensemble"
    if "video_classifier.0.weight" in state:
        return "ce"
    if len(state["mm_classifier.2.weight"]) == 4:
        return "avdf_multiclass"
    for part, variant in (("multilabel", "avdf_multilabel"), ("avdf", "avdf"), ("margin", "margin")):
        if part in file_name:
            return variant
    log.warning(
        "%s: its keys fit margin, avdf and avdf_multilabel; loaded as margin, which scores like avdf. "
        "If it is avdf_multilabel, pass --mrdf_variant avdf_multilabel",
        file_name,
    )
    return "margin"


def take_av_hubert(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Initialise `model` from an AV-HuBERT checkpoint, and log what was taken and what was not.

    Tensors are taken if name and shape fit. AV-HuBERT's stem is for grey pictures: its weights are spread
    over the colours by their share in grey, so a grey picture gives the same features.
    Raises CheckpointError if nothing fits.
    """
    own = model.state_dict()
    taken, refused = {}, []
    beginnings = [key.removeprefix(AV_HUBERT) for key in RELEASED_KEYS if key.startswith(AV_HUBERT)]
    state = {f"{AV_HUBERT}{key}": value for key, value in without_wrappers(state, beginnings).items()}
    for key, value in _first_names(state).items():
        name = renamed(key, RELEASED_PREFIXES)
        if key == STEM and value.shape[1] == 1:
            value = value * torch.tensor(GREY_OF_RGB).view(1, 3, 1, 1, 1)
        if name is None:
            reason = "not used here" if key.startswith(NOT_WANTED) else "unknown here"
        elif name not in own:
            reason = "no such part here"
        elif own[name].shape != value.shape:
            reason = f"{tuple(value.shape)} there, {tuple(own[name].shape)} here"
        else:
            taken[name] = value
            continue
        refused.append(f"{key.removeprefix(AV_HUBERT)}: {reason}")
    if not taken:
        raise CheckpointError(f"{path}: nothing in it fits; is it an AV-HuBERT base checkpoint?")
    model.load_state_dict(own | taken)
    log.info("%s: took %d tensors, %d values:", path, len(taken), sum(v.numel() for v in taken.values()))
    for group, count in _by_module(taken).items():
        log.info("  taken: %s (%d tensors)", group, count)
    for line in refused:
        log.info("  not taken: %s", line)
    for group, count in _by_module(own.keys() - taken.keys()).items():
        log.info("  left at its random start: %s (%d tensors)", group, count)
    if not getattr(model.config, "norm_first", True):
        log.warning("AV-HuBERT was trained with --norm_first true; with false its weights are of little use")


def _by_module(names: Iterable[str]) -> Counter[str]:
    """Module -> number of its tensors in `names`; the parts of a layer or stage count as one module."""
    groups: Counter[str] = Counter()
    for name in sorted(names):
        parts = name.split(".")
        deep = parts[1] in {"layers", "trunk"}
        groups[".".join(parts[: 3 if deep else min(2, len(parts) - 1)])] += 1
    return groups
