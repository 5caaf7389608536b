"""Learning rates and parameter groups of a run."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import train
from losses.exposing_deception import ExposingLoss, ExposingLossConfig
from utils.errors import UsageError
from utils.run.loop_config import LoopConfig
from utils.run.session import Run
from utils.run.training import loss_groups, make_optimizer

WAVES = {0: 1e-3, 1: 9.998903417e-4, 75: 5e-4, 149: 1.096583e-7, 150: 0.0, 225: 5e-4, 300: 1e-3, 450: 0.0}


def rates(steps, steps_per_epoch, **flags):
    config = LoopConfig(learning_rate=1e-3, schedule="waves", optimizer="adam", weight_decay=1e-6, **flags)
    optimizer, scheduler = make_optimizer(
        config, [{"params": [nn.Parameter(torch.ones(1))]}], steps_per_epoch
    )
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_waves_are_those_of_the_published_code():
    found = rates(451, 1000)
    for step, rate in WAVES.items():
        assert found[step] == pytest.approx(rate, rel=1e-6, abs=1e-15)


def cosine(step, low):
    """The rate of 1e-3 after `step` of 40 steps, of which 10 are a warm-up."""
    if step < 10:
        return 1e-3 * (step + 1) / 11
    return low + (1e-3 - low) * 0.5 * (1 + math.cos(math.pi * (step - 10) / 30))


@pytest.mark.parametrize("low", [0.0, 1e-5])
def test_a_cosine_ends_at_its_floor_in_each_layer(low):
    config = LoopConfig(learning_rate=1e-3, epochs=4, min_learning_rate=low)
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr_scale": scale} for scale in (1.0, 0.5)]
    optimizer, scheduler = make_optimizer(config, groups, 10)
    for step in range(41):
        first, second = scheduler.get_last_lr()
        assert first == pytest.approx(cosine(step, low), rel=1e-12, abs=1e-20)
        assert second == pytest.approx(first / 2, rel=1e-12)
        optimizer.step()
        scheduler.step()
    assert first == pytest.approx(low, abs=1e-20)


def test_a_floor_that_is_never_reached_is_an_error():
    for flags, message in (
        (("--min_learning_rate", "1"), "min_learning_rate must be between 0 and 0.0001"),
        (
            ("--schedule", "constant", "--min_learning_rate", "1e-6"),
            "no effect here: schedule is constant",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            train.parse_args(list(flags))


def plateau(losses):
    """Learning rates of epochs with these training losses, and the scheduler."""
    config = LoopConfig(learning_rate=1e-3, schedule="plateau")
    optimizer, scheduler = make_optimizer(config, [{"params": [nn.Parameter(torch.ones(1))]}], 2)
    found = []
    for loss in losses:
        found.append(optimizer.param_groups[0]["lr"])
        for _ in range(2):
            optimizer.step()
            scheduler.step()  # of an optimiser step: changes nothing
        scheduler.step(loss)
    return found, scheduler


def test_a_plateau_halves_the_rate_after_eight_epochs_without_a_lower_loss():
    found, scheduler = plateau([1.0, 0.9, *[0.95] * 18])
    assert found == [1e-3] * 10 + [5e-4] * 8 + [2.5e-4] * 2
    assert not scheduler.is_over()
    found, _ = plateau([1.0 - 0.01 * epoch for epoch in range(20)])
    assert found == [1e-3] * 20


def test_a_plateau_ends_the_training_and_survives_a_resumption():
    found, scheduler = plateau([1.0] * 80)
    assert found[-1] == 1e-3 / 2**9
    assert not scheduler.is_over()
    found, scheduler = plateau([1.0] * 81)
    assert scheduler.is_over()  # 9.8e-7
    _, before = plateau([1.0] * 5)
    _, after = plateau([])
    after.load_state_dict(before.state_dict())
    for _ in range(4):
        after.step(1.0)
    assert after.get_last_lr() == [5e-4]


def test_waves_begin_again_with_every_epoch():
    found = rates(200, 60)
    assert found[60:120] == found[120:180] == found[:60]
    assert found[59] < found[60] == 1e-3


def test_waves_forget_the_optimisers_moments_at_the_start_of_an_epoch_only():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([parameter])
    sampler = SimpleNamespace(epoch=None)
    for schedule, step, kept in (("waves", 0, 0), ("waves", 3, 1), ("cosine", 0, 1)):
        parameter.grad = torch.ones(1)
        optimizer.step()
        run = SimpleNamespace(
            progress=SimpleNamespace(epoch=0, step=step),
            config=LoopConfig(schedule=schedule, patience=0),
            request=SimpleNamespace(heard=lambda: 0),
            state=SimpleNamespace(optimizer=optimizer, scheduler=None),
            loader=SimpleNamespace(batch_sampler=SimpleNamespace(sampler=sampler)),
            bad_clips=SimpleNamespace(epoch=None),
        )
        next(Run.epochs(run))
        assert len(optimizer.state) == kept


def test_the_weights_of_the_terms_may_have_a_learning_rate_of_their_own():
    for fields, expected in (({}, 1e-4), ({"balance_learning_rate": 1e-3}, 1e-3)):
        criterion = ExposingLoss(ExposingLossConfig(**fields))
        groups = [{"params": [nn.Parameter(torch.ones(1))]}, *loss_groups(criterion)]
        optimizer, _ = make_optimizer(LoopConfig(warmup_epochs=0.0), groups, 10)
        assert [group["lr"] for group in optimizer.param_groups] == [1e-4, expected]
        assert optimizer.param_groups[1]["params"] == [criterion.spreads]
    assert loss_groups(nn.Linear(1, 1))[0]["params"]
