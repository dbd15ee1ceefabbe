"""Operations of a step without numbers, against PyTorch's count of a real one."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from adapt.batch import Batch
from adapt.engine.engine import Engine
from adapt.engine.flops import Flops, convolution_backward_flops, step_flops
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.methods import METHODS
from adapt.methods.method import AddOn, Term
from adapt.models import ARCHITECTURES
from tests.built_methods import back_propagated, built_method, random_batch, target_batch
from tests.networks import SURE

ATEN = torch.ops.aten
HW = (64, 64)


def counted(name: str, architecture: str = "deeplab_v2", **changes: Any) -> Flops:
    with torch.device("meta"):
        method = built_method(name, architecture, **changes)
        source, target = random_batch(1, True, HW, size=2), target_batch(method, 2, size=2)
    return step_flops(method, source, target if METHODS[name].needs_target else None)


def counted_by_torch(name: str, architecture: str, train: TrainConfig, **changes: Any) -> int:
    """Of a real step of the engine on the CPU, with its optimizers and after_step."""
    method = built_method(name, architecture, **changes)
    engine = Engine(method, train, SGDConfig(), torch.device("cpu"))
    source, target = random_batch(1, True, HW, size=2), target_batch(method, 2, size=2)
    with FlopCounterMode(display=False) as counter:
        engine.step(source, target if METHODS[name].needs_target else None)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "architecture", "train"),
    [
        ("source_only", "unet", {"precision": "bf16"}),
        ("advent", "deeplab_v2", {"accumulate": 2}),
        ("fcns_in_the_wild", "bisenet", {}),
        ("daformer", "pspnet", {}),
    ],
)
def test_a_step_without_numbers_counts_as_a_real_one(
    name: str, architecture: str, train: dict[str, Any]
) -> None:
    changes = SURE.get(name, {})
    real = counted_by_torch(name, architecture, TrainConfig(**train), **changes)
    assert counted(name, architecture, **changes).total == real > 1e8


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_counted(name: str) -> None:
    found = counted(name, **SURE.get(name, {}))
    assert found.convolutions > 1e8 and found.total == sum(found)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_can_be_counted(architecture: str) -> None:
    assert counted("minent", architecture).total > 1e8


def test_what_is_frozen_has_no_backward_pass() -> None:
    found = {}
    for device, frozen in (("meta", False), ("meta", True), ("cpu", True)):
        with torch.device(device):
            method = built_method("source_only")
        method.segmenter.encoder.requires_grad_(not frozen)
        batch = random_batch(1, True, HW)
        if device == "meta":
            found[device, frozen] = step_flops(method, batch, None).total
            continue
        with FlopCounterMode(display=False) as counter:
            list(back_propagated(method, batch, None))
        found[device, frozen] = counter.get_total_flops()
    assert found["meta", True] == found["cpu", True] < 0.5 * found["meta", False]


def test_a_teacher_without_gradient_costs_a_forward_pass() -> None:
    one, two = (counted("dacs", teacher={"mirror": mirror}).total for mirror in (False, True))
    with torch.device("meta"):
        segmenter, images = built_method("source_only").segmenter, torch.empty(2, 3, *HW)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        segmenter(images)
    assert two - one == counter.get_total_flops()


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("transposed", [False, True])
def test_groups_of_a_convolution_are_counted_once(groups: int, transposed: bool) -> None:
    """As many convolutions of a group's channels cost, by PyTorch's own formulas."""
    run = F.conv_transpose2d if transposed else F.conv2d

    def flops(count: int, groups: int, mine: bool) -> int:
        width = 6 // count
        mapping = {ATEN.convolution_backward: convolution_backward_flops} if mine else None
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            for _ in range(count):
                images = torch.ones(2, width, 9, 8, requires_grad=True)
                weights = torch.ones(width, width // groups, 3, 3, requires_grad=True)
                run(images, weights, stride=2, groups=groups).sum().backward()
        return counter.get_total_flops()

    assert flops(1, groups, mine=True) == flops(groups, 1, mine=False)
    if groups == 6:
        assert flops(1, groups, mine=False) > flops(1, groups, mine=True), "PyTorch is right by now"


def test_matrix_products_are_counted_apart() -> None:
    method = built_method("source_only")
    method.segmenter = method.segmenter.to("meta")
    plain = step_flops(method, random_batch(1, True, HW), None)
    weights = torch.nn.Parameter(torch.empty(4, 5, device="meta"))

    class WithProduct(type(method)):  # type: ignore[misc]
        def losses(self, source: Batch, target: Batch | None) -> Any:
            for term in super().losses(source, target):
                yield term._replace(loss=term.loss + (weights @ weights.T).sum())

    method.__class__ = WithProduct
    found = step_flops(method, random_batch(1, True, HW), None)
    forward = 2 * 4 * 5 * 4
    assert plain.products == 0 and found == Flops(plain.convolutions, 3 * forward)


def test_attention_is_two_products_a_block_and_twice_that_backward() -> None:
    """PyTorch's counter leaves the CPU's fused attention out: there it is arithmetic."""
    blocks, channels, tokens, images = 6, 64, (64 // 16) ** 2 + 1, 2
    attention = blocks * 2 * 2 * images * tokens**2 * channels
    for frozen, passes in ((True, 1), (False, 3)):
        model = {"encoder": "test_vit", "norm": "train", "frozen_encoder": frozen}
        with torch.device("meta"):
            method = built_method("source_only", model=model)
        real, batch = built_method("source_only", model=model), random_batch(1, True, HW, images)
        with FlopCounterMode(display=False) as counter:
            list(back_propagated(real, batch, None))
        found = step_flops(method, batch, None)
        assert found.total == counter.get_total_flops() + passes * attention


def test_add_ons_are_counted() -> None:
    class Squared(AddOn):
        def losses(self, segmenter: Any, source: Batch, *_: Any) -> Any:
            squared = segmenter(source.images).logits[0].square().mean()
            yield Term(squared, {"squared": squared.detach()})

    with torch.device("meta"):
        plain, added = (built_method("source_only") for _ in range(2))
        added.add_ons["squared"] = Squared()
    found = [step_flops(method, random_batch(1, True, HW), None).total for method in (plain, added)]
    assert 1.5 * found[0] < found[1] < 2 * found[0], "the auxiliary head has no gradient there"


def test_counting_leaves_nothing_behind() -> None:
    """Neither draws of random numbers nor gradients nor the batch's values."""
    with torch.device("meta"):
        method = built_method("dacs")
    state, batch = torch.get_rng_state(), random_batch(1, True, HW)
    before = batch.images.clone()
    first = step_flops(method, batch, random_batch(2, False, HW))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(batch.images, before)
    assert all(parameter.grad is None for parameter in method.parameters())
    assert first == step_flops(method, batch, random_batch(3, False, HW))
