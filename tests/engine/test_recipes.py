"""Optimizers and schedules of the papers' recipes against float64 transcriptions, on the engine."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adapt.batch import Batch
from adapt.engine.engine import Engine
from adapt.engine.optim import OPTIMIZERS
from adapt.engine.schedule import WARMUPS
from adapt.engine.train_config import TrainConfig
from adapt.methods import build_method
from adapt.methods.method import Method
from adapt.models import build_segmenter
from tests.networks import tiny_model, varied_network

STEPS, WARM, RATIO, LR, DECAY = 12, 4, 1e-3, 1e-2, 0.1
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def even(base: float, power: float, steps: int, warm: int, ratio: float) -> Iterator[float]:
    """`ratio` has no effect."""
    for step in range(steps):
        yield base * (1 - step / steps) ** power * min(1.0, (step + 1) / warm)


def daformer(base: float, power: float, steps: int, warm: int, ratio: float) -> Iterator[float]:
    """PolyLrUpdaterHook with `warmup='linear'`, by_epoch False, min_lr 0, of mmcv 1.3.7."""
    for step in range(steps):
        regular = base * (1 - step / steps) ** power
        k = (1 - step / warm) * (1 - ratio)
        yield regular * (1 - k) if step < warm else regular


def vfm_uda(base: float, power: float, steps: int, warm: int, ratio: float) -> Iterator[float]:
    """WarmupAndLinearScheduler of VFM-UDA, final_lr 0."""
    assert power == 1, "it knows no other"
    climb = np.linspace(ratio, 1.0, warm)
    fall = np.linspace(1.0, 0.0, steps + 1)[warm:]
    yield from (base * np.concatenate([climb, fall])[:steps]).tolist()


LAWS: dict[str, Callable[..., Iterator[float]]] = {
    "even": even,
    "daformer": daformer,
    "vfm_uda": vfm_uda,
}


def engine(optim: dict[str, Any], method: str = "source_only") -> Engine:
    torch.manual_seed(3)
    network = build_segmenter({**tiny_model("bisenet"), "norm": "train"}, 4)
    return engine_of(build_method({"name": method}, network), optim, STEPS)


def small_engine(optim: dict[str, Any], steps: int) -> Engine:
    """Of a head alone."""
    return engine_of(build_method({"name": "source_only"}, varied_network(4)), optim, steps)


def engine_of(method: Method, optim: dict[str, Any], steps: int) -> Engine:
    name = str(optim.get("name", "sgd"))
    config = OPTIMIZERS[name].Config.from_values({"name": name, **optim}, "optim")
    return Engine(method.double(), TrainConfig(steps=steps), config, torch.device("cpu"))


def batch(seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 32, 32, generator=random, dtype=torch.float64)
    return Batch(images, torch.randint(4, (2, 32, 32), generator=random), ("a", "b"))


def rate(one: Engine) -> float:
    (group,) = one.optimizers["segmenter"].param_groups
    return float(group["lr"])


def recipe(name: str, warmup: str) -> dict[str, Any]:
    schedule = {"power": 1.0, "warmup_steps": WARM, "warmup": warmup, "warmup_ratio": RATIO}
    return {"name": name, "lr": LR, "weight_decay": DECAY, "head_lr_factor": 10, **schedule}


@pytest.mark.slow
@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_follows_every_warm_up_from_any_step_on(name: str, warmup: str) -> None:
    """Also where the job resumes, and is prolonged: its schedule is then that of the spec."""
    schedule = {**recipe(name, warmup), "schedule_steps": STEPS}
    expected = [10 * rate for rate in LAWS[warmup](LR, 1.0, STEPS, WARM, RATIO)]
    one, seen = small_engine(schedule, steps=6), []
    for step in range(6):
        one.step(batch(step), None)
        seen.append(rate(one))
    assert seen == pytest.approx(expected[:6], rel=1e-12)
    for stop in range(6):
        resumed, seen = small_engine(schedule, steps=STEPS), []  # prolonged to its schedule's end
        resumed.load_state_dict({**copy.deepcopy(one.state_dict()), "step": stop})
        for step in range(stop, STEPS):
            resumed.step(batch(step), None)
            seen.append(rate(resumed))
        assert seen == pytest.approx(expected[stop:], rel=1e-12)


def test_adversaries_warm_up_too() -> None:
    one = engine({**recipe("adamw", "daformer"), "adversary_lr": 1.0}, method="adaptsegnet")
    source, target = batch(1), batch(2)
    one.step(source, target._replace(labels=None))
    (group,) = one.optimizers["discriminator_main"].param_groups
    assert group["lr"] == pytest.approx(RATIO)


class PlainAdamW:
    """Algorithm 2 of the paper, on copies of the parameters; no decay for those that `spared`
    names."""

    def __init__(self, start: dict[str, Tensor], spared: Callable[[str], bool]) -> None:
        self.values = {name: value.detach().clone() for name, value in start.items()}
        self.first = {name: torch.zeros_like(value) for name, value in start.items()}
        self.second = {name: torch.zeros_like(value) for name, value in start.items()}
        self.spared, self.steps = spared, 0

    def step(self, gradients: dict[str, Tensor], lr: float) -> None:
        self.steps += 1
        for name, gradient in gradients.items():
            rate = lr * (10 if name.startswith("decoder.") else 1)
            value, decay = self.values[name], 0.0 if self.spared(name) else DECAY
            self.first[name] = BETA1 * self.first[name] + (1 - BETA1) * gradient
            self.second[name] = BETA2 * self.second[name] + (1 - BETA2) * gradient**2
            first = self.first[name] / (1 - BETA1**self.steps)
            second = self.second[name] / (1 - BETA2**self.steps)
            self.values[name] = value - rate * (first / (second.sqrt() + EPS) + decay * value)


def is_norm(one: Engine, name: str) -> bool:
    return "Norm" in type(one.method.segmenter.get_submodule(name.rpartition(".")[0])).__name__


SPARED: dict[str, tuple[dict[str, Any], Callable[[Engine, str], bool]]] = {
    "everything decays": ({}, lambda _one, _name: False),
    "no norm": ({"decay_norms": False}, is_norm),
    "no norm of the encoder": (
        {"decay_norms": "head"},
        lambda one, name: name.startswith("encoder.") and is_norm(one, name),
    ),
    "neither norms nor biases": (
        {"decay_norms": False, "decay_biases": False},
        lambda one, name: is_norm(one, name) or name.endswith(".bias"),
    ),
    "no bias of another layer": (
        {"decay_biases": False},
        lambda one, name: name.endswith(".bias") and not is_norm(one, name),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("spared", SPARED)
def test_three_steps_of_adamw_are_the_recipe_s(spared: str) -> None:
    options, of_name = SPARED[spared]
    one = engine({**recipe("adamw", "daformer"), **options})
    trained = {k: p for k, p in one.method.segmenter.named_parameters() if p.requires_grad}
    left_out = [name for name in trained if of_name(one, name)]
    assert bool(left_out) == bool(options) and len(left_out) < len(trained)
    plain = PlainAdamW(trained, lambda name: of_name(one, name))
    law = daformer(LR, 1.0, STEPS, WARM, RATIO)
    for step in range(3):
        one.step(batch(step), None)
        gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
        plain.step(gradients, next(law))
        for name, parameter in trained.items():
            expected = plain.values[name]
            torch.testing.assert_close(parameter, expected, rtol=1e-9, atol=1e-12, msg=name)


def test_head_and_body_have_norms_and_biases() -> None:
    """Or the recipes above would differ in nothing."""
    one = engine(recipe("adamw", "even"))
    names = [name for name, _ in one.method.segmenter.named_parameters()]
    for part in ("encoder.", "decoder."):
        assert any(is_norm(one, name) for name in names if name.startswith(part))
    assert any(name.endswith(".bias") and not is_norm(one, name) for name in names)
