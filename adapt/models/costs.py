"""Costs of a network on one image, whole and by layer group: parameters and multiply-accumulates
(MACs).

Counted in evaluation mode, auxiliary heads included, on the meta device, where size is free.
Convolutions, their padding included, and matrix products count, as in the papers' tables; norms,
activations, pooling and resizing do not. A layer group is a child of the encoder or the decoder, or
the children of such a child where it is a list of blocks, or blocks with a classifier at their end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from adapt.models import build_encoder, build_segmenter
from adapt.models.encoders.encoder import Encoder
from adapt.models.segmenter import Segmenter

Shape = tuple[int, ...]
"""Of an output, without its batch: (C, h, w)."""

Named = tuple[str, nn.Module]


@dataclass(frozen=True)
class LayerGroup:
    """A part of a network by its name in the state: what it costs, the different shapes it gave."""

    name: str
    parameters: int
    macs: int
    shapes: tuple[Shape, ...]


class Cost(NamedTuple):
    """Costs of a network, whole and by layer group; parameters, whether they train or not."""

    parameters: int
    macs: int
    groups: tuple[LayerGroup, ...]


class Run(NamedTuple):
    """A module's work on one image, all its calls together."""

    macs: int
    shapes: tuple[Shape, ...]


NO_RUN = Run(0, ())


def segmenter_without_memory(values: Mapping[str, Any], num_classes: int) -> Segmenter:
    """The network that the job spec's `model` with these values describes, on the meta device.

    Raises `JobError` for values that do not make one; what weights it starts from does not matter.
    """
    with torch.device("meta"):
        return build_segmenter({**values, "weights": "none"}, num_classes)


def encoder_without_memory(
    name: str, output_stride: int | None, equal_strides: bool = False
) -> Encoder:
    """The encoder on the meta device. Arguments and errors are those of `build_encoder`."""
    with torch.device("meta"):
        return build_encoder(name, output_stride, equal_strides)


def segmenter_cost(segmenter: Segmenter, size_hw: tuple[int, int]) -> Cost:
    """The cost of a whole network."""
    parts = {"encoder": segmenter.encoder, "decoder": segmenter.decoder}
    return _cost(segmenter, parts, size_hw)


def encoder_cost(encoder: Encoder, size_hw: tuple[int, int]) -> Cost:
    """The cost of an encoder alone."""
    return _cost(encoder, {"encoder": encoder}, size_hw)


def _cost(network: nn.Module, parts: Mapping[str, nn.Module], size_hw: tuple[int, int]) -> Cost:
    runs = measure(network, size_hw)
    return Cost(_parameters(network), runs[network].macs, layer_groups(parts, runs))


@torch.no_grad()
def measure(network: nn.Module, size_hw: tuple[int, int]) -> dict[nn.Module, Run]:
    """The work of each module on one image (3, H, W); modules that do not run are absent.

    Puts the network into evaluation mode.
    """
    images = torch.empty(1, 3, *size_hw, device=next(network.parameters()).device)
    network.eval()
    with FlopCounterMode(display=False) as counter:
        meter = _Meter(counter)
        before = register_module_forward_pre_hook(meter.enter)
        after = register_module_forward_hook(meter.leave)
        with before, after:
            network(images)
    return meter.runs


class _Meter:
    """Hooks before and after each module that runs within `counter`."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.runs: dict[nn.Module, Run] = {}
        self._counter, self._started = counter, dict[nn.Module, int]()

    def enter(self, module: nn.Module, _inputs: Any) -> None:
        self._started[module] = self._counter.get_total_flops()

    def leave(self, module: nn.Module, _inputs: Any, outputs: Any) -> None:
        macs = (self._counter.get_total_flops() - self._started.pop(module)) // 2
        earlier = self.runs.get(module, NO_RUN)
        shapes = dict.fromkeys((*earlier.shapes, *_shapes(outputs)))
        self.runs[module] = Run(earlier.macs + macs, tuple(shapes))


def _shapes(outputs: Any) -> Iterator[Shape]:
    """Of a tensor, or of all in nested tuples and lists."""
    if isinstance(outputs, Tensor):
        yield tuple(outputs.shape[1:])
    elif isinstance(outputs, tuple | list):
        for one in outputs:
            yield from _shapes(one)


def layer_groups(
    parts: Mapping[str, nn.Module], runs: Mapping[nn.Module, Run]
) -> tuple[LayerGroup, ...]:
    """The groups of each part, by what `measure` found; their sums are the parts' own.

    What a part holds or computes outside its groups comes last, under the part's own name.
    """
    groups = []
    for name, part in parts.items():
        within = [_group(*named, runs) for named in _divided(name, part, runs)]
        whole = _group(name, part, runs)
        parameters = whole.parameters - sum(group.parameters for group in within)
        macs = whole.macs - sum(group.macs for group in within)
        groups += within
        if parameters or macs:
            groups.append(LayerGroup(name, parameters, macs, whole.shapes))
    return tuple(groups)


def _group(name: str, module: nn.Module, runs: Mapping[nn.Module, Run]) -> LayerGroup:
    return LayerGroup(name, _parameters(module), *runs.get(module, NO_RUN))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _divided(name: str, part: nn.Module, runs: Mapping[nn.Module, Run]) -> Iterator[Named]:
    """A part's groups; a wrapper around a single child is skipped."""
    children = _children(name, part)
    while len(children) == 1 and (inner := _children(*children[0])):
        children = inner
    for child in children:
        yield from _children(*child) if _is_head(child[1]) else _running(*child, runs)


def _running(name: str, module: nn.Module, runs: Mapping[nn.Module, Run]) -> Iterator[Named]:
    """The module, or, where it only lists what runs, that."""
    children = _children(name, module)
    if module in runs or not children:
        yield name, module
        return
    for child in children:
        yield from _running(*child, runs)


def _is_head(module: nn.Module) -> bool:
    """True for a plain sequence of blocks with a classifier at its end."""
    parts = [_children("", part) for _, part in _children("", module)]
    plain = type(module) is nn.Sequential
    return plain and len(parts) > 1 and all(parts[:-1]) and not parts[-1]


def _children(name: str, module: nn.Module) -> list[Named]:
    """The module's children that have parameters."""
    return [
        (f"{name}.{inner}", child)
        for inner, child in module.named_children()
        if next(child.parameters(), None) is not None
    ]
