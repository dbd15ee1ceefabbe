"""The study of a sweep in Optuna: what was drawn, what it scored, and what to draw next.

The sampler of trial N is made anew, seeded by the sweep's seed and N: what it draws is a function
of both and of the trials before, so that a sweep which was killed draws what a calm one draws.
The study has a database file of its own: MLflow and Optuna both keep the version of their tables
in `alembic_version`, so neither could open a file of both.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    PartialFixedSampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from adapt.errors import JobError, written
from adapt.evaluation.protocol import sign
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec
from adapt.spec.same_job import changed_keys
from adapt.sweep.options import Search
from adapt.sweep.space import Dimension, Drawn, Space
from storage.uris import without_password

SPEC, SPACE, SECONDS = "spec", "space", "seconds"
"""The facts that a study keeps beside its trials."""
REFUSED = "refused"
"""The reason of a trial that the spec or the networks refuse: it costs nothing and counts not."""
ETA = 3
"""Of three trials `asha` and `hyperband` keep one (ASHA's and Hyperband's papers: 3 or 4)."""

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

SAMPLERS: Mapping[str, Callable[[int, Search], BaseSampler]] = {
    "tpe": lambda seed, search: TPESampler(seed=seed, constant_liar=search.parallel > 1),
    "random": lambda seed, _search: RandomSampler(seed=seed),
    "grid": lambda seed, _search: RandomSampler(seed=seed),
    "cma_es": lambda seed, _search: CmaEsSampler(seed=seed, warn_independent_sampling=False),
}
"""`--sampler` -> what draws a trial; a grid's points are fixed before."""

PRUNERS: Mapping[str, Callable[[int, int], BasePruner]] = {
    "median": lambda _every, _steps: MedianPruner(),
    "asha": lambda every, _steps: SuccessiveHalvingPruner(min_resource=every, reduction_factor=ETA),
    "hyperband": lambda every, steps: HyperbandPruner(
        min_resource=every, max_resource=max(every, steps), reduction_factor=ETA
    ),
    "none": lambda _every, _steps: NopPruner(),
}
"""`--pruner` -> what ends a trial, from the steps between evaluations and those of the job."""


def database(folder: Path) -> str:
    """The URI of the study's own database file in a sweep's folder."""
    return f"sqlite:///{(folder / 'study.db').resolve()}"


def open_study(
    uri: str | None, name: str, job: JobSpec, space: Space, search: Search
) -> optuna.Study:
    """The study of this name at a database's URI, made where there is none; in memory without one.

    Raises `JobError` where it is that of another job spec, space or score, and where the database
    does not answer.
    """
    pruner = PRUNERS[search.pruner](job.evaluate.every_steps, job.train.steps)
    try:
        study = optuna.create_study(
            storage=None if uri is None else RDBStorage(uri),
            study_name=name,
            direction="maximize" if sign(job.evaluate.score) > 0 else "minimize",
            load_if_exists=True,
            pruner=pruner,
        )
        _claim(study, job, space)
    except (SQLAlchemyError, ImportError, RuntimeError, ArgumentError) as error:
        shown = without_password(str(error)).splitlines()[0]
        raise JobError(
            f"--storage: expected a database for the study, got: {shown}",
            "name one that answers, as sqlite:////folder/study.db, with its driver installed",
        ) from error
    return study


def _claim(study: optuna.Study, job: JobSpec, space: Space) -> None:
    """Note what the study is of, or refuse another's."""
    known = study.user_attrs
    if SPEC not in known:
        study.set_user_attr(SPACE, dict(space.written))
        study.set_user_attr(SPEC, job.resolved())  # the last: it stands for both
        return
    fix = "change it back, or give this sweep another name (--name)"
    of = f"of the study {study.study_name}"
    saved = parse_spec(known[SPEC], job.name)  # with the defaults of keys that are new
    for key, before, now in changed_keys(saved.resolved(), job.resolved()):
        raise JobError(
            f"{key}: expected {written(before)}, the value {of}, got {written(now)}", fix
        )
    before, now = known[SPACE], space.written
    for key in dict.fromkeys((*before, *now)):
        if before.get(key) != now.get(key):
            raise JobError(
                f"{key}: expected {written(before.get(key))}, as the space {of}, got "
                f"{written(now.get(key))}",
                fix,
            )


def ask(study: optuna.Study, space: Space, search: Search) -> tuple[optuna.Trial, Drawn]:
    """The next trial, and what it draws."""
    study.sampler = sampler_of(len(study.get_trials(deepcopy=False)), space, search)
    trial = study.ask()
    return trial, drawn_by(trial, space)


def again(
    study: optuna.Study, number: int, space: Space, search: Search
) -> tuple[optuna.Trial, Drawn]:
    """A trial that was not finished; it draws what it had not drawn yet."""
    study.sampler = sampler_of(number, space, search)
    trial = optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    return trial, drawn_by(trial, space)


def sampler_of(number: int, space: Space, search: Search) -> BaseSampler:
    """The sampler of the trial of this number."""
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    sampler = SAMPLERS[search.sampler](seed, search)
    if search.sampler == "grid":
        points = space.points()
        return PartialFixedSampler(points[number % len(points)], sampler)
    return sampler


def drawn_by(trial: optuna.Trial, space: Space) -> Drawn:
    """The point of the space that a trial draws."""
    return space.draw(lambda one: _drawn(trial, one))


def _drawn(trial: optuna.Trial, one: Dimension) -> float | int | str:
    if one.choices is not None:
        return str(trial.suggest_categorical(one.name, list(one.choices)))
    if one.whole:
        low, high, step = int(one.low), int(one.high), int(one.step or 1)
        return trial.suggest_int(one.name, low, high, step=step, log=one.log)
    return trial.suggest_float(one.name, one.low, one.high, step=one.step, log=one.log)


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: all but those that were refused before they began."""
    trials = study.get_trials(deepcopy=False)
    return [one for one in trials if REFUSED not in one.user_attrs]


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial of the best score, of equal ones the first; None without one."""
    done = [one for one in study.get_trials(deepcopy=False) if one.state == TrialState.COMPLETE]
    better = sign_of(study)
    return max(done, key=lambda one: (better * (one.value or 0.0), -one.number), default=None)


def sign_of(study: optuna.Study) -> int:
    """1 where higher scores are better, -1 where lower ones are."""
    return 1 if study.direction == StudyDirection.MAXIMIZE else -1
