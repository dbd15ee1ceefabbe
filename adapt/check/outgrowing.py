"""Which option of the spec makes a step fit a GPU that is too small for it, by prediction.

Options stand in the order of their cost: smaller parts of a batch leave a GPU idle, checkpointing
computes a pass twice, bf16 rounds. Each is tried alone, then with all before it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import gcd
from typing import Any, NamedTuple

from adapt.check.memory import Sizes, predicted_bytes
from adapt.errors import JobError
from adapt.spec.job_spec import JobSpec
from adapt.stream.domains import DOMAINS


class Option(NamedTuple):
    """Values of keys of the spec's `train`, and a number of ranks where it is another one."""

    values: Mapping[str, Any]
    num_ranks: int | None = None

    def applied(self, job: JobSpec) -> JobSpec:
        """The job with these values."""
        train = job.train.model_copy(update=dict(self.values))
        return job.model_copy(update={"train": train})

    def text(self) -> str:
        """`train.accumulate: 4 and train.precision: bf16`."""
        keys = [f"train.{key}: {value}" for key, value in self.values.items()]
        return " and ".join(keys + ([] if self.num_ranks is None else [f"{self.num_ranks} ranks"]))


class Fitting(NamedTuple):
    """An option that makes a step fit, and the bytes that the GPU then needs."""

    option: Option
    needed: int


def _accumulated(job: JobSpec, num_ranks: int) -> list[Option]:
    """The batch of a rank in more parts, ascending."""
    images = _images(job) // num_ranks
    more = range(job.train.accumulate + 1, images + 1)
    return [Option({"accumulate": parts}) for parts in more if images % parts == 0]


def _checkpointed(job: JobSpec, _num_ranks: int) -> list[Option]:
    option = Option({"activation_checkpointing": "blocks"})
    return [] if job.train.activation_checkpointing == "blocks" else [option]


def _rounded(job: JobSpec, _num_ranks: int) -> list[Option]:
    option = Option({"precision": "bf16"})
    return [] if job.train.precision == "bf16" else [option]


def _frozen(job: JobSpec, _num_ranks: int) -> list[Option]:
    option = Option({"precision": "bf16", "frozen_weights": "bf16"})
    return [] if job.train.frozen_weights == "bf16" else [option]


def _sharded(job: JobSpec, num_ranks: int) -> list[Option]:
    """Over the ranks that there are, and over more."""
    values = _changes(job, {"parallel": "fsdp2"})
    parts = _images(job) // job.train.accumulate
    more = [ranks for ranks in (2, 4, 8, 16, 32) if ranks > num_ranks and parts % ranks == 0]
    here = [num_ranks] if num_ranks > 1 and job.train.parallel != "fsdp2" else []
    return [Option(values, ranks) for ranks in (*here, *more)]


OPTIONS: Sequence[Callable[[JobSpec, int], list[Option]]] = (
    _accumulated,
    _checkpointed,
    _rounded,
    _frozen,
)
"""By cost: a job and its number of ranks -> values to try, from the largest need to the least."""


def fitting(job: JobSpec, num_ranks: int, sizes: Sizes, limit: float) -> Fitting | None:
    """The cheapest option that makes a step fit `limit` bytes, or the cheapest of several together;
    None where none does."""

    def tried(option: Option) -> Fitting | None:
        return _tried(job, num_ranks, sizes, option)

    furthest: list[Option] = []
    for values in (row(job, num_ranks) for row in OPTIONS):
        last = tried(values[-1]) if values else None
        if last is None:
            continue
        if last.needed <= limit:
            return next(_fitting(map(tried, values[:-1]), limit), last)
        furthest.append(last.option)
    together = list(_together(furthest))
    sharded = _sharded(job, num_ranks)
    shared = [_over_ranks(job, one, [*furthest, *together][-1:]) for one in sharded]
    return next(_fitting(map(tried, (*together, *sharded, *shared)), limit), None)


def _over_ranks(job: JobSpec, option: Option, others: Sequence[Option]) -> Option:
    """An option of more ranks with the values of others, in parts of a rank's whole images."""
    values = {key: value for other in others for key, value in other.values.items()}
    values |= option.values
    if "accumulate" in values and option.num_ranks is not None:
        values["accumulate"] = max(job.train.accumulate, _images(job) // option.num_ranks)
    return Option(_changes(job, values), option.num_ranks)


def _changes(job: JobSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the values that the job has."""
    return {key: value for key, value in values.items() if getattr(job.train, key) != value}


def _images(job: JobSpec) -> int:
    """The most parts that each domain's batch has in whole images."""
    return gcd(*(job.batch_size(domain) for domain in DOMAINS if job.datasets(domain)))


def _fitting(tried: Iterable[Fitting | None], limit: float) -> Iterator[Fitting]:
    return (one for one in tried if one is not None and one.needed <= limit)


def _together(options: Sequence[Option]) -> Iterator[Option]:
    """The first two, the first three, and so on."""
    values: dict[str, Any] = {}
    for number, option in enumerate(options):
        values = {**values, **option.values}
        if number:
            yield Option(values)


def _tried(job: JobSpec, num_ranks: int, sizes: Sizes, option: Option) -> Fitting | None:
    """None where the job cannot have the option."""
    try:
        changed = option.applied(job)
        ranks = option.num_ranks or num_ranks
        return Fitting(option, predicted_bytes(changed, ranks, sizes).needed)
    except JobError:
        return None
