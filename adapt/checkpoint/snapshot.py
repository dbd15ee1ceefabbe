"""A checkpoint in memory, as training leaves it with the saving thread."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Moment(NamedTuple):
    """The state of a job at one point: steps done, the last step that was evaluated, and
    `time.monotonic()` of the copy."""

    step: int
    evaluated_step: int
    taken_s: float

    @property
    def age_s(self) -> float:
        """How much work a kill now would cost, in seconds, if this is the last stored state."""
        return time.monotonic() - self.taken_s


class Snapshot(NamedTuple):
    """A checkpoint in memory, apart from the tensors that training keeps changing.

    `state` is what a resume needs, `weights` the segmentation network's, `description` the header
    of their file; `score` is set where it is the best so far. `others` are weights of further
    networks, by file. `history` is the run's, as JSON lines; empty for none. `shards` are files
    that ranks have stored already, in the folder `name`, with their sha256. Where an earlier
    checkpoint is the best with this `score`, `best_step` and `best_figures` are its step and its
    metrics. Of the steps `spared` a checkpoint stays in the store.
    """

    moment: Moment
    state: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    spec_text: str
    description: Mapping[str, str]
    score: float | None = None
    others: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({})
    history: str = ""
    name: str = ""
    shards: Mapping[str, str] = MappingProxyType({})
    best_step: int | None = None
    best_figures: Mapping[str, float] = MappingProxyType({})
    spared: tuple[int, ...] = ()

    @property
    def step(self) -> int:
        """Steps done."""
        return self.moment.step

    def copied(self) -> "Snapshot":
        """The same off the device, in memory of its own. Waits for the device."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        state, weights, others = in_memory((self.state, self.weights, self.others))
        others = {name: in_float32(values) for name, values in others.items()}
        return self._replace(state=state, weights=in_float32(weights), others=others)


def in_float32(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for everybody: those that training holds in bf16 are widened."""
    narrow = torch.bfloat16
    return {name: one.float() if one.dtype == narrow else one for name, one in weights.items()}


def in_memory(values: Any, copies: dict[tuple[Any, ...], Tensor] | None = None) -> Any:
    """A deep copy of nested dicts, lists and tuples with every tensor copied to the CPU's memory.

    Tensors that are the same memory stay one.
    """
    copies = {} if copies is None else copies
    if isinstance(values, Tensor):
        tensor = values.detach()
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        if tensor.numel() == 0 or key not in copies:
            copies[key] = tensor.to("cpu", copy=True).contiguous()
        return copies[key]
    if isinstance(values, Mapping):
        return {key: in_memory(value, copies) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(in_memory(value, copies) for value in values)
    return values
