"""A process group of one: NCCL on a GPU, as train.py connects it."""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn

from losses.beyond_masking import BeyondMaskingLoss, BeyondMaskingLossConfig
from models.beyond_masking.config import BeyondMaskingConfig
from models.beyond_masking.detector import BeyondMaskingDetector
from tests.clip_factory import make_batch
from tests.gpu.test_numerics import SMALL
from utils.run import distributed
from utils.run.seed import seed_everything
from utils.run.training import TrainingStep

pytestmark = pytest.mark.gpu


@pytest.fixture
def group(device, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    values = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    # train.py connects two processes or more
    monkeypatch.setattr(distributed, "launched", lambda: True)
    with distributed.process_group(torch.device("cuda", 0) if device.type == "cuda" else device):
        yield


def test_a_training_step_gives_the_gradients_of_a_step_without_a_group(device, group):
    torch.manual_seed(0)
    model = BeyondMaskingDetector(BeyondMaskingConfig(**SMALL))
    alone = TrainingStep(model, BeyondMaskingLoss(BeyondMaskingLossConfig())).to(device).train()
    together = nn.parallel.DistributedDataParallel(copy.deepcopy(alone))  # around one process, too
    batch, ids = distributed.pad_to_longest(make_batch(4, 10, size=16, seconds=0.4))
    batch = batch.to(device)
    assert distributed.gather_objects("of one") == ["of one"]

    output = together.module.model(batch)
    gathered, _ = distributed.gather_batch(output, batch, ids)  # by the backend of the device
    torch.testing.assert_close(gathered.logits, output.logits)
    terms = []
    for step in (alone, together):
        seed_everything(3)  # both draw the same masks
        terms.append(step(batch, ids))
        terms[-1]["total"].backward()
    expected, actual = terms
    torch.testing.assert_close(actual["total"], expected["total"], rtol=1e-4, atol=1e-5)
    largest = max(
        parameter.grad.abs().max() for parameter in alone.parameters() if parameter.grad is not None
    )
    for own, shared in zip(alone.parameters(), together.parameters(), strict=True):
        if own.grad is not None:
            torch.testing.assert_close(shared.grad, own.grad, rtol=1e-3, atol=1e-3 * largest.item())
    if device.type == "cuda":
        assert "nccl" in dist.get_backend_config()
