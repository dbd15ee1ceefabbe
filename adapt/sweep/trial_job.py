"""A trial's job: the sweep's job spec with the drawn values, complete as any other."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapt.config.strict_yaml import with_overrides
from adapt.errors import JobError, written
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import TAGS, parse_spec, with_classes
from adapt.sweep.space import Dimension, Space
from adapt.trainer.networks import check_networks

NETWORKS = ("model", "method", "distillation")
"""Sections whose choices are checked by building the networks, without memory."""


@dataclass(frozen=True)
class Base:
    """The plain values of the sweep's job spec, and the name of its run."""

    values: Mapping[str, Any]
    name: str

    def job(self, values: Mapping[str, Any]) -> JobSpec:
        """The job with these values by key, sections before the keys below them.

        A section of choices that names a row (`name`, `architecture`) replaces the job's; another
        changes the keys that it has. Raises `JobError`.
        """
        changed = with_classes(self.values)
        for key in sorted(values, key=lambda one: one.count(".") + one.count("[")):
            changed = with_overrides(changed, _overrides(key, values[key]))
        return parse_spec(changed, self.name)

    def takes(self, key: str, value: Any) -> bool:
        """Return whether the spec takes a value for a key."""
        try:
            self.job({key: value})
        except JobError:
            return False
        return True

    def trial(self, number: int, values: Mapping[str, Any], parent_run: str | None) -> JobSpec:
        """The job of a trial: a run of its own, by a score that is named, saved at each evaluation,
        so that its scores can be read from its checkpoints and a kill costs the part since."""
        job = self.job(values)
        every, own = job.evaluate.every_steps, job.checkpoint.every_steps
        saves = {"every_steps": every if own is None else min(own, every)}
        return job.model_copy(
            update={
                "name": trial_name(self.name, number),
                "checkpoint": job.checkpoint.model_copy(update=saves),
                "evaluate": job.evaluate.settled(labelled=True),
                "tracking": job.tracking.model_copy(update={"parent_run": parent_run}),
            }
        )


def trial_name(name: str, number: int) -> str:
    """The run of a trial: `NAME-t0007`."""
    return f"{name}-t{number:04d}"


def _overrides(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value and not set(TAGS) & value.keys():
        for below, one in value.items():
            yield from _overrides(f"{key}.{below}", one)
    else:
        yield f"{key}={json.dumps(value)}"


def check_space(space: Space, base: Base) -> None:
    """Raise `JobError` for a value that the spec refuses: both ends of every range and every
    choice, alone or beside the first of all others; and for a key that some choice of a section
    above it does not have."""
    for one in space.dimensions:
        for end in one.ends():
            _check_end(space, base, one, end)
    for above in space.dimensions:
        for below in space.dimensions:
            if above.choices is not None and below.key.startswith(f"{above.key}."):
                _check_below(base, above, below)


def _check_end(space: Space, base: Base, one: Dimension, end: Any) -> None:
    needed = {key: labels[0] for key, labels in one.when.items()}

    def first(other: Dimension) -> Any:
        if other is one:
            return end
        return other.ends()[0] if other.key not in needed else needed[other.key]

    everything = space.draw(first).values
    alone = {key: everything[key] for key in (*_parents(space, one), one.key) if key in everything}
    try:
        _build(base, alone, one)
    except JobError:
        if everything == alone or not _is_built(base, everything, one):
            raise


def _build(base: Base, values: Mapping[str, Any], one: Dimension) -> None:
    """Check a job; with a choice of its networks also these, which no key alone can tell."""
    job = base.job(values)
    if one.choices is not None and one.key.partition(".")[0] in NETWORKS:
        check_networks(job)


def _is_built(base: Base, values: Mapping[str, Any], one: Dimension) -> bool:
    try:
        _build(base, values, one)
    except JobError:
        return False
    return True


def _parents(space: Space, one: Dimension) -> Iterable[str]:
    """The keys that a dimension's `when` needs, and those that they need."""
    found = list(one.when)
    for key in found:
        more = [name for other in space.dimensions if other.key == key for name in other.when]
        found += [name for name in more if name not in found]
    return found


def _check_below(base: Base, above: Dimension, below: Dimension) -> None:
    assert above.choices is not None, "a section is a choice"
    labels = below.when.get(above.key, tuple(above.choices))
    for label in labels:
        if label not in above.choices:
            continue
        try:
            base.job({above.key: above.choices[label], below.key: below.value_of(below.ends()[0])})
        except JobError as error:
            raise JobError(
                f"{below.key}: expected `when` of the choices that have this key, got "
                f"{above.key}={written(label)} too, with which the spec refuses it "
                f"[{error.problem.splitlines()[0]}]",
                f"add when: {{{above.key}: ...}}",
            ) from error
