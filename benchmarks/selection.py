"""Measures how well scores without labels choose: the rank correlation of each with the mIoU of
labels over checkpoints, methods and seeds, and the points that a choice by it costs.

    python benchmarks/selection.py toy_town
    python benchmarks/selection.py town_to_camvid --seeds 1 2 3
    python benchmarks/selection.py --tables      # all tables and pictures again, from docs/results

The runs are those of `benchmarks/methods.py TASK --for-selection` with the same --out and --set;
what is missing of them is trained here, as there. All scores are in the runs' histories but the
agreement with the ensemble, which is counted here: among the checkpoints of a run, and among all
checkpoints of a seed. Labels of the split that is chosen on serve as truth alone.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `python benchmarks/selection.py`

from adapt.checkpoint.run_folder import RunFolder  # noqa: E402 - needs the path above
from adapt.checkpoint.saved import step_of  # noqa: E402
from adapt.evaluation.label_free import LABEL_FREE_SCORES  # noqa: E402
from adapt.places import find_place  # noqa: E402
from adapt.report.history import VALIDATION  # noqa: E402
from adapt.report.run_record import read_run  # noqa: E402
from adapt.spec.job_spec import JobSpec  # noqa: E402
from adapt.spec.loading import load_spec  # noqa: E402
from adapt.trainer.opening import open_run_folder  # noqa: E402
from adapt.trainer.score import rank_checkpoints  # noqa: E402
from benchmarks.methods import (  # noqa: E402
    Task,
    methods_of,
    open_task,
    parser_of,
    turns,
    write_block,
)
from benchmarks.methods_data import TASKS  # noqa: E402
from benchmarks.selection_table import AGREEMENT, Point, bars, table  # noqa: E402
from storage.uris import join  # noqa: E402

DOCS = ROOT / "docs"
PAGE = DOCS / "choosing_without_labels.md"
WITH_LABELS = ("start", "oracle")
"""Jobs that are no candidates: what others go on from, and what trains on the target's labels."""


def train_missing(task: Task, methods: list[str], seeds: list[int], jobs: int) -> None:
    """Train what is not there yet."""
    with ThreadPoolExecutor(jobs) as pool:
        for turn in turns(task, methods, seeds):
            missing = [pair for pair in turn if not ended(task, *pair)]
            for _ in pool.map(lambda pair: task.train(*pair), missing):
                pass


def ended(task: Task, method: str, seed: int) -> bool:
    """The run has a checkpoint of its last step."""
    job = job_of(task, method, seed)
    names = folder_of(job).names()
    return bool(names) and step_of(names[-1]) >= job.train.steps


def job_of(task: Task, method: str, seed: int) -> JobSpec:
    """The spec of a run as it was trained."""
    return load_spec(task.specs / f"{method}.yaml", task.overrides(method, seed), os.environ)


def folder_of(job: JobSpec) -> RunFolder:
    """The run's folder, in the task's bucket or below the task's folder."""
    return open_run_folder(job, find_place(os.environ))


def points_of(task: Task, method: str, seed: int) -> list[tuple[Point, str]]:
    """The checkpoints of a run that were evaluated, each with its URI."""
    job = job_of(task, method, seed)
    folder = folder_of(job)
    rows = read_run(folder.store).history.curves[VALIDATION].rows
    found = {}
    for name in folder.names():
        step = step_of(name)
        miou = rows.get(step, {}).get("miou")
        if miou is not None:
            scores = {one: rows[step].get(one) for one in LABEL_FREE_SCORES}
            point = Point(f"{method}-{seed}", method, seed, step, miou, scores, {})
            found[step] = (point, join(folder.uri, name))
    missing = sorted(rows.keys() - found.keys())
    if missing:
        print(f"{method}-{seed}: no checkpoint of steps {missing}, left out", flush=True)
    return list(found.values())


def with_agreement(task: Task, runs: list[list[tuple[Point, str]]]) -> list[Point]:
    """The points of one seed, with their agreement with the ensemble of their run, and of all."""
    everything = [pair for run in runs for pair in run]
    among = agreement(task, everything)
    points = []
    for run in runs:
        within = agreement(task, run)
        points += [
            one._replace(
                scores={**one.scores, AGREEMENT: within.get(uri)}, among={AGREEMENT: among.get(uri)}
            )
            for one, uri in run
        ]
    return points


def agreement(task: Task, candidates: list[tuple[Point, str]]) -> dict[str, float]:
    """mIoU with the candidates' mean prediction, by URI; none for a single candidate."""
    if len(candidates) < 2:
        return {}
    job = job_of(task, candidates[0][0].method, candidates[0][0].seed)
    return dict(rank_checkpoints(job, find_place(os.environ), [uri for _, uri in candidates]))


def measure(task: Task, methods: list[str], seeds: list[int]) -> list[Point]:
    """All checkpoints of the task's runs with their scores."""
    points = []
    for seed in seeds:
        runs = [points_of(task, method, seed) for method in methods]
        points += with_agreement(task, [run for run in runs if run])
        print(f"seed {seed}: {sum(map(len, runs))} checkpoints of {len(runs)} runs", flush=True)
    return points


def results_of(name: str) -> Path:
    """The points of a task that were measured."""
    return DOCS / "results" / f"selection_{name}.json"


def write(name: str) -> None:
    """Write a task's table and picture into docs, from its points."""
    points = [Point(**one) for one in json.loads(results_of(name).read_text())]
    text, picture = table(points), f"pictures/selection_{name}.svg"
    (DOCS / picture).write_text(bars(points))
    shown = f"![Rank correlation and points lost of each score]({picture})"
    write_block(PAGE, name, f"{text}\n{shown}\n")
    print(f"{name}\n{text}")


def main() -> None:
    """Measure a task; write table and picture into docs/choosing_without_labels.md."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--tables", action="store_true", help="measure nothing, write tables and pictures anew"
    )
    given = parser.parse_args()
    if given.tables:
        for name in TASKS:
            if results_of(name).exists():
                write(name)
        return
    run(given)


def run(given: argparse.Namespace) -> None:
    """Train what is missing, measure, write."""
    methods = [name for name in methods_of(given) if name not in WITH_LABELS]
    with open_task(given.task, given.out, given.sets, for_selection=True) as task:
        TASKS[given.task](task, given.raw.resolve())
        os.environ.update(task.environment)
        os.chdir(task.out)
        train_missing(task, methods, given.seeds, given.jobs)
        points = measure(task, methods, given.seeds)
    text = json.dumps([point._asdict() for point in points], indent=1)
    results_of(given.task).write_text(text + "\n")
    write(given.task)


if __name__ == "__main__":
    main()
