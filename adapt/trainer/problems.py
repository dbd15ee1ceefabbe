"""The checks of a job that need neither store nor GPU, in one order for all commands: `check` shows
each as a line; `run`, its supervisor and `submit` refuse the job at the first problem."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from torch import nn

from adapt.errors import JobError
from adapt.methods.method import Method
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.stream.domains import DOMAINS
from adapt.trainer.networks import check_networks

SHOWN = 0.001
"""Millions of parameters of a part that is worth naming; others are single numbers, or none."""


class Checked(NamedTuple):
    """A check and its result: `found`, the good news, or `error`."""

    what: str
    found: str = ""
    error: JobError | None = None


def _batches(job: JobSpec, place: Place) -> str:
    job.check_ranks(place.num_ranks)
    sizes = [job.batch_size(domain) for domain in DOMAINS if job.datasets(domain)]
    shares = " and ".join(str(size // place.num_ranks) for size in sizes)
    return f"{shares} images a rank, {place.num_ranks} rank{'s'[: place.num_ranks > 1]}"


def _secrets(job: JobSpec, place: Place) -> str:
    job.check_environment(place.environment)
    return "all variables of `stores` are set" if job.stores else ""


def _cost(job: JobSpec, _place: Place) -> str:
    limit, price, currency = job.train.max_cost, job.report.price_per_hour, job.report.currency
    if limit is None:
        return ""
    if price is None:
        raise JobError(
            "train.max_cost: expected a price to count by, got neither report.price_per_hour nor "
            "a profile's price",
            fix="set report.price_per_hour, or price_per_hour of the profile",
        )
    return f"ends at {limit:g} {currency}, by {price:g} {currency} a node an hour"


def _networks(job: JobSpec, _place: Place) -> str:
    method = check_networks(job)
    network = f"{job.model.architecture} on {job.model.encoder}"
    return f"{network}, {job.method.name}: {_parameters(method)}"


def _parameters(method: Method) -> str:
    """`84.5 M parameters (network 42.6, teacher 42.6, ...)`: those of each part."""
    teacher = method.teacher_network()
    parts: dict[str, list[nn.Module]] = {
        "network": [method.segmenter],
        "teacher": [] if teacher is None else [teacher],
        "discriminators": list(method.adversaries().values()),
    }
    counts = {
        part: sum(one.numel() for network in networks for one in network.parameters()) / 1e6
        for part, networks in parts.items()
    }
    total = sum(one.numel() for one in method.parameters()) / 1e6
    counts["fixed networks"] = total - sum(counts.values())
    listed = ", ".join(f"{part} {count:.1f}" for part, count in counts.items() if count >= SHOWN)
    return f"{total:.1f} M parameters ({listed})"


CHECKS: Mapping[str, Callable[[JobSpec, Place], str]] = MappingProxyType(
    {"batches": _batches, "secrets": _secrets, "cost": _cost, "networks": _networks}
)
"""Name -> check of a job at a place: returns the good news, raises `JobError`. The quick ones come
first: building all networks, without memory, takes seconds."""

ALL = tuple(CHECKS)
BATCHES = ("batches",)
"""For a prediction that batches which do not fit the ranks make pointless."""

QUICK = ("batches", "secrets", "cost")
"""For a supervisor: its ranks check the networks."""

SECRETS = ("secrets",)
"""For a request that knows which variables the job will have."""

WITHOUT_SECRETS = ("batches", "cost", "networks")
"""For `submit`: the job gets its secrets from the platform."""


def checked(job: JobSpec, place: Place, names: Sequence[str] = ALL) -> Iterator[Checked]:
    """Check lazily, one by one; a check without anything to check yields nothing.

    `place.num_ranks` are the ranks of the whole job, `place.environment` has its secrets.
    """
    for name in names:
        try:
            found = CHECKS[name](job, place)
        except JobError as error:
            yield Checked(name, error=error)
        else:
            if found:
                yield Checked(name, found)


def problems(job: JobSpec, place: Place, names: Sequence[str] = ALL) -> Iterator[JobError]:
    """All problems of a job at a place."""
    return (one.error for one in checked(job, place, names) if one.error is not None)


def refuse_problems(job: JobSpec, place: Place, names: Sequence[str] = ALL) -> None:
    """Raise the first problem."""
    for error in problems(job, place, names):
        raise error
