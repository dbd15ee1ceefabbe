"""The profile of a running job: `train.profile_steps` steps after a warm-up, by PyTorch's profiler.

The leader alone has one; other ranks train as ever. The trace and the page are made and stored in a
thread of their own, so neither a slow store nor a fault of the page holds up the run.
"""

import logging
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function, supported_activities

from adapt.accelerator import is_accelerator, properties_of
from adapt.batch import Batch
from adapt.engine.engine import Engine
from adapt.engine.peak import Peak, peak_of
from adapt.profiling.page import profile_page
from adapt.profiling.profile import Machine, Profile, shares_of
from adapt.profiling.timeline import (
    DATA,
    DISCRIMINATORS,
    EVALUATION,
    LOGGING,
    SAVING,
    TEACHER,
)
from adapt.profiling.trace import PREFIX, STEP, read_trace
from adapt.report.environment import machine_facts
from adapt.tracking.tracker import Tracker
from adapt.trainer.opening import Opened, decoding_threads
from adapt.trainer.reporting import waited_for
from adapt.trainer.utilisation import flops_of
from storage.errors import StoreError

log = logging.getLogger(__name__)

WARM_UP_STEPS = 10
COLD_STEPS = 2
"""The first ones of a start, which are slower, and not timed where there are others."""


class Plan(NamedTuple):
    """The steps to trace: `steps` of them after `first`. Those after `warm` and before the trace
    are timed without it; none where `warm` is `first`."""

    warm: int
    first: int
    steps: int


def planned(step: int, until: int, wanted: int) -> Plan:
    """After the warm-up of a start at `step`; of a short one the last steps, after one that is not
    traced where there are two."""
    left = until - step
    steps = min(wanted, max(1, left - 1))
    first = step + min(WARM_UP_STEPS, left - steps)
    return Plan(max(step, min(step + COLD_STEPS, first - 1)), first, steps)


class Profiler:
    """Traces a job's steps and times its parts; `began_s` of `time.monotonic()` is its start."""

    def __init__(
        self, opened: Opened, engine: Engine, tracker: Tracker | None, began_s: float
    ) -> None:
        self._opened, self._engine, self._tracker = opened, engine, tracker
        self._began_s, self._plan = began_s, Plan(0, 0, 0)
        self._trace: Any = None
        self._writer: _Writer | None = None
        self._open: list[tuple[str, float]] = []
        self._spent_s: dict[str, float] = defaultdict(float)
        self._warm_s: float | None = None
        self._step_s: float | None = None
        self._first_s: float | None = None
        self._ideal_s: float | None = None
        self._hooks = ExitStack()
        self._hook_networks()

    def plan(self, step: int, until: int) -> None:
        """Choose the steps, once: of a job of several rounds in the first."""
        if not self._plan.steps and until > step:
            self._plan = planned(step, until, self._opened.job.train.profile_steps)

    @contextmanager
    def span(self, kind: str) -> Iterator[None]:
        """A part of the loop; a part within it counts for itself alone."""
        if self._first_s is None:
            self._first_s = time.monotonic()
        if kind != LOGGING:
            self._begin_or_end(kind)
        began_s = time.perf_counter()
        self._open.append((kind, 0.0))
        with record_function(PREFIX + kind):
            yield
        _, within_s = self._open.pop()
        whole_s = time.perf_counter() - began_s
        self._spent_s[kind] += whole_s - within_s
        if self._open:
            outer, before_s = self._open[-1]
            self._open[-1] = outer, before_s + whole_s

    def count(self, source: Batch, target: Batch | None) -> None:
        """Count the operations of a step on such batches, of the first one."""
        if self._ideal_s is not None:
            return
        self._ideal_s = 0.0
        job = self._opened.job
        with suppress(RuntimeError):
            flops = flops_of(job, source, target)
            peak = peak_of(self._engine.device, job.train.precision)
            if peak is not None:
                by_kind = flops.convolutions / peak.convolutions, flops.products / peak.products
                self._ideal_s = sum(by_kind)

    def finish(self, stop: Event, beat: Callable[[], None]) -> None:
        """Write the page again, with the whole start; wait a minute at most."""
        self._end_trace()
        writer = self._writer
        if writer is None:
            return
        waited_for(writer, self._opened.place, stop, beat)
        if writer.is_alive() or writer.profile is None:
            log.warning("the profile is not complete: %s", writer.failure or "it took too long")
            return
        last = _Writer(self._opened, self._tracker, writer.profile._replace(start_s=self._start()))
        last.start()
        waited_for(last, self._opened.place, stop, beat)

    def close(self) -> None:
        """End the trace and the hooks."""
        self._hooks.close()
        if self._trace is not None:
            self._trace.stop()
            self._trace = None

    def _begin_or_end(self, kind: str) -> None:
        """Before a part: start the trace with the first planned step's data, end it before what
        follows the last."""
        step, plan = self._engine.step_count, self._plan
        if plan.steps and step >= plan.first + plan.steps:
            self._end_trace()
        if kind != DATA or not plan.steps:
            return
        if step == plan.warm:
            self._warm_s = self._step_clock_s()
        if step == plan.first and self._writer is None and self._trace is None:
            self._begin_trace()

    def _begin_trace(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its library writes to stderr
        on_gpu = is_accelerator(self._engine.device)
        kinds = supported_activities() if on_gpu else {ProfilerActivity.CPU}
        timed = self._plan.first - self._plan.warm
        if timed and self._warm_s is not None:
            self._step_s = (self._step_clock_s() - self._warm_s) / timed
        self._trace = profile(activities=kinds, record_shapes=True)
        self._trace.start()

    def _end_trace(self) -> None:
        """Stop it, and have its trace and page made."""
        if self._trace is None:
            return
        self._synchronise()
        self._trace.stop()
        trace, self._trace = self._trace, None
        steps = min(self._plan.steps, self._engine.step_count - self._plan.first)
        if steps < 1:
            return
        step_s, ideal_s = self._step_s, self._ideal_s
        mfu = ideal_s / step_s if ideal_s and step_s else None
        facts = (self._opened.job.name, self._machine(), self._plan.first, steps)
        self._writer = _Writer(
            self._opened,
            self._tracker,
            Profile(*facts, {}, None, [], [], step_s, mfu, self._start()),
            trace,
        )
        self._writer.start()

    def _step_clock_s(self) -> float:
        """A clock of steps alone, once the device has done them."""
        self._synchronise()
        apart = (EVALUATION, SAVING)
        return time.perf_counter() - sum(self._spent_s[kind] for kind in apart)

    def _synchronise(self) -> None:
        if is_accelerator(self._engine.device):
            torch.accelerator.synchronize(self._engine.device)

    def _start(self) -> dict[str, float]:
        """Seconds of this start until now by kind."""
        now_s = time.monotonic()
        first_s = now_s if self._first_s is None else self._first_s
        parts = {"steps" if kind == STEP else kind: s for kind, s in self._spent_s.items()}
        rest_s = now_s - first_s - sum(parts.values())
        return {"start-up": first_s - self._began_s, **parts, "other": max(0.0, rest_s)}

    def _machine(self) -> Machine:
        job, place, device = self._opened.job, self._opened.place, self._engine.device
        domains = ["source", *(["target"] if self._engine.method.needs_target else [])]
        return Machine(
            _device_text(device),
            place.num_ranks,
            job.train.precision,
            {domain: job.batch_size(domain) for domain in domains},
            decoding_threads(job.stream, place),
            job.train.activation_checkpointing,
            _faster(peak_of(device, "fp32"), peak_of(device, "bf16")),
            _free_memory(device),
        )

    def _hook_networks(self) -> None:
        """Have the forward passes of adversaries and teachers in the trace, each as a span."""
        engine, method = self._engine, self._engine.method
        average = None if engine.average is None else engine.average.network
        teachers = (method.teacher_network(), method.teaching_network(), average)
        named: dict[nn.Module, str] = dict.fromkeys(method.adversaries().values(), DISCRIMINATORS)
        named |= {one: TEACHER for one in teachers if one is not None}
        named.pop(method.segmenter, None)
        for network, kind in named.items():
            self._hook(network, kind)

    def _hook(self, network: nn.Module, kind: str) -> None:
        begun: list[record_function] = []

        def begin(*_: Any) -> None:
            begun.append(record_function(PREFIX + kind))
            begun[-1].__enter__()

        def end(*_: Any) -> None:
            begun.pop().__exit__(None, None, None)

        self._hooks.callback(network.register_forward_pre_hook(begin).remove)
        self._hooks.callback(network.register_forward_hook(end, always_call=True).remove)


class _Writer(Thread):
    """Makes a profile of a trace, if there is one, and its page, and stores them. `profile` is None
    until it is known, `failure` the reason where that or the store failed."""

    def __init__(
        self, opened: Opened, tracker: Tracker | None, known: Profile, trace: Any = None
    ) -> None:
        super().__init__(name="profile", daemon=True)
        self._opened, self._tracker, self._known, self._trace = opened, tracker, known, trace
        self.profile: Profile | None = None
        self.failure: str | None = None

    def run(self) -> None:
        """Make and store them; a failure is a warning."""
        try:
            found = self._known if self._trace is None else self._read()
            self._put("html", profile_page(found).encode())
        except (StoreError, ValueError, OSError) as error:
            self.failure = str(error)
            log.warning("the profile is not stored: %s", error)
            return
        if self._trace is not None:
            where = f"{self._opened.folder.uri}/{self._file('html')}"
            log.info("the profile of %d steps is %s", found.steps, where)
        self._trace, self.profile = None, found

    def _read(self) -> Profile:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json.gz"
            self._trace.export_chrome_trace(str(file))
            self._put("trace.json.gz", file.read_bytes())
        trace = read_trace(self._trace.events())
        spent_s, idle = shares_of(trace)
        return self._known._replace(
            spent_s=spent_s, idle=idle, operators=trace.operators, kernels=trace.kernel_table
        )

    def _put(self, ending: str, content: bytes) -> None:
        """Store a file of the profile, in MLflow first, which never waits."""
        name = self._file(ending)
        if self._tracker is not None:
            self._tracker.log_file(content, name)
        self._opened.folder.put_profile(name, content)

    def _file(self, ending: str) -> str:
        return f"profile/step-{self._known.first_step:08d}.{ending}"


def _device_text(device: torch.device) -> str:
    facts = machine_facts(device)
    return facts["gpu"] or f"{torch.get_num_threads()} threads of {facts['processor']}"


def _faster(slow: Peak | None, fast: Peak | None) -> float | None:
    return None if slow is None or fast is None else fast.convolutions / slow.convolutions


def _free_memory(device: torch.device) -> float | None:
    """The share of a GPU's memory that this process has never held."""
    if not is_accelerator(device):
        return None
    held = torch.accelerator.max_memory_reserved(device)
    return max(0.0, 1 - held / properties_of(device).memory_bytes)
