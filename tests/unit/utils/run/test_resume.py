"""What a resumed run takes over of the one before."""

import copy

import torch

from utils.run.resume import Best, TrainingState
from utils.run.training import LoopConfig, make_optimizer


def training(layout):
    """A convolution's state in a memory layout, in double precision, and a function that makes a step."""
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 8, 3).double().to(memory_format=layout)
    config = LoopConfig(epochs=9, learning_rate=1e-2, optimizer="adam")
    optimizer, scheduler = make_optimizer(config, [{"params": list(model.parameters())}], 3)
    best, cpu = Best(higher_is_better=True), torch.device("cpu")
    state = TrainingState(model, torch.nn.Identity(), model, optimizer, scheduler, best, cpu)
    inputs = torch.rand(2, 3, 6, 6, dtype=torch.float64)

    def step():
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()
        scheduler.step()

    return state, step


def test_a_run_of_another_memory_layout_goes_on_with_the_same_numbers():
    """The fused optimiser reads weights and their moments in the order of memory."""
    before, step_before = training(torch.contiguous_format)
    after, step_after = training(torch.channels_last)
    for _ in range(3):
        step_before()
    after.restore(copy.deepcopy(before.as_plain()))
    for _ in range(3):
        step_before()
        step_after()
    assert after.model.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(after.model.weight, before.model.weight, rtol=1e-9, atol=1e-12)
