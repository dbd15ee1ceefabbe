"""A record of PyTorch's profiler, read as spans, kernels and operators.

The profiler names backward passes, optimizers and collectives itself; the trainer adds its own
spans (`STEP` and kinds of the timeline), and the networks' forward passes theirs. An autograd node
carries the number of the operator that made it, so the backward pass of a discriminator is known by
its forward pass. What a step does until its last backward pass ends, and nothing else names, is
forward; the rest is the optimizer's.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from adapt.profiling.timeline import (
    BACKWARD,
    COMMUNICATION,
    DISCRIMINATORS,
    FORWARD,
    KINDS,
    OPTIMIZER,
    Kernel,
    Span,
)

PREFIX = "segadapt: "
"""Of the names of our own spans in a trace."""
STEP = "step"

_NODE = "autograd::engine::evaluate_function"
_BY_NAME = {
    _NODE: BACKWARD,
    "Optimizer.": OPTIMIZER,
    "c10d::": COMMUNICATION,
    "gloo:": COMMUNICATION,
    "nccl:": COMMUNICATION,
}
_US = 1e-6


class Operator(NamedTuple):
    """An operator of the process, or a kernel of a GPU: how often it ran and its own time."""

    name: str
    calls: int
    own_s: float


class Trace(NamedTuple):
    """`spans` of the process, which overlap; `kernels` of a GPU, none on a CPU; both as tables,
    the most expensive first. `window` is from the first of our spans to the end of the last."""

    spans: list[Span]
    kernels: list[Kernel]
    operators: list[Operator]
    kernel_table: list[Operator]
    window: tuple[float, float]


def read_trace(events: Iterable[Any]) -> Trace:
    """The trace of `torch.profiler.profile.events()`, within which our spans lie."""
    known = list(events)
    host = [one for one in known if one.device_type.name == "CPU"]
    ours = [one for one in host if one.name.startswith(PREFIX)]
    ends = [_times(one) for one in ours]
    window = min(start for start, _ in ends), max(end for _, end in ends)
    kernels = list(_kernels(known, host))
    spans = [*_named(ours), *_by_name(host), *_of_networks(host, ours), *_rests(host, ours)]
    return Trace(spans, kernels, _operators(host), _kernel_table(kernels), window)


def _times(event: Any) -> tuple[float, float]:
    return event.time_range.start * _US, event.time_range.end * _US


def _named(ours: Sequence[Any]) -> Iterator[Span]:
    """Our own spans, but for steps, which are divided."""
    for one in ours:
        kind = one.name.removeprefix(PREFIX)
        if kind in KINDS:
            yield Span(*_times(one), kind)


def _by_name(host: Sequence[Any]) -> Iterator[Span]:
    for one in host:
        kind = next((kind for start, kind in _BY_NAME.items() if one.name.startswith(start)), None)
        if kind is not None:
            yield Span(*_times(one), kind)


def _of_networks(host: Sequence[Any], ours: Sequence[Any]) -> Iterator[Span]:
    """The backward passes of discriminators: of the nodes that their forward passes made."""
    passes = sorted(_times(one) for one in ours if one.name == PREFIX + DISCRIMINATORS)
    made = set()
    for number, event in _makers(host).items():
        start_s, _ = _times(event)
        if any(begin_s <= start_s < end_s for begin_s, end_s in passes):
            made.add(number)
    for one in host:
        if one.name.startswith(_NODE) and one.sequence_nr in made:
            yield Span(*_times(one), DISCRIMINATORS)


def _makers(host: Sequence[Any]) -> dict[int, Any]:
    """By the number of an autograd node the operator that made it: the last one that began with
    this number, since the next node gets the next."""
    found: dict[int, Any] = {}
    for one in sorted(host, key=lambda one: one.time_range.start):
        if one.sequence_nr >= 0 and not one.fwd_thread and not one.name.startswith(_NODE):
            found[one.sequence_nr] = one
    return found


def _rests(host: Sequence[Any], ours: Sequence[Any]) -> Iterator[Span]:
    """Of each step the part until the end of its last backward pass, and the part after it."""
    nodes = sorted(_times(one) for one in host if one.name.startswith(_NODE))
    for step in ours:
        if step.name == PREFIX + STEP:
            start_s, end_s = _times(step)
            turn_s = max((end for begin, end in nodes if start_s <= begin < end_s), default=end_s)
            yield Span(start_s, turn_s, FORWARD)
            yield Span(turn_s, end_s, OPTIMIZER)


def _kernels(known: Sequence[Any], host: Sequence[Any]) -> Iterator[Kernel]:
    """Those of the GPU, each with the moment of the operator that launched it."""
    launched_s = {one.id: _times(one)[0] for one in host if not one.is_async}
    for one in known:
        if one.device_type.name == "CPU" or one.is_user_annotation:
            continue
        start_s, end_s = _times(one)
        yield Kernel(one.name, start_s, end_s, launched_s.get(one.linked_correlation_id, start_s))


def _operators(host: Sequence[Any]) -> list[Operator]:
    """Operators by their own time, without what they call."""
    calls: dict[str, list[float]] = defaultdict(list)
    for one in host:
        if not (one.is_async or one.is_user_annotation or one.name.startswith(PREFIX)):
            calls[one.name].append(one.self_cpu_time_total * _US)
    return _table(calls)


def _kernel_table(kernels: Sequence[Kernel]) -> list[Operator]:
    calls: dict[str, list[float]] = defaultdict(list)
    for one in kernels:
        calls[one.name].append(one.end_s - one.start_s)
    return _table(calls)


def _table(calls: dict[str, list[float]]) -> list[Operator]:
    rows = [Operator(name, len(times_s), sum(times_s)) for name, times_s in calls.items()]
    return sorted(rows, key=lambda one: -one.own_s)
