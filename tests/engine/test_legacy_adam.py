"""Adam of PyTorch up to 1.2, against the formula written out, on every row with one."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from adapt.batch import Batch
from adapt.engine.engine import Engine
from adapt.engine.legacy_adam import LegacyAdam
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.methods import METHODS, build_method
from adapt.models import build_segmenter
from tests.golden_recipe import image, initial, label
from tests.networks import NEEDED

MODEL = {"architecture": "deeplab_v2", "encoder": "caffe_resnet14", "weights": "none"}
SCHEDULE_STEPS, LR, BETA1, BETA2, EPS = 250_000, 1e-4, 0.9, 0.99, 1e-8
ADVERSARIAL = ("fcns_in_the_wild", "adaptsegnet", "advent", "intra_da")

torch.set_num_threads(1)


class WrittenOut:
    """The step of torch/optim/adam.py of 1.2.0, in float64, on copies of the parameters."""

    def __init__(self, start: dict[str, Tensor]) -> None:
        self.values = {name: value.detach().clone() for name, value in start.items()}
        self.first = {name: torch.zeros_like(value) for name, value in start.items()}
        self.second = {name: torch.zeros_like(value) for name, value in start.items()}
        self.steps = 0

    def step(self, gradients: dict[str, Tensor], lr: float) -> None:
        self.steps += 1
        size = lr * (1 - BETA2**self.steps) ** 0.5 / (1 - BETA1**self.steps)
        for name, gradient in gradients.items():
            self.first[name] = BETA1 * self.first[name] + (1 - BETA1) * gradient
            self.second[name] = BETA2 * self.second[name] + (1 - BETA2) * gradient**2
            self.values[name] -= size * self.first[name] / (self.second[name].sqrt() + EPS)


def _engine(name: str, adam: str) -> Engine:
    method = build_method({"name": name, "discriminator_width": 8}, build_segmenter(MODEL))
    method.observe_source(torch.arange(1, 39).reshape(2, 19))
    for network in (method.segmenter, *method.adversaries().values()):
        state = network.state_dict()
        network.load_state_dict({key: initial(f"any/{key}", value) for key, value in state.items()})
    config = SGDConfig.from_values({"adam": adam, "schedule_steps": SCHEDULE_STEPS}, "optim")
    return Engine(method.double(), TrainConfig(steps=3), config, torch.device("cpu"))


def _adversaries(engine: Engine) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": parameter
        for name, adversary in engine.method.adversaries().items()
        for key, parameter in adversary.named_parameters()
    }


def _trained(engine: Engine) -> Iterator[float]:
    """The adversaries' learning rate of each of three steps, after it."""
    for step in range(3):
        source = image(f"source_image/{step}", (32, 64)).double()
        target = image(f"target_image/{step}", (32, 64)).double()
        labels = label(f"source_label/{step}", (32, 64))
        engine.step(Batch(source, labels, ("s",)), Batch(target, None, ("t",)))
        yield LR * (1 - step / SCHEDULE_STEPS) ** 0.9


def test_these_are_the_rows_with_a_discriminator() -> None:
    segmenter = build_segmenter(MODEL)
    built = {
        name: build_method({"name": name, **NEEDED.get(name, {})}, segmenter) for name in METHODS
    }
    assert {name for name, method in built.items() if method.adversaries()} == set(ADVERSARIAL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_three_steps_are_those_of_the_old_adam(name: str) -> None:
    engine = _engine(name, "legacy")
    written = WrittenOut(_adversaries(engine))
    for lr in _trained(engine):
        gradients = {key: one.grad for key, one in _adversaries(engine).items()}
        written.step({key: grad for key, grad in gradients.items() if grad is not None}, lr)
    for key, parameter in _adversaries(engine).items():
        torch.testing.assert_close(
            parameter.detach(), written.values[key], rtol=1e-12, atol=1e-15, msg=key
        )


def test_todays_adam_goes_elsewhere_where_gradients_are_small() -> None:
    """The old epsilon is ten times as large in the first step."""
    moved = []
    for kind in (torch.optim.Adam, LegacyAdam):
        parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = kind([parameter], lr=LR, betas=(BETA1, BETA2))
        parameter.grad = torch.tensor([1e-6, 1.0], dtype=torch.float64)
        optimizer.step()
        moved.append((-parameter.detach() / LR).tolist())
    assert moved[0] == pytest.approx([1 / (1 + 1e-2), 1 / (1 + 1e-8)], rel=1e-12)
    assert moved[1] == pytest.approx([1 / (1 + 1e-1), 1 / (1 + 1e-7)], rel=1e-12)


def test_it_goes_on_from_its_state_bit_by_bit() -> None:
    def stepped(optimizer: torch.optim.Optimizer, parameter: Tensor, times: int) -> None:
        for _ in range(times):
            parameter.grad = torch.tensor([1e-8, -3.0, 0.5]) * parameter.detach()
            optimizer.step()

    parameters = [torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0])) for _ in range(2)]
    one, other = (LegacyAdam([p], lr=LR, betas=(BETA1, BETA2)) for p in parameters)
    stepped(one, parameters[0], 2)
    parameters[1].data.copy_(parameters[0].data)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    stepped(one, parameters[0], 2)
    stepped(other, parameters[1], 2)
    assert torch.equal(*parameters)
    assert float(other.state[parameters[1]]["step"]) == 4
