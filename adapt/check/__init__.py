"""What can be known of a job before money is spent: a line for each thing that may be wrong.

Each file looks after one concern. All are looked at side by side, since stores and servers that do
not answer take their time; a concern that is red does not keep the others from being looked at.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from adapt.check.data import Looked, look_at
from adapt.check.machine import disk_findings, gpu_findings, shm_findings
from adapt.check.platform import platform_findings
from adapt.check.spec import spec_findings
from adapt.check.stores import checkpoint_findings
from adapt.check.subject import Findings, Subject
from adapt.check.tracking import tracking_findings
from adapt.check.weights import weights_findings
from adapt.platforms.platform import Finding

__all__ = ["Subject", "exit_code_of", "findings"]

Look = Callable[[Subject], Findings]

FIRST: tuple[Look, ...] = (spec_findings,)
AFTER_DATA: tuple[Look, ...] = (
    checkpoint_findings,
    tracking_findings,
    weights_findings,
    shm_findings,
)
BY_DATA = (disk_findings, gpu_findings)
"""These wait for what was found of the data."""

LAST: tuple[Look, ...] = (platform_findings,)


def findings(subject: Subject) -> Iterator[Finding]:
    """Everything that was found, in a fixed order, each as soon as all before it are there."""
    keys = [key for key in ("source", "target", "validation") if getattr(subject.job, key)]
    num_tasks = len(keys) + len(FIRST + AFTER_DATA + BY_DATA + LAST)
    with ThreadPoolExecutor(num_tasks) as pool:  # one each: some wait for others
        first = [pool.submit(_all, look, subject) for look in FIRST]
        data = {key: pool.submit(look_at, subject, key) for key in keys}
        by_data: list[Look] = [partial(look, splits=partial(_results, data)) for look in BY_DATA]
        later = [pool.submit(_all, look, subject) for look in (*AFTER_DATA, *by_data, *LAST)]
        for one in first:
            yield from one.result()
        for looked in data.values():
            yield from looked.result().findings
        for one in later:
            yield from one.result()


def exit_code_of(found: Iterable[Finding]) -> int:
    """0, or the code of the first red line."""
    return next((one.exit_code for one in found if not one.ok), 0)


def _all(look: Look, subject: Subject) -> list[Finding]:
    return list(look(subject))


def _results(data: Mapping[str, Future[Looked]]) -> dict[str, Looked]:
    return {key: one.result() for key, one in data.items()}
