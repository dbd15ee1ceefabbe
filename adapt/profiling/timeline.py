"""The time of some steps, shared out among what it was spent on.

Spans of several kinds overlap: an operator in a backward pass in a step. Each moment belongs to the
kind that comes first in `KINDS` among those that cover it, so shares sum to one. On a GPU a moment
belongs to the kernel that runs, and a kernel to what the process did when it launched it; while
none runs, to what the process does.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import NamedTuple

SAVING, EVALUATION, LOGGING, DATA = "saving", "evaluation", "logging", "data"
DISCRIMINATORS, TEACHER, BACKWARD = "discriminators", "teacher", "backward"
COMMUNICATION, OPTIMIZER, FORWARD, OTHER = "communication", "optimizer", "forward", "other"

KINDS = {
    SAVING: "copying the state for a checkpoint; it is stored in the background",
    EVALUATION: "predicting and scoring the validation split",
    LOGGING: "losses and metrics, which wait for the device",
    DATA: "waiting for the stream",
    DISCRIMINATORS: "forward and backward passes of adversaries",
    TEACHER: "passes of networks that make labels and do not learn",
    BACKWARD: "gradients of the segmentation network and of the losses",
    COMMUNICATION: "exchange with other ranks that nothing else hides, and waiting for them",
    OPTIMIZER: "all after the last backward pass: finite check, clipping, updates, averages",
    FORWARD: "the segmentation network, augmentation on the device and the losses",
    OTHER: "the loop between these",
}
"""By the name of a kind of time: what it is. Where several overlap, the first counts."""


_EXCHANGE = "nccl"
"""The beginning of the names of NCCL's kernels."""


class Span(NamedTuple):
    """One kind of work of the process, from one moment to another; in seconds."""

    start_s: float
    end_s: float
    kind: str


class Kernel(NamedTuple):
    """A kernel on a GPU, and the moment at which the process launched it; in seconds."""

    name: str
    start_s: float
    end_s: float
    launched_s: float


def timeline(spans: Sequence[Span], window: tuple[float, float]) -> list[Span]:
    """Spans that follow one another and cover the window, from spans that overlap: of those that
    cover a moment the first kind of `KINDS` counts, of none `other`."""
    order = list(KINDS)
    changes: dict[float, Counter[str]] = {window[0]: Counter(), window[1]: Counter()}
    for span in spans:
        start_s, end_s = max(span.start_s, window[0]), min(span.end_s, window[1])
        if start_s < end_s:
            changes.setdefault(start_s, Counter())[span.kind] += 1
            changes.setdefault(end_s, Counter())[span.kind] -= 1
    found: list[Span] = []
    open_now = dict.fromkeys(order, 0)
    for now_s, after_s in pairwise(sorted(changes)):
        for kind, change in changes[now_s].items():
            open_now[kind] += change
        kind = next((one for one in order if open_now[one]), OTHER)
        if found and found[-1].kind == kind:
            found[-1] = found[-1]._replace(end_s=after_s)
        else:
            found.append(Span(now_s, after_s, kind))
    return found


def on_device(host: Sequence[Span], kernels: Sequence[Kernel]) -> list[Span]:
    """The timeline of a process and its kernels -> that of the device: busy moments by the kernel
    that runs, one that computes before NCCL's, idle ones by what the process does."""
    if not host or not kernels:
        return list(host)
    starts_s = [span.start_s for span in host]
    window = host[0].start_s, host[-1].end_s
    computing = [one for one in kernels if not one.name.startswith(_EXCHANGE)]
    busy = [Span(one.start_s, one.end_s, _kind_of(one, host, starts_s)) for one in computing]
    sending = [
        Span(one.start_s, one.end_s, COMMUNICATION)
        for one in kernels
        if one.name.startswith(_EXCHANGE)
    ]
    rest = [part for part in timeline(sending, window) if part.kind == COMMUNICATION]
    exposed = chain.from_iterable(_cut(rest, gap) for gap in idle_times(computing, window))
    idle = chain.from_iterable(_cut(host, gap) for gap in idle_times(kernels, window))
    return timeline([*busy, *exposed, *idle], window)


def idle_times(
    kernels: Sequence[Kernel], window: tuple[float, float]
) -> Iterator[tuple[float, float]]:
    """The parts of the window in which no kernel runs."""
    now_s = window[0]
    for start_s, end_s in sorted((one.start_s, one.end_s) for one in kernels):
        if now_s < start_s:
            yield now_s, min(start_s, window[1])
        now_s = max(now_s, end_s)
        if now_s >= window[1]:
            return
    yield now_s, window[1]


def totals(spans: Sequence[Span]) -> dict[str, float]:
    """Seconds by kind, those that occur, in the order of `KINDS`."""
    found = dict.fromkeys(KINDS, 0.0)
    for span in spans:
        found[span.kind] += span.end_s - span.start_s
    return {kind: spent_s for kind, spent_s in found.items() if spent_s > 0}


def _kind_of(kernel: Kernel, host: Sequence[Span], starts_s: Sequence[float]) -> str:
    """The kind of work during which it was launched."""
    return host[max(0, bisect_right(starts_s, kernel.launched_s) - 1)].kind


def _cut(spans: Sequence[Span], gap: tuple[float, float]) -> Iterator[Span]:
    """The parts of spans that follow one another within a gap."""
    start_s, end_s = gap
    first = max(0, bisect_right(spans, start_s, key=_start_of) - 1)
    for span in islice(spans, first, bisect_left(spans, end_s, key=_start_of)):
        yield Span(max(span.start_s, start_s), min(span.end_s, end_s), span.kind)


def _start_of(span: Span) -> float:
    return span.start_s
