"""The time of steps, shared out: each moment once."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from adapt.profiling.profile import shares_of
from adapt.profiling.timeline import (
    BACKWARD,
    COMMUNICATION,
    DATA,
    DISCRIMINATORS,
    FORWARD,
    KINDS,
    OPTIMIZER,
    OTHER,
    Kernel,
    Span,
    idle_times,
    on_device,
    timeline,
    totals,
)
from adapt.profiling.trace import Operator, Trace, read_trace


def test_the_first_kind_counts_where_spans_overlap() -> None:
    spans = [
        *(Span(1, 3, DATA), Span(3, 9, FORWARD), Span(5, 8, BACKWARD)),
        *(Span(6, 7, DISCRIMINATORS), Span(7.5, 8.5, COMMUNICATION), Span(9, 20, OPTIMIZER)),
    ]
    assert timeline(spans, (0, 10)) == [
        *(Span(0, 1, OTHER), Span(1, 3, DATA), Span(3, 5, FORWARD), Span(5, 6, BACKWARD)),
        *(Span(6, 7, DISCRIMINATORS), Span(7, 8, BACKWARD), Span(8, 8.5, COMMUNICATION)),
        *(Span(8.5, 9, FORWARD), Span(9, 10, OPTIMIZER)),
    ]


def test_shares_of_any_spans_sum_to_the_window() -> None:
    draw = random.Random(1)
    for _ in range(20):
        starts = [draw.uniform(-1, 6) for _ in range(12)]
        spans = [Span(one, one + draw.uniform(0, 3), draw.choice(list(KINDS))) for one in starts]
        kernels = [Kernel("k", one, one + draw.uniform(0, 1), one - 0.1) for one in starts]
        host = timeline(spans, (0, 5))
        for found in (host, on_device(host, kernels)):
            assert sum(totals(found).values()) == pytest.approx(5)


def test_a_kernel_belongs_to_what_launched_it_and_idle_time_to_the_process() -> None:
    host = timeline([Span(0, 2, DATA), Span(2, 4, FORWARD), Span(4, 10, BACKWARD)], (0, 10))
    kernels = [
        Kernel("conv", 3, 6, launched_s=2.5),
        Kernel("conv_backward", 6, 8, launched_s=4.5),
        Kernel("ncclDevKernel_AllReduce", 7, 9, launched_s=6),
    ]
    assert totals(on_device(host, kernels)) == {
        DATA: 2,
        FORWARD: 1 + 3,
        BACKWARD: 2 + 1,
        COMMUNICATION: 1,
    }
    assert list(idle_times(kernels, (0, 10))) == [(0, 3), (9, 10)]
    trace = Trace([Span(0, 10, FORWARD)], kernels, [], [], (0, 10))
    assert shares_of(trace) == ({COMMUNICATION: 1.0, FORWARD: 9.0}, 0.4)
    assert shares_of(trace._replace(kernels=[])) == ({FORWARD: 10.0}, None)


def event(name: str, start: float, end: float, **more: Any) -> SimpleNamespace:
    """An event as PyTorch's profiler has them, in microseconds."""
    facts = {
        "device_type": SimpleNamespace(name="CPU"),
        "sequence_nr": -1,
        "fwd_thread": 0,
        "id": 0,
        "is_async": False,
        "is_user_annotation": name.startswith("segadapt"),
        "linked_correlation_id": 0,
        "self_cpu_time_total": end - start,
    }
    return SimpleNamespace(
        name=name, time_range=SimpleNamespace(start=start, end=end), **(facts | more)
    )


NODE = "autograd::engine::evaluate_function: ConvolutionBackward0"
EVENTS = [
    event("segadapt: data", 0, 10),
    event("segadapt: step", 10, 100),
    event("aten::conv2d", 12, 20, sequence_nr=4, id=7),
    event("segadapt: discriminators", 22, 32),
    event("aten::detach", 21, 22, sequence_nr=5),
    event("aten::conv2d", 24, 30, sequence_nr=5),
    event(NODE, 40, 50, sequence_nr=5, fwd_thread=1),
    event(NODE, 50, 70, sequence_nr=4, fwd_thread=1),
    event("c10d::allreduce_", 72, 80),
    event("Optimizer.step#SGD.step", 85, 95),
]


def test_discriminators_are_known_by_their_forward_passes_in_the_backward_pass_too() -> None:
    trace = read_trace(EVENTS)
    spent_s, idle = shares_of(trace)
    assert {kind: round(1e6 * one_s) for kind, one_s in spent_s.items()} == {
        DATA: 10,
        DISCRIMINATORS: 10 + 10,
        BACKWARD: 20,
        COMMUNICATION: 8,
        OPTIMIZER: 100 - 70 - 8,
        FORWARD: 70 - 10 - 10 - 10 - 20,
    }
    assert idle is None and trace.window == pytest.approx((0, 100e-6))
    assert trace.operators[0] == Operator(NODE, 2, pytest.approx(30e-6))
    assert not any(one.name.startswith("segadapt") for one in trace.operators)


def test_kernels_are_those_of_the_gpu_with_the_moment_of_their_operator() -> None:
    gpu = {"device_type": SimpleNamespace(name="CUDA")}
    kernel = event("sm90_xmma_fprop", 30, 60, linked_correlation_id=7, **gpu)
    mark = event("segadapt: step", 30, 60, **gpu)
    found = read_trace([*EVENTS, kernel, mark])
    assert found.kernels == [Kernel("sm90_xmma_fprop", *map(pytest.approx, (30e-6, 60e-6, 12e-6)))]
    assert found.kernel_table == [Operator("sm90_xmma_fprop", 1, pytest.approx(30e-6))]
    assert shares_of(found)[1] == pytest.approx(0.7)
