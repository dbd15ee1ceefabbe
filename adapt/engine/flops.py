"""Floating-point operations of one training step, counted by PyTorch's `FlopCounterMode` while the
method's forward and backward passes run on the meta device, which has shapes and no numbers.

As the field counts them: convolutions, matrix products and attention, a multiply-accumulate as two;
norms, activations, resizing and optimizers are not counted. What is frozen has no backward pass and
costs none. A batch counts as a whole: `train.accumulate` only splits it, and what activation
checkpointing computes twice counts once (model FLOPs, not hardware FLOPs).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from adapt.batch import Batch
from adapt.engine.agreeing import Agreeing
from adapt.methods.draws import Draws
from adapt.methods.method import Method
from adapt.ranks import alone

_ATEN = torch.ops.aten
_CONVOLUTIONS = (_ATEN.convolution, _ATEN.convolution_backward)


class Flops(NamedTuple):
    """Operations of a step on one rank, by what computes them: GPUs may run convolutions in
    another precision than matrix products."""

    convolutions: int
    products: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def step_flops(method: Method, source: Batch, target: Batch | None) -> Flops:
    """The operations of a step of the method, whose networks are on the meta device, on batches of
    these shapes.

    Takes about a second for a ResNet-101. Raises `RuntimeError` where a network or a loss reads
    numbers, which the meta device lacks.
    """
    shapes, targets = without_values(source), [] if target is None else [without_values(target)]
    method.train()
    counter = FlopCounterMode(
        display=False, custom_mapping={_ATEN.convolution_backward: convolution_backward_flops}
    )
    with alone(), counter, Agreeing():
        method.start_step(Draws(0), targets)
        for term in method.terms(shapes, targets[0] if targets else None):
            term.loss.backward()
    method.zero_grad()
    found = counter.get_flop_counts().get("Global", {})
    convolutions = sum(found.get(kind, 0) for kind in _CONVOLUTIONS)
    return Flops(convolutions, sum(found.values()) - convolutions)


def convolution_backward_flops(
    grads: list[int],
    inputs: list[int],
    weights: list[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: Any,
    wanted: tuple[bool, bool, bool],
    out_shape: Any = None,  # noqa: ARG001 - PyTorch passes it by name
) -> int:
    """The backward pass of a convolution from its shapes: as many operations as the forward pass
    for the inputs' gradient, and as many for the weights', where each is `wanted`.

    PyTorch's own formula (2.14) counts the weights' gradient of G groups G times too high.
    """
    forward = conv_flop_count(inputs, weights, grads, transposed=transposed)
    return forward * (int(wanted[0]) + int(wanted[1]))


def without_values(batch: Batch) -> Batch:
    """A batch of the same shapes on the meta device."""
    labels = None if batch.labels is None else _shape_of(batch.labels)
    return batch._replace(images=_shape_of(batch.images), labels=labels)


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")
