"""Model FLOPs utilisation (MFU): the share of its device's peak at which a running job trains.

The operations of a step are counted once for each shape of its batches, so nothing waits for the
device, and batches of several sizes are right too; that takes seconds, and is done when rates are
first taken, so that no first step waits for it. MFU is the
time that the steps would take at the peak over the time that they took; waiting for data counts,
evaluations and saves between two stretches do not.
"""

import json
import logging
from collections import Counter
from typing import NamedTuple

import torch

from adapt.accelerator import properties_of
from adapt.batch import Batch
from adapt.engine.flops import Flops, step_flops, without_values
from adapt.engine.peak import TERA, Peak, peak_of
from adapt.spec.job_spec import JobSpec
from adapt.trainer.networks import build_without_memory

log = logging.getLogger(__name__)

MAX_SHAPES = 16
"""Of batches, for which a step is counted; of more, what follows is not known."""

Shape = tuple[tuple[int, ...], bool] | None
"""Of a batch's images, and whether it has labels."""
Shapes = tuple[Shape, Shape]


NO_MATTER = frozenset(
    {"name", "seed", "source", "target", "validation", "evaluate", "optim", "train"}
    | {"stream", "stores", "checkpoint", "tracking", "report"}
)
"""Sections of a spec that no operation of a step depends on, but for the batches' shapes."""

_COUNTED: dict[str, Flops] = {}
"""By networks and shapes, for jobs of one process, and rounds of one job."""


class Rates(NamedTuple):
    """FLOP/s of one rank, and their share of the peak in [0, 1]; None where it is not known."""

    flop_per_s: float | None = None
    mfu: float | None = None

    def metrics(self) -> dict[str, float]:
        """Those that are known, by their names in MLflow."""
        found = {"speed/mfu": self.mfu}
        if self.flop_per_s is not None:
            found["speed/tflop_per_s"] = self.flop_per_s / TERA
        return {name: value for name, value in found.items() if value is not None}


class Utilisation:
    """The MFU of a job on one rank's `device`."""

    def __init__(self, job: JobSpec, device: torch.device) -> None:
        self._job, self._device = job, device
        self._peak: Peak | None = None
        self._known: dict[Shapes, Flops | None] = {}
        self._batches: dict[Shapes, tuple[Batch, Batch | None]] = {}
        self.restart()

    def restart(self) -> None:
        """Begin a stretch of steps."""
        self._noted: Counter[Shapes] = Counter()

    def note(self, source: Batch, target: Batch | None) -> None:
        """Note a step on such batches."""
        shapes = _shape(source), _shape(target)
        self._noted[shapes] += 1
        if shapes not in self._known and shapes not in self._batches:
            others = None if target is None else without_values(target)
            self._batches[shapes] = without_values(source), others

    @property
    def has_new(self) -> bool:
        """True where taking the rates counts a step of shapes that none before had: seconds."""
        return any(shapes not in self._known for shapes in self._noted)

    def take(self, spent_s: float) -> Rates:
        """The rates of the steps since the last call, which took `spent_s`."""
        noted = self._noted
        self.restart()
        flops, ideal_s = 0, 0.0
        for shapes, steps in noted.items():
            one = self._flops(shapes)
            if one is None or spent_s <= 0:
                return Rates()
            flops += steps * one.total
            if self._peak is not None:
                ideal_s += steps * one.convolutions / self._peak.convolutions
                ideal_s += steps * one.products / self._peak.products
        if not flops:
            return Rates()
        return Rates(flops / spent_s, ideal_s / spent_s if self._peak else None)

    def _flops(self, shapes: Shapes) -> Flops | None:
        """The operations of a step on batches of these shapes, counted the first time."""
        if shapes not in self._known:
            self._known[shapes] = self._counted(*self._batches.pop(shapes))
        return self._known[shapes]

    def _counted(self, source: Batch, target: Batch | None) -> Flops | None:
        """The operations of a step on such batches, said in the log; None, with the reason, where
        they cannot be counted."""
        if len(self._known) >= MAX_SHAPES:
            log.info("mfu is not known from here on: batches of over %d sizes", MAX_SHAPES)
            return None
        try:
            flops = flops_of(self._job, source, target)
        except RuntimeError as error:
            log.info("mfu is not known: a step cannot be counted (%s)", str(error).splitlines()[0])
            return None
        if not self._known:
            self._peak = peak_of(self._device, self._job.train.precision)
            log.info("a step is %sFLOP on each rank; %s", si(flops.total), self._peak_text())
        return flops

    def _peak_text(self) -> str:
        precision = self._job.train.precision
        if self._peak is None:
            name = properties_of(self._device).name
            return f"mfu is not known: {name} has no peak for {precision} in our table"
        rates = sorted({self._peak.products, self._peak.convolutions})
        named = " and ".join(f"{si(rate)}FLOP/s" for rate in rates)
        return f"its peak in {precision} is {named} ({self._peak.source})"


def si(value: float) -> str:
    """A number with the prefix of its thousands: 2.5e9 -> `2.5 G`."""
    for factor, prefix in ((TERA, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.4g} {prefix}"
    return f"{value:.4g} "


def flops_of(job: JobSpec, source: Batch, target: Batch | None) -> Flops:
    """The operations of a job's step on such batches. Raises `RuntimeError` where its networks or
    losses read numbers."""
    values = {key: value for key, value in job.resolved().items() if key not in NO_MATTER}
    shape = json.dumps([values, _shape(source), _shape(target)])
    found = _COUNTED.get(shape)
    if found is None:
        found = _COUNTED[shape] = step_flops(build_without_memory(job), source, target)
    return found


def _shape(batch: Batch | None) -> Shape:
    return None if batch is None else (tuple(batch.images.shape), batch.labels is not None)
