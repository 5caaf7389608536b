"""One process of tests/e2e/test_distributed.py: scores all clips, takes 20 steps, writes what came out.

    python -m tests.e2e.distributed_worker CLIPS OUTPUT '{"batch_size": 8, ...}'

Plain SGD, whose step is linear in the gradient: Adam would divide the rounding noise of gradients that are
zero (of a bias before batch norm) by its own size.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch
from torch import nn

from loaders.batches.data_config import DataConfig
from loaders.batches.data_loader import WorkerConfig, evaluation_loader, training_loader
from losses import LOSSES
from models import MODELS
from models.blocks.normalization import synchronize_batch_norm
from models.method import needs_of
from tests.clip_factory import make_clip
from utils.errors import run_command
from utils.evaluation.scoring import evaluate
from utils.run.distributed import is_main, pad_to_longest, process_group, rank, world_size
from utils.run.seed import seed_everything
from utils.run.training import StepReader, TrainingStep, parallel, shares_gradients

SIZES = {
    "beyond_masking": {
        "feature_dim": 16, "video_channels": (4, 4, 8), "audio_channels": (8, 8, 8), "image_size": 16,
        "feedforward_dim": 32, "classifier_hidden_dim": 16, "dropout": 0.0,
    },
    "exposing_deception": {
        "num_libs": 2, "backbone": "mobilenet_v1", "image_size": 32, "fusion_dims": (16, 8), "dropout": 0.0,
        "augmentation": "none", "mixup": False,
    },
}  # fmt: skip
DATA = {
    "beyond_masking": {"window_s": 0.6, "windows_per_clip": 2},
    "exposing_deception": {"frames_per_clip": 3},
}
NUM_STEPS = 12


def main() -> None:
    root, output, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    device = torch.device("cpu")
    if options.get("double"):
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double  # with which models widen what they are given
    clips = [
        make_clip(folder, label=number % 2, video_label=number % 2)
        for number, folder in enumerate(sorted(root.iterdir())[: options.get("num_clips")])
    ]
    method = options.get("method", "beyond_masking")
    data = DataConfig(**DATA[method])
    with process_group(device):
        workers = WorkerConfig(batch_size=options.get("batch_size", 8), num_workers=0)
        parts = options.get("accumulate_steps", 1)
        model_type, loss_type = MODELS[method], LOSSES[method]
        config = model_type.config_type(**SIZES[method] | options.get("model", {}))
        needs = needs_of(model_type, config)
        batches, sampler = training_loader(
            clips, data, workers, balance="label", seed=1, accumulate_steps=parts, **needs
        )
        seed = options.get("seed", 3)
        seed_everything(seed)
        model = model_type(config)
        if options.get("double"):
            model.register_forward_pre_hook(
                lambda _, inputs: (dataclasses.replace(inputs[0], landmarks=inputs[0].landmarks.double()),)
            )
        criterion = loss_type(loss_type.config_type(**options.get("loss", {})))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        scored = evaluation_loader(clips, data, workers, **needs)
        scores = evaluate(model, scored, device, criterion=criterion)

        if world_size() > 1 and options.get("sync_batch_norm", True):
            synchronize_batch_norm(model, device)
        step = parallel(TrainingStep(model, criterion))
        step.train()
        if options.get("running_statistics"):
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
        seed_everything(seed, 1, rank())
        reader, losses, ids, epochs = StepReader(device), [], [], 0
        num_steps, untrained = options.get("num_steps", NUM_STEPS), set()
        while len(losses) < num_steps:
            sampler.epoch, epochs = epochs, epochs + 1
            for number, batch in enumerate(batches, start=1):
                if len(losses) == num_steps:
                    break
                last = number % parts == 0
                batch, clip_ids = pad_to_longest(batch)
                if options.get("fail") == [rank(), number]:
                    raise OSError(5, "is broken", "the disk")
                ids += clip_ids
                with shares_gradients(step, now=last):
                    terms = step(batch, clip_ids)
                    (terms["total"] / parts).backward()
                if last:
                    untrained |= {name for name, p in model.named_parameters() if p.grad is None}
                    optimizer.step()
                    optimizer.zero_grad()
                    losses += [numbers["total"] for numbers in reader.submit(terms, clip_ids, {})]
        if is_main():
            torch.save(
                {
                    "before": before, "after": model.state_dict(), "losses": losses, "clip_ids": ids,
                    "scored": scores.clip_ids, "logits": scores.logits.tolist(),
                    "untrained": sorted(untrained), "terms": scores.mean_terms,
                    "num_windows": scores.num_windows.tolist(),
                },
                output,
            )  # fmt: skip


if __name__ == "__main__":
    run_command(main)
