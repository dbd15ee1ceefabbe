"""Learning rates by layer and weight decay along a cosine, by hand."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from adapt.config.validation import validate
from adapt.engine.layer_decay import layer_shares
from adapt.engine.optim import OptimSection, build_optimizers, set_lr, set_weight_decay
from adapt.errors import JobError
from adapt.methods import build_method
from adapt.methods.method import Method
from adapt.models import build_encoder, build_segmenter
from tests.networks import varied_network

torch.set_num_threads(1)
MODEL = {"architecture": "deeplab_v2", "output_stride": 16, "weights": "none"}


def method(**model: Any) -> Method:
    with torch.device("meta"):
        segmenter = build_segmenter({**MODEL, "encoder": "test_vit", **model}, 4)
        return build_method({"name": "source_only"}, segmenter)


def optim(**values: Any) -> Any:
    return validate(OptimSection, {"name": "adamw", "lr": 1e-5, **values}, "optim")


def distinct(values: Iterable[float]) -> list[float]:
    return sorted(set(values))


def test_a_block_learns_faster_than_the_one_before_it() -> None:
    built = method()
    config = optim(layer_decay=0.5, head_lr_factor=10)
    groups = build_optimizers(config, built)["segmenter"].param_groups
    rates = {id(one): group["lr"] for group in groups for one in group["params"]}
    blocks = built.segmenter.encoder.blocks()
    for number, block in enumerate(blocks):
        expected = 1e-5 * 0.5 ** (len(blocks) - 1 - number)
        assert distinct(rates[id(one)] for one in block.parameters()) == [expected]
    by_name = {name: rates[id(one)] for name, one in built.segmenter.named_parameters()}
    stem = ("pos_embed", "cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias")
    assert distinct(by_name[name] for name in by_name if name.endswith(stem)) == [1e-5 * 0.5**6]
    after = [rate for name, rate in by_name.items() if name.endswith("backbone.norm.weight")]
    assert after == [1e-5]
    head = distinct(rates[id(one)] for one in built.segmenter.decoder.parameters())
    assert head == pytest.approx([1e-4])
    assert groups[0]["lr"] == pytest.approx(1e-5)  # the one that is logged


def test_every_rate_follows_the_schedule() -> None:
    config = optim(layer_decay=0.5, power=1.0)
    optimizers = build_optimizers(config, method())
    before = [group["lr"] for group in optimizers["segmenter"].param_groups]
    set_lr(optimizers, config, 30, 40)
    after = [group["lr"] for group in optimizers["segmenter"].param_groups]
    assert after == pytest.approx([rate / 4 for rate in before]) and len(set(before)) == 8


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_every_parameter_that_trains_is_moved_once(name: str) -> None:
    built = method(adapters={"kind": "lora", "rank": 2})
    groups = build_optimizers(optim(name=name, layer_decay=0.9), built)["segmenter"].param_groups
    moved = [id(one) for group in groups for one in group["params"]]
    assert sorted(moved) == sorted(id(p) for p in built.parameters() if p.requires_grad)
    rates = distinct(group["lr"] for group in groups if group["name"] == "encoder")
    assert rates == pytest.approx([1e-5 * 0.9**power for power in (3, 2, 1, 0)])


def test_blocks_of_a_cnn_have_their_rates_too() -> None:
    with torch.device("meta"):
        encoder = build_encoder("resnet18", 16)
    shares = layer_shares(encoder, 0.5)
    assert shares.keys() == set(encoder.parameters())
    values = [shares[one] for one in encoder.parameters()]
    assert values == sorted(values) and values[-1] == 1
    assert min(values) == 0.5 ** len(encoder.blocks())


def test_an_encoder_without_blocks_has_no_layers() -> None:
    message = r"^optim.layer_decay: expected an encoder of blocks, got 'untouched'. Fix: remove it"
    with pytest.raises(JobError, match=message):
        layer_shares(varied_network(3).encoder, 0.9)


def test_weight_decay_falls_along_a_cosine_and_spared_parameters_keep_none() -> None:
    config = optim(weight_decay=0.05, weight_decay_end=1e-5, decay_norms=False)
    optimizers = build_optimizers(config, method())
    for step in (0, 1, 20, 40):
        set_weight_decay(optimizers, config, step, 40)
        decays = distinct(one["weight_decay"] for one in optimizers["segmenter"].param_groups)
        share = 0.5 * (1 + math.cos(math.pi * step / 40))
        assert decays == pytest.approx([0.0, 1e-5 + (0.05 - 1e-5) * share])
    assert decays == pytest.approx([0.0, 1e-5])


def test_weight_decay_stays_without_an_end() -> None:
    config = optim(weight_decay=0.05)
    optimizers = build_optimizers(config, method())
    set_weight_decay(optimizers, config, 39, 40)
    assert distinct(one["weight_decay"] for one in optimizers["segmenter"].param_groups) == [0.05]
