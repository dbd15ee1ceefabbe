"""Repeated updates against torch.optim with duplicates, and against old PyTorch written out."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from adapt.config.validation import validate
from adapt.engine.optim import OptimSection, build_optimizers
from adapt.engine.repeated_sgd import LAWS, RepeatedSGD
from adapt.engine.sgd import SGDConfig
from adapt.errors import JobError
from adapt.methods import METHODS, build_method
from adapt.methods.method import Method
from adapt.models import build_segmenter
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config

LR, MOMENTUM, DECAY = 0.05, 0.9, 0.02
OPTIONS = {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}


def _gradient(step: int) -> Tensor:
    return torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def _parameter() -> nn.Parameter:
    return nn.Parameter(_gradient(100))


def _ours(multiplicity: int, law: str, steps: int = 4) -> Tensor:
    parameter = _parameter()
    group = {"params": [parameter], "multiplicity": multiplicity}
    optimizer = RepeatedSGD([group], law=LAWS[law], **OPTIONS)
    for step in range(steps):
        parameter.grad = _gradient(step)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("multiplicity", [1, 3, 4])
def test_official_is_sgd_over_a_list_with_duplicates(multiplicity: int) -> None:
    parameter = _parameter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        optimizer = torch.optim.SGD([parameter] * multiplicity, foreach=False, **OPTIONS)
    for step in range(4):
        parameter.grad = _gradient(step)
        optimizer.step()
    assert torch.equal(_ours(multiplicity, "official"), parameter.detach())


@pytest.mark.parametrize("multiplicity", [1, 3, 4])
def test_legacy_piles_up_weight_decay(multiplicity: int) -> None:
    value, buffer = _parameter().detach().clone(), torch.zeros(6, dtype=torch.float64)
    for step in range(4):
        direction = _gradient(step)
        for _ in range(multiplicity):
            direction += DECAY * value
            buffer = MOMENTUM * buffer + direction
            value -= LR * buffer
    torch.testing.assert_close(_ours(multiplicity, "legacy"), value, rtol=1e-13, atol=0)


def test_the_laws_differ_from_each_other_and_from_single_updates() -> None:
    results = [_ours(3, "official"), _ours(3, "legacy"), _ours(1, "official")]
    for number, result in enumerate(results):
        for other in results[number + 1 :]:
            assert (result - other).abs().max() > 1e-3


def test_a_parameter_without_gradient_stays_and_its_gradient_is_left_alone() -> None:
    idle, moved = _parameter(), _parameter()
    before = idle.detach().clone()
    optimizer = RepeatedSGD([{"params": [idle, moved], "multiplicity": 2}], **OPTIONS)
    moved.grad = _gradient(0)
    optimizer.step()
    assert torch.equal(idle.detach(), before)
    assert torch.equal(moved.grad, _gradient(0))


def test_momentum_survives_a_save() -> None:
    whole = _ours(3, "official", steps=4)
    parameter = _parameter()
    group = {"params": [parameter], "multiplicity": 3}
    optimizer = RepeatedSGD([group], **OPTIONS)
    for step in range(4):
        if step == 2:
            saved = optimizer.state_dict()
            optimizer = RepeatedSGD([{"params": [parameter], "multiplicity": 3}], **OPTIONS)
            optimizer.load_state_dict(saved)
        parameter.grad = _gradient(step)
        optimizer.step()
    assert torch.equal(parameter.detach(), whole)


def _source_only(encoder: str) -> Method:
    config = DeepLabV2Config(encoder=encoder, weights="none")
    return build_method(METHODS["source_only"].Config(), build_segmenter(config, num_classes=5))


def test_groups_are_the_programs() -> None:
    method = _source_only("caffe_resnet14")
    config = SGDConfig(sgd_multiplicity="official")
    groups = build_optimizers(config, method)["segmenter"].param_groups
    sizes = {(group["name"], group["multiplicity"]): len(group["params"]) for group in groups}
    assert sizes == {
        ("encoder", 1): 1,  # conv1
        ("encoder", 3): 12,  # three convolutions in each of four bottlenecks
        ("encoder", 4): 4,  # their shortcuts
        ("head", 1): 16,
    }
    assert {group["lr"] for group in groups if group["name"] == "encoder"} == {2.5e-4}


def test_other_encoders_have_no_official_multiplicity() -> None:
    with pytest.raises(JobError, match=r"optim.sgd_multiplicity: .*resnet18"):
        build_optimizers(SGDConfig(sgd_multiplicity="official"), _source_only("resnet18"))


def test_only_sgd_is_repeated() -> None:
    with pytest.raises(JobError, match=r"optim.sgd_multiplicity: expected none, got 'legacy'"):
        validate(OptimSection, {"name": "adamw", "sgd_multiplicity": "legacy"}, "optim")
