"""Which optimizer moves what, and how fast."""

from typing import Any, get_args

import pytest
import torch

from adapt.config.validation import validate
from adapt.engine.adamw import AdamW, AdamWConfig
from adapt.engine.optim import (
    ADAMS,
    OPTIMIZERS,
    OptimSection,
    build_optimizers,
    schedule_length,
    set_lr,
)
from adapt.engine.repeated_sgd import LAWS
from adapt.engine.schedule import WARMUPS
from adapt.engine.segmenter_optimizer import OptimConfig, SegmenterOptimizer
from adapt.engine.sgd import FusedSGD, SGDConfig
from adapt.engine.train_config import PRECISIONS, TrainConfig
from adapt.errors import JobError
from adapt.methods import METHODS, build_method
from adapt.methods.adaptsegnet import SPACES, AdaptSegNetConfig
from adapt.methods.method import Method
from adapt.models import build_segmenter
from adapt.models.config import SegmenterConfig
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config
from adapt.models.segmenter import NORMS


@pytest.fixture(scope="module")
def advent() -> Method:
    return _method("advent")


def _method(name: str, **model: Any) -> Method:
    config = DeepLabV2Config(encoder="resnet18", weights="none", **model)
    return build_method(METHODS[name].Config(), build_segmenter(config, num_classes=5))


def test_one_sgd_and_an_adam_for_each_adversary(advent: Method) -> None:
    optimizers = build_optimizers(SGDConfig(), advent)
    kinds = {name: type(optimizer) for name, optimizer in optimizers.items()}
    assert kinds == {
        "segmenter": FusedSGD,
        "discriminator_main": torch.optim.Adam,
        "discriminator_aux": torch.optim.Adam,
    }
    encoder, head = optimizers["segmenter"].param_groups
    assert (encoder["name"], encoder["lr"]) == ("encoder", 2.5e-4)
    assert (head["name"], head["lr"]) == ("head", pytest.approx(2.5e-3))
    assert encoder["momentum"] == head["momentum"] == 0.9
    assert encoder["weight_decay"] == head["weight_decay"] == 5e-4
    (adam,) = optimizers["discriminator_main"].param_groups
    assert (adam["lr"], adam["betas"], adam["weight_decay"]) == (1e-4, (0.9, 0.99), 0)


def test_every_trainable_parameter_is_moved_once(advent: Method) -> None:
    optimizers = build_optimizers(SGDConfig(), advent)
    moved = [
        id(parameter)
        for optimizer in optimizers.values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert sorted(moved) == sorted(id(p) for p in advent.parameters() if p.requires_grad)


def test_adamw_for_the_segmenter_alone(advent: Method) -> None:
    optimizers = build_optimizers(AdamWConfig(name="adamw", lr=1e-4, weight_decay=0.01), advent)
    assert type(optimizers["segmenter"]) is torch.optim.AdamW
    assert optimizers["segmenter"].param_groups[1]["weight_decay"] == 0.01
    assert type(optimizers["discriminator_aux"]) is torch.optim.Adam


def test_adamw_may_spare_the_norms() -> None:
    segmenter = _method("source_only", norm="train").segmenter
    config = AdamWConfig(name="adamw", lr=1e-4, weight_decay=0.01, decay_norms=False)
    optimizer = AdamW.build(config, segmenter)
    norms = [p for norm in segmenter.encoder.norms() for p in norm.parameters()]
    decays = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert decays == {
        id(p): 0.0 if any(p is one for one in norms) else 0.01
        for p in segmenter.parameters()
        if p.requires_grad
    }
    assert len(norms) == 40, "gamma and beta of the 20 norms of a ResNet-18"
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4, 1e-3}
    whole = AdamW.build(config.model_copy(update={"decay_norms": True}), segmenter)
    assert [group["weight_decay"] for group in whole.param_groups] == [0.01, 0.01]


def test_all_rates_follow_the_schedule(advent: Method) -> None:
    config = SGDConfig(schedule_steps=250_000)
    optimizers = build_optimizers(config, advent)
    for _ in range(2):
        set_lr(optimizers, config, step=50_000, total_steps=120_000)
        encoder, head = (group["lr"] for group in optimizers["segmenter"].param_groups)
        (adversary,) = (group["lr"] for group in optimizers["discriminator_aux"].param_groups)
        assert encoder == pytest.approx(0.00020451303651271462, rel=1e-14)
        assert head == pytest.approx(0.002045130365127146, rel=1e-14)
        assert adversary == pytest.approx(8.180521460508584e-05, rel=1e-14)


def test_the_schedule_survives_saved_optimizers(advent: Method) -> None:
    config = SGDConfig()
    optimizers = build_optimizers(config, advent)
    set_lr(optimizers, config, step=5, total_steps=10)
    fresh = build_optimizers(config, advent)
    fresh["segmenter"].load_state_dict(optimizers["segmenter"].state_dict())
    set_lr(fresh, config, step=0, total_steps=10)
    assert [group["lr"] for group in fresh["segmenter"].param_groups] == [2.5e-4, 2.5e-3]


def test_schedule_length() -> None:
    assert schedule_length(SGDConfig(), 500) == 500
    assert schedule_length(SGDConfig(schedule_steps=900), 500) == 900
    message = r"optim.schedule_steps: expected at least train.steps \(500\), got 400"
    with pytest.raises(JobError, match=message):
        schedule_length(SGDConfig(schedule_steps=400), 500)


@pytest.mark.parametrize(
    "values",
    [
        {"lr": 0},
        {"momentum": 1},
        {"adversary_betas": [0.9, 1.0]},
        {"name": "lamb"},
        {"adam": "older"},
        {"warmup": "cosine"},
        {"warmup_ratio": 2},
        {"name": "adamw", "decay_norms": "encoder"},
        {"momentun": 0.9},
        3,
    ],
)
def test_senseless_values_are_refused(values: Any) -> None:
    with pytest.raises(JobError, match="optim"):
        validate(OptimSection, values, "optim")


def test_a_section_without_a_name_is_sgds() -> None:
    assert validate(OptimSection, {"lr": 1e-3}, "optim") == SGDConfig(lr=1e-3)
    with pytest.raises(JobError, match=r"optim.momentum: expected a number >= 0 and < 1, got 2"):
        validate(OptimSection, {"momentum": 2}, "optim")
    with pytest.raises(JobError, match=r"optim.name: expected a known name.*'sdg'.*sgd"):
        validate(OptimSection, {"name": "sdg"}, "optim")


@pytest.mark.parametrize("row", OPTIMIZERS.values())
def test_every_row_has_a_config_that_says_what_its_keys_are_for(
    row: type[SegmenterOptimizer], advent: Method
) -> None:
    (name,) = get_args(row.Config.model_fields["name"].annotation)
    assert OPTIMIZERS[name] is row
    assert all(field.description for field in row.Config.model_fields.values())
    config = validate(OptimSection, {"name": name}, "optim")
    assert validate(OptimSection, config.model_dump(mode="json"), "optim") == config
    assert row.build(config, advent.segmenter).param_groups[0]["name"] == "encoder"


def test_resolved_specs_of_older_versions_are_read() -> None:
    old = {"name": "adamw", "momentum": 0.9, "sgd_multiplicity": "none", "lr": 1e-4}
    assert validate(OptimSection, old, "optim") == AdamWConfig(name="adamw", lr=1e-4)


def test_the_tables_have_a_row_for_every_choice_of_the_spec() -> None:
    multiplicities = get_args(SGDConfig.model_fields["sgd_multiplicity"].annotation)
    assert set(multiplicities) == {"none", *LAWS}
    assert set(get_args(OptimConfig.model_fields["adam"].annotation)) == set(ADAMS)
    assert set(get_args(OptimConfig.model_fields["warmup"].annotation)) == set(WARMUPS)
    assert set(get_args(TrainConfig.model_fields["precision"].annotation)) == set(PRECISIONS)
    assert set(get_args(SegmenterConfig.model_fields["norm"].annotation)) == set(NORMS)
    assert set(get_args(AdaptSegNetConfig.model_fields["space"].annotation)) == set(SPACES)
