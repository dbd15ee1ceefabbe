"""Measures what adaptation brings: every method on the same small budget, one table, one picture.

    python benchmarks/methods.py                 # town -> CamVid, three seeds
    python benchmarks/methods.py airsim_to_camvid --seeds 1 2
    python benchmarks/methods.py --for-selection # what benchmarks/selection.py reads, too

A task is a folder of job_specs with `start.yaml`, trained on the source from ImageNet weights, from
which every other job goes on for equally many steps (but for an `oracle`, which trains on the
target's labels). Everything runs as a user would run it: packed, trained by `run`, figures in a
real MLflow server, data and checkpoints in a bucket of a real S3 server where the specs say s3://,
the checkpoint chosen on `val` and fetched by `download-best`, its file scored on `test` by
`evaluate`. Two jobs run side by side, one thread each. The table goes into docs/results.md.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `python benchmarks/methods.py`

from adapt.evaluation.label_free import LABEL_FREE_SCORES  # noqa: E402 - needs the path above
from adapt.evaluation.pictures import prediction_grid  # noqa: E402
from adapt.evaluation.protocol import chosen_text  # noqa: E402
from adapt.methods import METHODS, labelling_of  # noqa: E402
from adapt.platforms.local_stack import mlflow_server, seaweedfs  # noqa: E402
from adapt.spec.job_spec import JobSpec  # noqa: E402
from adapt.spec.loading import load_spec  # noqa: E402
from benchmarks.methods_data import TASKS  # noqa: E402
from benchmarks.methods_table import Row, table  # noqa: E402

CLI = [sys.executable, str(ROOT / "entrypoint.py")]


class Task:
    """The jobs of one folder of job_specs, run under one environment; `for_selection` keeps what
    benchmarks/selection.py reads."""

    def __init__(
        self,
        name: str,
        out: Path,
        environment: dict[str, str],
        sets: list[str],
        for_selection: bool = False,
    ) -> None:
        self.name, self.out, self.environment, self.sets = name, out, environment, sets
        self.for_selection = for_selection
        self.specs = ROOT / "job_specs" / name
        self.has_start = (self.specs / "start.yaml").exists()

    def call(self, *arguments: str) -> str:
        """Run one command of the CLI; its standard output."""
        done = subprocess.run(
            [*CLI, *arguments],
            cwd=self.out,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def run_before(self, method: str) -> str | None:
        """The job whose run makes this one's pseudo-labels, if it has a labelling stage."""
        section = labelling_of(load_spec(self.specs / f"{method}.yaml").method)
        return None if section is None else section.run

    def overrides(self, method: str, seed: int) -> list[str]:
        """What a job's spec is changed by."""
        spec = self.specs / f"{method}.yaml"
        sets = [f"name={method}-{seed}", f"seed={seed}", *self.sets]
        before = self.run_before(method)
        if before is not None:
            sets.append(f"method.pseudo_labels.run={before}-{seed}")
        if self.has_start and method not in ("start", "oracle"):
            sets.append(f"model.start_uri={self.out / f'start-{seed}' / 'weights.safetensors'}")
        if self.for_selection:
            sets += kept_for_selection(load_spec(spec, sets))
        return sets

    def train(self, method: str, seed: int) -> None:
        """Train, and fetch the best checkpoint where others go on from it."""
        spec, sets = str(self.specs / f"{method}.yaml"), self.overrides(method, seed)
        self.call("run", spec, "--json", *options(sets))
        if method == "start":
            self.fetch(method, seed)

    def fetch(self, method: str, seed: int) -> dict[str, str]:
        """Fetch the best checkpoint; how it was chosen."""
        name, spec = f"{method}-{seed}", str(self.specs / f"{method}.yaml")
        fetch = ("download-best", name, "--out", str(self.out / name), "--spec", spec, "--json")
        found: dict[str, str] = json.loads(self.call(*fetch))
        return found

    def job(self, method: str, seed: int) -> Row:
        """Train, fetch the best checkpoint, score it on the test split."""
        name, started_s = f"{method}-{seed}", perf_counter()
        self.train(method, seed)
        minutes = (perf_counter() - started_s) / 60
        best, folder = self.fetch(method, seed), self.out / name
        weights = str(folder / "weights.safetensors")
        sets = [*self.overrides(method, seed), "validation.split=test", "evaluate.pictures=3"]
        sheet = ("--json", "--pictures", str(folder / "test.png"))
        spec = str(self.specs / f"{method}.yaml")
        scored = self.call("evaluate", spec, "--checkpoint", weights, *options(sets), *sheet)
        chosen = chosen_text(best["protocol"], best["chosen_by"], best["weights"])
        row = Row(method, seed, json.loads(scored), minutes, chosen)
        print(f"{name}: test mIoU {row.test['miou']:.2%}, {minutes:.1f} min", flush=True)
        return row

    def predict(self, method: str, seed: int) -> Path:
        """Draw a finished job's predictions on the test split; the folder of their files."""
        folder = self.out / f"{method}-{seed}"
        spec = str(self.specs / f"{method}.yaml")
        weights, test = str(folder / "weights.safetensors"), ("--set", "validation.split=test")
        scored = load_spec(spec).validation
        assert scored is not None and scored.size_hw is not None
        size = ("--size-hw", *map(str, scored.size_hw))
        drawn = ("--out", str(folder), "--colours", *size)
        self.call("predict", spec, "--checkpoint", weights, *drawn, *test)
        return folder / "colours"


def options(sets: list[str]) -> list[str]:
    """Overrides as options of a command."""
    return [part for one in sets for part in ("--set", one)]


def kept_for_selection(job: JobSpec) -> list[str]:
    """Overrides by which a run logs all scores without labels, and keeps the checkpoint of every
    evaluation. A method without a teacher gets a moving average, which changes nothing else."""
    sets = [f"evaluate.log_label_free=[{', '.join(LABEL_FREE_SCORES)}]"]
    sets += ["checkpoint.keep=1000", f"checkpoint.every_steps={job.evaluate.every_steps}"]
    averaged = METHODS[job.method.name].has_teacher or job.train.ema is not None
    return sets if averaged else [*sets, "train.ema={alpha: 0.97}"]


@contextmanager
def open_task(name: str, out: Path, sets: list[str], for_selection: bool = False) -> Iterator[Task]:
    """A folder of job_specs with a real S3 server and a real MLflow server, below `out`."""
    out = (out / name).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with seaweedfs(out / "s3") as s3, mlflow_server(out / "mlflow") as tracking_uri:
        s3.make_bucket("segadapt")
        environment = os.environ | s3.environment() | {"OMP_NUM_THREADS": "1"}
        environment |= {
            "MLFLOW_TRACKING_URI": tracking_uri,
            "SEGADAPT_SCRATCH_DIR": str(out / "scratch"),
        }
        yield Task(name, out, environment, sets, for_selection)


def run_all(
    task: Task,
    methods: list[str],
    seeds: list[int],
    jobs: int,
    on_row: Callable[[Row], None] = lambda _row: None,
) -> list[Row]:
    """Starts first, where there are any, then everything that continues from them, last what needs
    another job's run.

    `on_row` gets each row as its job ends. A job that fails is told and costs the others nothing.
    """

    def attempt(pair: tuple[str, int]) -> Row | None:
        try:
            row = task.job(*pair)
        except SystemExit as failure:
            print(failure, file=sys.stderr, flush=True)
            return None
        on_row(row)
        return row

    with ThreadPoolExecutor(jobs) as pool:
        ended = [row for turn in turns(task, methods, seeds) for row in pool.map(attempt, turn)]
    return [row for row in ended if row is not None]


def turns(task: Task, methods: list[str], seeds: list[int]) -> list[list[tuple[str, int]]]:
    """Jobs, as method and seed, in the order in which they need one another."""
    starts = [("start", seed) for seed in seeds if task.has_start]
    pairs = [(method, seed) for seed in seeds for method in methods]
    later = [pair for pair in pairs if task.run_before(pair[0]) is not None]
    first = [pair for pair in pairs if pair not in later]
    return [starts, first, later]


def picture(task: Task, methods: list[str], seed: int) -> Image.Image:
    """One test image as every job sees it; the image itself stays with its owners."""
    seen = {}
    for method in methods:
        first, *_ = sorted(task.predict(method, seed).glob("*.png"))
        seen[method] = np.asarray(Image.open(first).convert("RGB"))
    classes = load_spec(task.specs / f"{methods[0]}.yaml").classes
    return prediction_grid(seen, classes.colours, classes.names)


def write_block(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- end NAME -->` in a page."""
    before, _, rest = page.read_text().partition(f"<!-- {name} -->\n")
    _, _, after = rest.partition(f"<!-- end {name} -->")
    page.write_text(f"{before}<!-- {name} -->\n{text}<!-- end {name} -->{after}")


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Rows as a file, complete at any moment."""
    text = json.dumps([row._asdict() for row in rows], indent=1)
    path.with_suffix(".part").write_text(text + "\n")
    path.with_suffix(".part").replace(path)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The options that say which runs a benchmark needs."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS, nargs="?", default="town_to_camvid")
    parser.add_argument(
        "--raw", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the raw data"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("bench"), help="folder for servers and downloads"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", help="default: every job spec of the task")
    parser.add_argument("--jobs", type=int, default=2, help="jobs side by side")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], help="override for every job"
    )
    return parser


def methods_of(given: argparse.Namespace) -> list[str]:
    """The jobs that are asked for, by default all of the task but the start."""
    specs = sorted(path.stem for path in (ROOT / "job_specs" / given.task).glob("*.yaml"))
    return given.methods or [name for name in specs if name != "start"]


def main() -> None:
    """Measure a task; write its table into docs/results.md, its rows into docs/results/."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "--for-selection", action="store_true", help="keep what benchmarks/selection.py reads"
    )
    given = parser.parse_args()
    methods = methods_of(given)
    with open_task(given.task, given.out, given.sets, given.for_selection) as task:
        TASKS[given.task](task, given.raw.resolve())
        docs, kept = ROOT / "docs", list[Row]()

        def keep(row: Row) -> None:
            kept.append(row)
            write_rows(docs / "results" / f"{given.task}.json", kept)

        rows = run_all(task, methods, given.seeds, given.jobs, keep)
        write_rows(docs / "results" / f"{given.task}.json", rows)
        write_block(docs / "results.md", given.task, table(rows))
        print(table(rows))
        written = picture(task, ["start", *methods], given.seeds[0])
        written.save(docs / "pictures" / f"{given.task}.png", optimize=True)


if __name__ == "__main__":
    main()
