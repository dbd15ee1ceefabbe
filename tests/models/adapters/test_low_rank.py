"""Adapted layers against float64 transcriptions of their papers."""

import pytest
import torch
from torch import Tensor, nn

from adapt.models.adapters.attach import ADAPTERS
from adapt.models.adapters.low_rank import LoRA, SoMA

RANK, SCALE = 4, 1.5
SHAPES = [(3, 24, 72), (1, 24, 24), (1, 24, 48), (1, 48, 24)]
"""Fused layers, inputs and outputs: qkv, proj, fc1, fc2."""
TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-12}


def linear(inputs: int, outputs: int, dtype: torch.dtype = torch.float64) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(inputs, outputs).to(dtype)


def tokens(inputs: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 5, inputs, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("parts", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_each_part_has_a_product_of_its_own(
    kind: str, parts: int, inputs: int, outputs: int
) -> None:
    layer = ADAPTERS[kind](linear(inputs, outputs), parts, RANK, SCALE)
    nn.init.normal_(layer.up)
    nn.init.normal_(layer.down)
    x, size = tokens(inputs), outputs // parts
    for part in range(parts):
        rows = slice(part * size, (part + 1) * size)
        assert layer.bias is not None
        expected = x @ layer.weight[rows].T + layer.bias[rows]
        expected = expected + SCALE * (x @ layer.down[part].T) @ layer.up[part].T
        torch.testing.assert_close(layer(x)[..., rows], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("parts", "inputs", "outputs"), SHAPES)
def test_lora_starts_at_nothing(parts: int, inputs: int, outputs: int) -> None:
    before, x = linear(inputs, outputs), tokens(inputs)
    layer = LoRA(linear(inputs, outputs), parts, RANK, SCALE)
    assert not layer.started
    layer.start()
    assert layer.started and not layer.up.any()
    assert 0.5 * inputs**-0.5 < layer.down.abs().max() <= inputs**-0.5
    assert torch.equal(layer(x), before(x)) and torch.equal(layer.weight, before.weight)


@pytest.mark.parametrize(("parts", "inputs", "outputs"), SHAPES)
def test_soma_takes_the_smallest_triples_out_of_the_weight(
    parts: int, inputs: int, outputs: int
) -> None:
    """A = sqrt(S) V^T, B = U sqrt(S) of the smallest singular values, W <- W - B A."""
    before = linear(inputs, outputs).weight.detach()
    layer = SoMA(linear(inputs, outputs), parts, RANK, 1.0)
    layer.start()
    for part, weight in enumerate(before.chunk(parts)):
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        product = (u[:, -RANK:] * s[-RANK:]) @ vh[-RANK:]
        a, b = layer.down[part].detach(), layer.up[part].detach()
        torch.testing.assert_close(b @ a, product, rtol=0, atol=1e-10)
        rest = layer.weight.detach().chunk(parts)[part]
        torch.testing.assert_close(rest, weight - product, rtol=0, atol=1e-10)
        for gram in (a @ a.T, b.T @ b):
            expected = s[-RANK:].flip(0).diag()
            torch.testing.assert_close(gram, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("parts", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_start_leaves_the_output_and_a_merge_too(
    kind: str, dtype: torch.dtype, parts: int, inputs: int, outputs: int
) -> None:
    x, close = tokens(inputs, dtype), {"rtol": 0, "atol": TOLERANCES[dtype]}
    before = linear(inputs, outputs, dtype)
    layer = ADAPTERS[kind](linear(inputs, outputs, dtype), parts, RANK, SCALE)
    assert torch.equal(layer(x), before(x))
    layer.start()
    torch.testing.assert_close(layer(x), before(x), **close)
    nn.init.normal_(layer.up, std=0.05)
    merged = layer.merged()
    assert type(merged) is nn.Linear and merged.weight.dtype is dtype
    torch.testing.assert_close(merged(x), layer(x), **close)
    assert not torch.allclose(merged(x), before(x), atol=1e-3)


@pytest.mark.parametrize(("parts", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_frozen_weight_follows_from_the_base_bit_for_bit(
    kind: str, parts: int, inputs: int, outputs: int
) -> None:
    base = linear(inputs, outputs, torch.float32).weight.detach().clone()
    layer = ADAPTERS[kind](linear(inputs, outputs, torch.float32), parts, RANK, SCALE)
    layer.start()
    given = {key: value for key, value in layer.state_dict().items() if key != "weight"}
    found = ADAPTERS[kind](linear(inputs, outputs, torch.float32), parts, RANK, SCALE)
    assert torch.equal(found.frozen_weight(base, given), layer.weight)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_gradients_reach_the_adapter_and_the_bias_alone(kind: str) -> None:
    layer = ADAPTERS[kind](linear(24, 72), 3, RANK, SCALE)
    layer.start()
    nn.init.normal_(layer.up)
    layer(tokens(24)).square().sum().backward()
    with_gradient = {name for name, p in layer.named_parameters() if p.grad is not None}
    assert with_gradient == {"down", "up", "bias"}


def test_weights_of_zeros_start_with_finite_adapters() -> None:
    zero = nn.Linear(24, 24)
    nn.init.zeros_(zero.weight)
    layer = SoMA(zero, 1, RANK, 1.0)
    layer.start()
    assert layer.down.isfinite().all() and layer.up.isfinite().all()
