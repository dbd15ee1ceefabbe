"""Checks a job before money is spent: a line for each thing that may be wrong.

Each file has one concern. All are checked at the same time, since stores and servers that do not
answer take their time; a red line does not stop the other checks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from adapt.check.data import SplitReport, check_split, parts_of
from adapt.check.machine import (
    disk_findings,
    gpu_findings,
    gpu_model_findings,
    shm_findings,
)
from adapt.check.norms import norm_findings
from adapt.check.platform import platform_findings
from adapt.check.spec import spec_findings
from adapt.check.stores import checkpoint_findings
from adapt.check.subject import Findings, Subject
from adapt.check.tracking import tracking_findings
from adapt.check.weights import labelling_findings, weights_findings
from adapt.platforms.platform import Finding

__all__ = ["Subject", "exit_code_of", "findings"]

Check = Callable[[Subject], Findings]

FIRST: tuple[Check, ...] = (spec_findings,)
AFTER_DATA: tuple[Check, ...] = (
    checkpoint_findings,
    tracking_findings,
    weights_findings,
    labelling_findings,
    shm_findings,
    gpu_model_findings,
    norm_findings,
)
BY_DATA = (disk_findings, gpu_findings)
"""These wait for the reports of the splits."""

LAST: tuple[Check, ...] = (platform_findings,)


def findings(subject: Subject) -> Iterator[Finding]:
    """All findings in a fixed order, each as soon as all before it are known."""
    parts = parts_of(subject.job)
    num_tasks = len(parts) + len(FIRST + AFTER_DATA + BY_DATA + LAST)
    with ThreadPoolExecutor(num_tasks) as pool:  # one each: some wait for others
        first = [pool.submit(_all, check, subject) for check in FIRST]
        data = {part.name: pool.submit(check_split, subject, part.name) for part in parts}
        by_data: list[Check] = [partial(check, splits=partial(_results, data)) for check in BY_DATA]
        later = [pool.submit(_all, check, subject) for check in (*AFTER_DATA, *by_data, *LAST)]
        for one in first:
            yield from one.result()
        for report in data.values():
            yield from report.result().findings
        for one in later:
            yield from one.result()


def exit_code_of(found: Iterable[Finding]) -> int:
    """0, or the code of the first red line."""
    return next((one.exit_code for one in found if not one.ok), 0)


def _all(check: Check, subject: Subject) -> list[Finding]:
    return list(check(subject))


def _results(data: Mapping[str, Future[SplitReport]]) -> dict[str, SplitReport]:
    return {key: one.result() for key, one in data.items()}
