"""Whether labels by suggestion beat random ones: the same job with equally many labelled target
images, chosen by `segadapt suggest` and at random, the table of docs/suggest.md.

    python benchmarks/suggest.py toy_town --set source.uri=demo/packed/game \\
        --set target.uri=demo/packed/camera --set validation.uri=demo/packed/camera
    python benchmarks/suggest.py town_to_camvid --count 12 --set ...   # its data in the same way

A task is a folder of job_specs with `start.yaml` and `dacs.yaml`. The start is trained once. Then,
for each seed, its network chooses `--count` images either way (the choice by score does not depend
on the seed, that at random does), and the source's job goes on from the start with them as
`target.labelled_keys`; `none` goes on without. The last checkpoint is scored on `--split`.
"""

import argparse
import os
import sys
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `python benchmarks/suggest.py`

from adapt.models.weights import WEIGHTS  # noqa: E402 - needs the path above
from adapt.places import Place, find_place  # noqa: E402
from adapt.spec.job_spec import JobSpec  # noqa: E402
from adapt.spec.loading import load_spec, parse_spec  # noqa: E402
from adapt.suggest.suggest import suggest  # noqa: E402
from adapt.trainer.opening import open_run_folder  # noqa: E402
from adapt.trainer.run import run_job  # noqa: E402
from adapt.trainer.score import evaluate_checkpoint  # noqa: E402
from storage.uris import join  # noqa: E402

WAYS = ("none", "random", "score")


def trained(job: JobSpec, place: Place) -> str:
    """Train a job; the URI of its last checkpoint's weights."""
    run_job(job, place, Event(), lambda _: None, True)
    folder = open_run_folder(job, place)
    return join(folder.uri, folder.names()[-1], WEIGHTS)


def job_with(base: JobSpec, changes: dict[str, Any]) -> JobSpec:
    """A job with other sections and keys, given by name and by `section.key`."""
    values = base.resolved()
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if name:
            values[section][name] = value
        else:
            values[section] = value
    return parse_spec(values, base.name)


def scored(job: JobSpec, weights: str, split: str, place: Place) -> float:
    """mIoU on another split of the validation dataset."""
    other = job_with(job, {"validation.split": split})
    return evaluate_checkpoint(other, place, weights).score.metrics()["miou"]


def run_task(given: argparse.Namespace, out: Path, place: Place) -> dict[str, list[float]]:
    """mIoU by way, one a seed."""
    specs = ROOT / "job_specs" / given.task
    more = ["tracking.uri=" + str(out / "mlflow.db"), f"checkpoint.uri={out / 'runs'}", *given.set]
    short = [f"train.steps={given.steps}", f"evaluate.every_steps={given.steps}"]
    with_target = [one for one in (*more, *short) if one]
    without = [one for one in with_target if not one.startswith("target.")]
    start = load_spec(specs / "start.yaml", [*without, f"seed={given.seeds[0]}"])
    weights = trained(start, place)
    base = load_spec(specs / "dacs.yaml", [*with_target, f"model.start_uri={weights}"])
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in given.seeds:
        for way in WAYS:
            name = f"{way}-{seed}"
            changes: dict[str, Any] = {"name": name, "seed": seed}
            changes["method"] = {"name": "source_only"}
            if way != "none":
                folder = out / f"to_label-{name}"
                chosen = suggest(base, place, weights, folder, count=given.count, by=way, seed=seed)
                changes["target.labelled_keys"] = [one.key for one in chosen.images]
            job = job_with(base, changes)
            found[way].append(scored(job, trained(job, place), given.split, place))
            print(f"{name}: {found[way][-1]:.2%}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, list[float]]) -> str:
    """Means, deviations, and the gain over random, paired by seed."""
    lines = ["| labels | mIoU | against random | seeds |", "| --- | ---: | ---: | :-- |"]
    for way, values in found.items():
        gains = 100 * (np.array(values) - np.array(found["random"]))
        gain = (
            ""
            if way == "random"
            else f"{gains.mean():+.1f} ({gains.min():+.1f} to {gains.max():+.1f})"
        )
        each = ", ".join(f"{100 * value:.1f}" for value in values)
        mean = f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=len(values) > 1):.1f}"
        lines.append(f"| {way} | {mean} | {gain} | {each} |")
    return "\n".join(lines)


def main() -> None:
    """Run a task and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", help="a folder of job_specs")
    parser.add_argument("--count", type=int, default=8, help="labelled images")
    parser.add_argument("--steps", type=int, default=120, help="of the start and of each job")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--split", default="test", help="to score on")
    parser.add_argument("--out", type=Path, default=Path("suggested"), help="an empty folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print(table(run_task(given, given.out.resolve(), find_place(os.environ))))


if __name__ == "__main__":
    main()
