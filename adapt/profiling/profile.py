"""A profile of a run: the time of some steps by kind, and that of the whole start."""

from collections.abc import Mapping
from typing import NamedTuple

from adapt.profiling.timeline import idle_times, on_device, timeline, totals
from adapt.profiling.trace import Operator, Trace


class Machine(NamedTuple):
    """The device of the leader and the settings that speed depends on.

    `faster_bf16`: how many times faster than fp32 its peak in bf16 is, None where it is not known.
    `free_memory`: share of a GPU's memory that no step needed, None on a CPU.
    """

    device: str
    ranks: int
    precision: str
    batch_sizes: Mapping[str, int]
    threads: int
    activation_checkpointing: str
    faster_bf16: float | None
    free_memory: float | None


class Profile(NamedTuple):
    """Steps that were traced, and the start of the run that they belong to.

    Steps `first_step` + 1 and so on, `steps` of them. `spent_s` by kind of the timeline while they
    ran, on a GPU by its kernels; `idle` is its share without one, None on a CPU. `step_s` is a step
    before the trace, without the profiler, None where there was none; `mfu` in [0, 1] follows from
    it. `start_s`: seconds of the whole start by kind, `start-up` among them.
    """

    name: str
    machine: Machine
    first_step: int
    steps: int
    spent_s: Mapping[str, float]
    idle: float | None
    operators: list[Operator]
    kernels: list[Operator]
    step_s: float | None
    mfu: float | None
    start_s: Mapping[str, float]

    @property
    def traced_s(self) -> float:
        """Seconds that the traced steps took."""
        return sum(self.spent_s.values())

    def share(self, kind: str) -> float:
        """Of the traced steps, in [0, 1]."""
        return self.spent_s.get(kind, 0.0) / max(self.traced_s, 1e-12)

    def start_share(self, kind: str) -> float:
        """Of the whole start, in [0, 1]."""
        return self.start_s.get(kind, 0.0) / max(sum(self.start_s.values()), 1e-12)


def shares_of(trace: Trace) -> tuple[dict[str, float], float | None]:
    """Seconds by kind, and the share of the window in which the GPU is idle; None on a CPU."""
    host = timeline(trace.spans, trace.window)
    if not trace.kernels:
        return totals(host), None
    idle_s = sum(end_s - start_s for start_s, end_s in idle_times(trace.kernels, trace.window))
    whole_s = trace.window[1] - trace.window[0]
    return totals(on_device(host, trace.kernels)), idle_s / max(whole_s, 1e-12)
