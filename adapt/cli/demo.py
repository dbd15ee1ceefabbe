"""The embedded default: two renderings of a small town, a network that learns one and adapts to the
other.

Packs both into a local store, trains a common start on the game's images, and continues from it
three times for equally many steps: on the game's images alone, with the camera's images for batch
norm's statistics alone (the control: a part of a gain may be due to them), and with an adaptation
method. The oracle, trained on the camera's labels, shows what is possible. The last checkpoint of
each is scored on other camera images. The jobs are ordinary job specs, job_specs/toy_town.
"""

import os
import shlex
import shutil
import sysconfig
from pathlib import Path
from threading import Event
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from adapt.cli.live import LiveLine, progress_bar
from adapt.cli.tables import compare_table, percent
from adapt.data.toy_town import town as toy_town
from adapt.data.writing.pack import pack
from adapt.errors import JobError, known_names
from adapt.evaluation.evaluate import Evaluation
from adapt.evaluation.pictures import comparison_sheet
from adapt.models.weights import WEIGHTS
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import load_spec
from adapt.spec.shipped import shipped_dir
from adapt.tracking.mlflow_database import embedded_tracking_uri
from adapt.tracking.mlflow_run import page
from adapt.trainer.opening import open_run_folder
from adapt.trainer.run import run_job
from adapt.trainer.score import evaluate_checkpoint
from storage.store import Store
from storage.stores import Stores

SPECS = shipped_dir() / "toy_town"
SIZE_HW = (96, 192)
GAME_IMAGES = 400
GAP = 0.8
"""Distance of the camera's look from the game's; networks of the game alone fail there."""
SOURCE_ONLY, CONTROL, ORACLE = "source only", "batch statistics", "oracle"
"""Columns of the table beside the method's."""
CONTROL_JOB = "statistics"
"""The control: a job in which the target changes no weight by a loss."""
CAMERA_IMAGES = {"train": 400, "val": 40, "test": 80}


class DemoResult(NamedTuple):
    """Scores of the jobs on the camera's test split, by the names of the table's columns: source
    only, the control, the method, the oracle. Also the last step of each, and the picture of their
    predictions."""

    evaluations: dict[str, Evaluation]
    method: str
    steps: dict[str, int]
    picture_path: Path

    @property
    def gain(self) -> float:
        """Points of mIoU that the method added to source only, as the table shows them."""
        return self.gain_of(self.method)

    @property
    def control_gain(self) -> float:
        """Points of mIoU that batch statistics of the target alone added."""
        return self.gain_of(CONTROL)

    @property
    def closed(self) -> int:
        """The method's gain in percent of the oracle's; 0 where the oracle gains nothing."""
        possible = self.gain_of(ORACLE)
        return round(100 * self.gain / possible) if possible > 0 else 0

    def gain_of(self, name: str) -> float:
        """Points of mIoU that a job has more than source only."""
        means = (self.evaluations[one].score.metrics()["miou"] for one in (name, SOURCE_ONLY))
        adapted, reference = map(percent, means)
        return round(adapted - reference, 1)


def toy_jobs() -> set[str]:
    """Methods that have a job spec of the toy town."""
    return {path.stem for path in SPECS.glob("*.yaml")} - {"start", "source_only", "oracle"}


def run_demo(
    out: Path,
    seed: int,
    method: str,
    place: Place,
    console: Console,
    stop: Event,
    fresh: bool = False,
    steps: int | None = None,
) -> DemoResult:
    """Make everything under `out`; an earlier call that was stopped is resumed.

    `steps` replaces the steps of every job.

    Raises as `run_job` does.
    """
    if method not in toy_jobs():
        raise JobError(
            f"--method: expected a job of the toy town, {known_names(method, toy_jobs())}"
        )
    make_towns(out, seed, console)
    start = demo_job("start", out, seed, steps)
    train(start, place, console, stop, fresh, "a common start, on the game's images")
    _copy_last_weights(start, place, out / "start.safetensors")
    evaluations, lasts = {}, {}
    for name, (column, text) in _scored(method).items():
        job = demo_job(name, out, seed, steps)
        train(job, place, console, stop, fresh, text)
        evaluations[column], lasts[column] = score(job, place), job.train.steps
    column, _ = _scored(method)[method]
    result = DemoResult(evaluations, column, lasts, out / "result.png")
    _say(result, method, start, out, console)
    return result


def _scored(method: str) -> dict[str, tuple[str, str]]:
    """The jobs that are compared: the column of each in the table, and what it does. All but the
    oracle continue from the start."""
    jobs = {
        "source_only": (SOURCE_ONLY, "continuing with the game's images alone"),
        CONTROL_JOB: (
            CONTROL,
            "the control: the same, with the camera's images for batch norm's statistics alone",
        ),
    }
    adapting = f"continuing with {method}, which also gets the camera's images without labels"
    jobs |= {} if method in jobs else {method: (method, adapting)}
    return jobs | {"oracle": (ORACLE, "the oracle: trained on the camera's images with labels")}


def make_towns(out: Path, seed: int, console: Console) -> None:
    """Render both towns and pack them under `out`; finished parts are kept."""
    workers = os.cpu_count() or 1
    game, camera = out / "raw" / "game", out / "raw" / "camera"
    if not (out / "packed" / "rendered").exists():
        with progress_bar("rendering the game", console) as advance:
            toy_town.write_gta5(
                game, GAME_IMAGES, seed, size_hw=SIZE_HW, workers=workers, on_progress=advance
            )
        with progress_bar("rendering the camera", console) as advance:
            toy_town.write_cityscapes(
                camera,
                CAMERA_IMAGES,
                seed,
                size_hw=SIZE_HW,
                gap=GAP,
                workers=workers,
                on_progress=advance,
            )
    stores = Stores()
    _pack("gta5", game, stores.open(str(out / "packed" / "game")), "train", console)
    for split in CAMERA_IMAGES:
        _pack("cityscapes", camera, stores.open(str(out / "packed" / "camera")), split, console)
    (out / "packed" / "rendered").touch()


def demo_job(name: str, out: Path, seed: int, steps: int | None = None) -> JobSpec:
    """A job of job_specs/toy_town with its folders under `out`."""
    path = SPECS / f"{name}.yaml"
    job = load_spec(path)
    overrides = [f"{key}={out / Path(uri).relative_to('demo')}" for key, uri in job.uris().items()]
    if steps is not None:
        overrides.append(f"train.steps={steps}")
    return load_spec(path, [*overrides, f"seed={seed}"])


def train(
    job: JobSpec, place: Place, console: Console, stop: Event, fresh: bool, text: str
) -> None:
    """Run a job with its live line."""
    console.rule(text)
    with LiveLine(console) as line:
        run_job(job, place, stop, line.show, fresh)


def score(job: JobSpec, place: Place) -> Evaluation:
    """Score a finished job's last checkpoint on the camera's test split."""
    folder = open_run_folder(job, place)
    assert job.validation is not None
    test = job.validation.model_copy(update={"split": "test"})
    last = f"{folder.store.uri}/{folder.names()[-1]}"
    return evaluate_checkpoint(job.model_copy(update={"validation": test}), place, last)


def _copy_last_weights(job: JobSpec, place: Place, path: Path) -> None:
    folder = open_run_folder(job, place)
    folder.store.get_file(f"{folder.names()[-1]}/{WEIGHTS}", path)


def _pack(dataset: str, raw_dir: Path, store: Store, split: str, console: Console) -> None:
    with progress_bar(f"packing {raw_dir.name} {split}", console) as advance:
        pack(
            dataset,
            raw_dir,
            store,
            split,
            size_hw=SIZE_HW,
            on_progress=lambda progress: advance(progress.done, progress.total),
        )


def _say(result: DemoResult, method: str, job: JobSpec, out: Path, console: Console) -> None:
    names = job.classes.names
    ious = {name: evaluation.score.iou for name, evaluation in result.evaluations.items()}
    console.print(compare_table(ious, names, "camera images that no job saw, IoU in %"))
    console.print(_gains_table(result))
    pictures = {name: evaluation.pictures for name, evaluation in result.evaluations.items()}
    comparison_sheet(pictures, job.classes).save(result.picture_path)
    for line in _verdict(result, method):
        console.print(line)
    console.print(f"picture: {result.picture_path}")
    for line in (_mlflow_command(out), f"then open {_mlflow_page(out, job.tracking.experiment)}"):
        console.print(f"MLflow:  {line}", markup=False, highlight=False, soft_wrap=True)


def _gains_table(result: DemoResult) -> Table:
    """A row a job: its mIoU, and its differences to source only and to the control."""
    table = Table("job", "checkpoint", "mIoU", "gain", "over control")
    for name, evaluation in result.evaluations.items():
        miou = percent(evaluation.score.metrics()["miou"])
        gain = result.gain_of(name)
        cells = [
            "" if name == SOURCE_ONLY else f"{gain:+.1f}",
            "" if name in (SOURCE_ONLY, CONTROL) else f"{gain - result.control_gain:+.1f}",
        ]
        shown = f"{name} (control)" if name == CONTROL else name
        table.add_row(shown, f"last, step {result.steps[name]}", f"{miou:.1f}", *cells)
    return table


def _verdict(result: DemoResult, method: str) -> list[str]:
    """The method's gain, and how much of it the control has without the method."""
    gain, control = result.gain, result.control_gain
    lines = [
        f"[green]{method} gains {gain:.1f} points of mIoU over {SOURCE_ONLY}[/green], in equally "
        f"many steps: {result.closed} % of what the camera's labels would bring"
    ]
    if gain <= 0:
        lines = [f"[yellow]{method} did not gain here: {gain:.1f} points of mIoU[/yellow]"]
    if method != CONTROL_JOB:
        lines.append(
            f"{CONTROL}, the control, {control:+.1f}: it also gets the camera's images, but for "
            f"batch norm's statistics alone; {method}'s losses add {gain - control:+.1f}"
        )
    return lines


def _mlflow_page(out: Path, experiment: str) -> str:
    """The address of the experiment under that command."""
    from mlflow import MlflowClient

    uri, server = embedded_tracking_uri(out / "runs"), "http://127.0.0.1:5000/"
    if not (out / "runs" / "mlflow.db").exists():  # MLFLOW_TRACKING_URI names a server
        return server
    found = MlflowClient(uri).get_experiment_by_name(experiment)
    return server if found is None else f"{server}{page(found.experiment_id)}"


def _mlflow_command(out: Path) -> str:
    """The command that opens the demo's MLflow, as it can be typed here."""
    beside = Path(sysconfig.get_path("scripts")) / "mlflow"
    program = str(beside) if beside.exists() and not shutil.which("mlflow") else "mlflow"
    return shlex.join([program, "ui", "--backend-store-uri", embedded_tracking_uri(out / "runs")])
