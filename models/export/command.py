"""Write a checkpoint's network as .onnx or .pt2, after a check that it gives the scores of the framework."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from loaders.batches.collate import Collate
from loaders.batches.data_config import DataConfig
from loaders.batches.windows import ClipDataset
from models.export.card import describe
from models.export.network import inputs_of, outputs_of, trace
from models.judging.batches import unlabelled_clip
from models.method import Method, needs_of
from models.restore import restore_model
from utils.clip.files import VIDEO_NAME
from utils.config import from_args
from utils.errors import CheckpointError, DatasetError, UsageError
from utils.files import walk_tree, write_text
from utils.types import ClipBatch

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
LARGEST_DIFFERENCE = 1e-3  # of a logit
NUM_CLIPS = 20  # for the check
# inputs -> outputs in the network's order
Run = Callable[[dict[str, Tensor]], list[Tensor]]


def export_network(
    content: dict[str, Any], source: Path, target: Path, data_root: Path
) -> tuple[Path, dict[str, Any]]:
    """Write `target` (.onnx or .pt2) and its card (.json); return the card's path and what the check found.

    `content` is what load_checkpoint read from `source`. Up to NUM_CLIPS of the prepared clips below
    `data_root` are scored both ways. Raises CheckpointError, and writes nothing, if a logit differs by more
    than LARGEST_DIFFERENCE; UsageError for what cannot be exported.
    """
    if "model" not in content:
        raise CheckpointError(f"{source}: a bare state_dict has no configuration; export a run's best.pt")
    if target.suffix == ".onnx" and (lost := [p for p in PACKAGES if importlib.util.find_spec(p) is None]):
        raise UsageError(f"{', '.join(lost)} missing: pip install {' '.join(PACKAGES)}, or export a .pt2")
    method = restore_model(content, source)
    assert isinstance(method, nn.Module)  # every method is one
    method.eval()
    data = from_args(DataConfig, argparse.Namespace(), ("the checkpoint", content["config"]["data"]))
    if data.label_rule == "emotion":
        raise UsageError(f"{source}: tells emotions apart; only detectors are exported")
    dataset = _dataset(data_root, data, method)
    windows = [dataset[key] for key in dataset.clip_keys(0)]
    example = Collate(data.video_fps, bool(data.frames_per_clip))((windows * 2)[:2])
    program = trace(method, example)
    inputs, outputs = inputs_of(example, method), list(outputs_of(method, example))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export_") as folder:
        partial = Path(folder) / target.name
        run = _write(program, partial, list(inputs), outputs)
        found = [_difference(run, method, batch) for batch in _batches(dataset)]
        parity = {
            "num_clips": len(dataset.clips),
            "num_windows": sum(count for count, _ in found),
            "largest_difference": float(np.max([largest for _, largest in found])),
        }
        if not parity["largest_difference"] <= LARGEST_DIFFERENCE:
            raise CheckpointError(
                f"{target}: not written: a logit differs by {parity['largest_difference']:.2g} from the "
                f"framework's on the clips of {data_root}, more than {LARGEST_DIFFERENCE:g}"
            )
        card = describe(content, data, partial, inputs, outputs, example.features, parity)
        write_text(target.with_suffix(".json"), json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        partial.replace(target)
    return target.with_suffix(".json"), parity


def _dataset(root: Path, data: DataConfig, method: Method) -> ClipDataset:
    """Up to NUM_CLIPS clips, evenly spread over those below a folder, as test.py cuts them."""
    folders = [Path(folder) for folder, _, names in walk_tree(root, links="follow") if VIDEO_NAME in names]
    if not folders:
        raise DatasetError(f"{root}: no prepared clip in it ({VIDEO_NAME}); packs are not read here")
    folders = [folders[i] for i in sorted({*np.linspace(0, len(folders) - 1, NUM_CLIPS).round().astype(int)})]
    clips = [unlabelled_clip(folder.name, folder) for folder in folders]
    data = dataclasses.replace(data, label_rule="any")
    return ClipDataset(clips, data, training=False, **needs_of(method, method.config))


def _batches(dataset: ClipDataset) -> Iterator[ClipBatch]:
    """The windows of each clip."""
    collate = Collate(dataset.config.video_fps, bool(dataset.config.frames_per_clip))
    for index in range(len(dataset.clips)):
        for key in dataset.clip_keys(index):
            yield collate([dataset[key]])


def _difference(run: Run, method: Method, batch: ClipBatch) -> tuple[int, float]:
    """Number of windows, and the largest difference of a logit from the framework's."""
    pairs = zip(run(inputs_of(batch, method)), outputs_of(method, batch).values(), strict=True)
    return len(batch.clip_ids), max(float((mine - theirs).abs().max()) for mine, theirs in pairs)


def _write(program: ExportedProgram, path: Path, inputs: list[str], outputs: list[str]) -> Run:
    """Write the program as its suffix says, and return what the file computes."""
    if path.suffix == ".pt2":
        torch.export.save(program, path)
        return functools.partial(_run_torch, torch.export.load(path).module())
    import onnxruntime

    names: dict[str, Any] = {"input_names": inputs, "output_names": outputs}
    exported = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    assert exported is not None
    exported.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return functools.partial(_run_onnx, session)


def _run_torch(network: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return list(network(*inputs.values()))


def _run_onnx(session: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return [torch.from_numpy(values) for values in found]
