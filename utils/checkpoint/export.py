"""A trained model for others: weights and configuration in one .safetensors file, and a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from utils.errors import CheckpointError
from utils.files import write_atomically, write_text

CARD = Path(__file__).with_name("model_card.md")
# exported with the weights: all of a best.pt, so that it is judged by as that is; the command line and the
# state of the training are not
ABOUT = (
    *("format", "config", "split_checksums", "environment", "epoch", "val", "decision", "localiser"),
    *("generated_sets", "landmark_backends", "domain", "features"),
)


def write_export(content: dict[str, Any], source: Path, target: Path) -> Path:
    """Write `target` (.safetensors) and a model card next to it; return the path of the card.

    `content` is what load_checkpoint read from `source`. Raises CheckpointError if it is a bare state_dict,
    which has no configuration.
    """
    if target.suffix != ".safetensors":
        raise CheckpointError(f"{target}: its name must end with .safetensors, .onnx or .pt2")
    if "model" not in content:
        raise CheckpointError(f"{source}: a bare state_dict has no configuration; export a run's best.pt")
    config = {name: dict(section) for name, section in content["config"].items()}
    for name in ("run_dir", "data_root"):  # paths of one machine are private
        config["train"].pop(name, None)
    about = {name: content[name] for name in ABOUT if name in content} | {"config": config}
    weights = {name: value.contiguous().clone() for name, value in content["model"].items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"about": json.dumps(about)}
    write_atomically(target, lambda partial: save_file(weights, partial, metadata))
    card = target.with_suffix(".md")
    template = jinja2.Template(
        CARD.read_text(encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = template.render(
        about=about,
        file=target.name,
        size_mb=target.stat().st_size / 2**20,
        num_parameters=sum(value.numel() for value in weights.values() if value.is_floating_point()),
    )
    write_text(card, text)
    return card


def read_export(path: Path) -> dict[str, Any]:
    """The content of an export, as load_checkpoint returns it; of other .safetensors files, the tensors.

    Raises CheckpointError if it is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}
            about = (file.metadata() or {}).get("about")
        if about is None:
            return weights
        return dict(json.loads(about) | {"model": weights})
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: is damaged, or not a .safetensors file ({error})") from error
