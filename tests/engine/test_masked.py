"""A refused step leaves everything bit for bit, the first one too, on the device that knows it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adapt.engine.legacy_adam import LegacyAdam
from adapt.engine.masked import Kept, step_where
from adapt.engine.optim import ADAMS, laid_out_as
from adapt.engine.repeated_sgd import LAWS, RepeatedSGD
from adapt.engine.sgd import FusedSGD
from adapt.methods.moving_average import MovingAverage, MovingAverageConfig
from tests.engine.test_engine import assert_equal, batch, engine, poisoned, weights
from tests.networks import varied_network

SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.02}
ADAM = {"lr": 0.01, "betas": (0.9, 0.99)}
OPTIMIZERS: dict[str, Callable[[nn.Parameter], Optimizer]] = {
    "sgd": lambda one: FusedSGD([{"params": [one]}], **SGD),
    "official": lambda one: RepeatedSGD([{"params": [one], "multiplicity": 3}], **SGD),
    "legacy": lambda one: RepeatedSGD(
        [{"params": [one], "multiplicity": 3}], law=LAWS["legacy"], **SGD
    ),
    "adam": lambda one: ADAMS["current"]([one], **ADAM),
    "old adam": lambda one: LegacyAdam([one], **ADAM),
    "adamw": lambda one: torch.optim.AdamW([one], lr=0.01, weight_decay=0.1, fused=True),
}
TAKEN, REFUSED = torch.tensor(True), torch.tensor(False)


def _values(seed: int) -> Tensor:
    return torch.randn(3, 7, generator=torch.Generator().manual_seed(seed))


def _stepped(name: str, refused_before: tuple[int, ...], saved_at: int | None = None) -> Any:
    """The parameter and its optimizer's state after four steps, a refused one before some."""
    parameter = nn.Parameter(_values(9))
    optimizer = OPTIMIZERS[name](parameter)
    for step in range(4):
        if step in refused_before:
            parameter.grad = torch.full_like(parameter, torch.nan)
            step_where(REFUSED, optimizer)
        if step == saved_at:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = OPTIMIZERS[name](parameter)
            optimizer.load_state_dict(state)
        parameter.grad = _values(step)
        step_where(TAKEN, optimizer)
    return parameter.detach(), optimizer.state_dict()["state"][0]


@pytest.mark.parametrize("saved_at", [None, 0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_refused_steps_leave_no_trace(name: str, saved_at: int | None) -> None:
    expected, state = _stepped(name, ())
    found, own = _stepped(name, (0, 2), saved_at)
    assert torch.equal(found, expected) and not torch.equal(found, _values(9))
    assert all(torch.equal(value, own[key]) for key, value in state.items())


def test_fused_sgd_is_torchs() -> None:
    parameters = [nn.Parameter(_values(9).double()) for _ in range(2)]
    pair = FusedSGD([{"params": parameters[:1]}], **SGD), torch.optim.SGD(parameters[1:], **SGD)
    for step in range(3):
        for parameter, optimizer in zip(parameters, pair, strict=True):
            parameter.grad = _values(step).double()
            optimizer.step()
    torch.testing.assert_close(*parameters, rtol=1e-13, atol=1e-15)


def test_an_optimizer_that_knows_no_mask_is_not_stepped() -> None:
    with pytest.raises(AssertionError, match="SGD cannot refuse a step on the device"):
        step_where(REFUSED, torch.optim.SGD([nn.Parameter(_values(1))]))


def test_tensors_are_put_back_where_a_step_is_refused() -> None:
    tensors = [_values(1), torch.tensor(3), torch.tensor(torch.inf), torch.zeros(0)]
    before = [tensor.clone() for tensor in tensors]
    kept = Kept(tensors)
    for tensor in tensors:
        tensor.add_(1)
    kept.put_back_unless(TAKEN)
    assert torch.equal(tensors[0], before[0] + 1) and int(tensors[1]) == 4
    tensors[0].fill_(torch.nan)
    kept.put_back_unless(REFUSED)
    assert all(torch.equal(*pair) for pair in zip(tensors, before, strict=True))


def test_an_average_stays_where_a_step_is_refused() -> None:
    student = varied_network(3)
    average = MovingAverage(MovingAverageConfig(alpha=0.6), student)
    before = copy.deepcopy(average.network.state_dict())
    for parameter in student.parameters():
        parameter.data.mul_(2)
    average.follow(student, 1, REFUSED)
    assert all(torch.equal(one, before[key]) for key, one in average.network.state_dict().items())
    average.follow(student, 1, TAKEN)
    own = dict(average.network.named_parameters())
    assert own.keys() and all(torch.equal(one, before[key] * 1.5) for key, one in own.items())


@pytest.mark.parametrize("method", ["adaptsegnet", "dacs"])
def test_a_run_with_a_refused_first_step_is_the_run_without_it(method: str) -> None:
    """But for the rate and the teacher's ramp, which follow the steps."""
    one = engine(method)
    before = weights(one)
    one.step(poisoned(1), batch(2, labelled=False))
    assert all(torch.equal(value, before[key]) for key, value in weights(one).items())
    other = engine(method)
    other.step_count = 1
    for each in (one, other):
        each.step(batch(3), batch(4, labelled=False))
    assert_equal(one, other)
    assert [step for step, _ in one.bad_steps] == [0] and not other.bad_steps


def test_a_state_of_other_optimizers_leaves_them_what_they_are() -> None:
    """Checkpoints of before had PyTorch's plain ones, whose steps nothing on a device refuses."""
    one = engine("adaptsegnet")
    one.step(batch(1), batch(2, labelled=False))
    state = copy.deepcopy(one.state_dict())
    for optimizer in state["optimizers"].values():
        for group in optimizer["param_groups"]:
            group |= {"fused": None, "foreach": None}
    other = engine("adaptsegnet")
    other.load_state_dict(state)
    assert other.optimizers["discriminator_main"].param_groups[0]["fused"]
    before = weights(other)
    other.step(poisoned(3), batch(4, labelled=False))
    assert all(torch.equal(value, before[key]) for key, value in weights(other).items())


def test_a_state_is_laid_out_as_its_parameter() -> None:
    """Fused optimizers walk through both in the order of their memory."""
    parameter = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    value = torch.randn(2, 3, 4, 5)
    found = laid_out_as(value, parameter)
    assert found.stride() == parameter.stride() != value.stride() and torch.equal(found, value)
    step = torch.tensor(1.0)
    assert laid_out_as(step, parameter) is step and laid_out_as(3, parameter) == 3
