"""The results of a sweep: a row for each trial, and the best one's job spec with its ranges."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from optuna.trial import FrozenTrial

from adapt.checkpoint.spent import Spent
from adapt.spec.job_spec import JobSpec
from adapt.sweep.live import BEST_STEP, WHY, outcome, spent_of
from adapt.sweep.space import Dimension, Space
from adapt.sweep.study import REFUSED
from adapt.sweep.trial_job import Base, trial_name


class Row(NamedTuple):
    """A trial: its run, its result, its score in [0, 1], the step of its best checkpoint, what it
    drew by name, the time that it took, and the reason where it failed."""

    run: str
    result: str
    score: float | None
    step: int | None
    drawn: Mapping[str, Any]
    spent: Spent
    why: str = ""


def rows(trials: Sequence[FrozenTrial], base: str, better: int = 1) -> list[Row]:
    """All trials, the best first, those without a score last. `better`: the score's sign."""
    found = [
        Row(
            trial_name(base, one.number),
            outcome(one),
            one.value if one.state.name in ("COMPLETE", "PRUNED") else None,
            one.user_attrs.get(BEST_STEP),
            one.params,
            spent_of(one),
            one.user_attrs.get(REFUSED) or one.user_attrs.get(WHY) or "",
        )
        for one in trials
    ]
    complete = {trial_name(base, one.number) for one in trials if one.state.name == "COMPLETE"}
    return sorted(found, key=lambda row: (row.run not in complete, -better * (row.score or 0.0)))


def best_spec(
    base: Base, space: Space, best: FrozenTrial, trials: Sequence[FrozenTrial], score: str
) -> str:
    """The best trial's job spec as YAML: complete, with a comment at every key that was searched.
    Loading it gives a job named NAME-best."""
    drawn = space.draw(lambda one: best.params[one.name])
    job = base.job(drawn.values)
    job = job.model_copy(update={"name": f"{base.name}-best"})
    done = sum(one.state.name == "COMPLETE" for one in trials)
    head = [
        f"# The best of {len(trials)} trials of a sweep of {base.name}, of which {done} complete.",
        f"# {trial_name(base.name, best.number)}: {score} {best.value or 0.0:.2%}.",
        "# Other keys are the job spec's. Keys that were searched have a comment above them.",
    ]
    searched = [one for one in space.dimensions if one.name in drawn.drawn]
    return "\n".join([*head, *_commented(job, searched), ""])


def _commented(job: JobSpec, searched: Sequence[Dimension]) -> list[str]:
    """The lines of the job's YAML, with a comment above each on which a searched key begins."""
    text = job.to_yaml()
    lines = text.splitlines()
    places = dict(_places(yaml.compose(text, yaml.SafeLoader)))
    notes: dict[int, list[str]] = {}
    for one in searched:
        parts = tuple(one.key.replace("[", ".").replace("]", "").split("."))
        found = next(
            places[parts[:end]] for end in range(len(parts), 0, -1) if parts[:end] in places
        )
        notes.setdefault(found, []).append(f"searched: {one.key} in {one.text()}")
    commented = []
    for number, line in enumerate(lines):
        indent = " " * (len(line) - len(line.lstrip()))
        commented += [f"{indent}# {note}" for note in notes.get(number, ())]
        commented.append(line)
    return commented


def _places(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Path of each key of composed YAML -> the line on which it begins."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            yield below, key.start_mark.line
            yield from _places(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            below = (*path, str(number))
            yield below, value.start_mark.line
            yield from _places(value, below)
