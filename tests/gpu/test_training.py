"""Steps on the device: numbers are read one step late, and a resumed run goes on as the unbroken one."""

import itertools
import math

import pytest
import torch

from losses.beyond_masking import BeyondMaskingLoss, BeyondMaskingLossConfig
from models.beyond_masking.config import BeyondMaskingConfig
from models.beyond_masking.detector import BeyondMaskingDetector
from tests.clip_factory import make_batch
from tests.gpu.test_numerics import SMALL
from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.run.device import autocast
from utils.run.loop_config import LoopConfig
from utils.run.resume import Best, TrainingState
from utils.run.seed import seed_everything
from utils.run.training import NotFiniteError, StepReader, TrainingStep, make_optimizer

pytestmark = pytest.mark.gpu
# Norm of the weights' difference, as a share of the norm of what the training changed. A GPU adds the parts
# of a gradient in no fixed order, and Adam divides by its size, also where it is zero but for that.
RESUME_TOLERANCE = {"cpu": 0.0, "cuda": 0.05}
NUM_STEPS = 4


def test_numbers_are_read_one_step_late_on_a_gpu(device):
    reader = StepReader(device)
    lag = 1 if device.type == "cuda" else 0
    read = []
    for step in range(4):
        read.append([row["loss"] for row in reader.submit(scalar(step, device), ("a",), {})])
    assert read == ([[], [0.0], [1.0], [2.0]] if lag else [[0.0], [1.0], [2.0], [3.0]])
    assert [row["loss"] for row in reader.flush()] == ([3.0] if lag else [])
    assert reader.flush() == []


def test_what_is_not_finite_is_found_before_the_next_step_is_read(device):
    reader = StepReader(device)
    submitted = [(scalar(math.nan, device), ("bad",), {}), (scalar(1.0, device), ("good",), {})]
    with pytest.raises(NotFiniteError, match="clips bad"):
        list(itertools.starmap(reader.submit, submitted))


def scalar(value, device):
    return {"loss": torch.tensor(float(value), device=device)}


def new_state(device):
    """A small model with dropout, which draws from the device's generator in every step."""
    torch.manual_seed(0)
    model = BeyondMaskingDetector(BeyondMaskingConfig(**SMALL | {"dropout": 0.2})).to(device)
    criterion = BeyondMaskingLoss(BeyondMaskingLossConfig()).to(device)
    step = TrainingStep(model, criterion).train()
    parameters = [parameter for parameter in step.parameters() if parameter.requires_grad]
    optimizer, scheduler = make_optimizer(LoopConfig(), [{"params": parameters}], NUM_STEPS)
    best = Best(higher_is_better=True)
    return TrainingState(model, criterion, step, optimizer, scheduler, best, device)


def train(state, until, precision):
    for number in range(state.progress.step, until):
        batch = make_batch(4, 10, size=16, seconds=0.4, seed=number).to(state.device)
        with autocast(state.device, precision):
            terms = state.step(batch, batch.clip_ids)
        terms["total"].backward()
        state.optimizer.step()
        state.scheduler.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.progress.step += 1
    return torch.cat([parameter.detach().cpu().flatten() for parameter in state.model.parameters()])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_goes_on_as_the_unbroken_one(device, tmp_path, precision):
    state = new_state(device)
    start = train(state, 0, precision)
    seed_everything(5)
    train(state, NUM_STEPS // 2, precision)
    known = {"config": {}, "split_checksums": {}}
    save_checkpoint(tmp_path / "last.pt", known | state.as_plain())
    unbroken = train(state, NUM_STEPS, precision)

    def resume(seed=None):
        """The weights' distance from the unbroken run's; `seed`: with other draws of dropout."""
        resumed = new_state(device)
        seed_everything(99)  # another place in the generators: the checkpoint has the right one
        resumed.restore(load_checkpoint(tmp_path / "last.pt"))
        if seed is not None:
            seed_everything(seed)
        again = train(resumed, NUM_STEPS, precision)
        return ((again - unbroken).norm() / (unbroken - start).norm()).item()

    assert resume() <= RESUME_TOLERANCE[device.type]
    assert resume(seed=7) > 2 * RESUME_TOLERANCE["cuda"]  # so the tolerance would notice
