"""The embedded default: two renderings of a small town, a network that learns one and adapts to the
other.

Renders the towns in the official GTA5 and Cityscapes layouts, packs them into a local store, trains
a common start on the game's images, and continues from it twice for equally many steps: on the
game's images alone, and with an adaptation method that also gets the camera's images, without their
labels. Both are scored on other camera images. The jobs are ordinary job specs,
job_specs/toy_town; everything here can be repeated with `pack`, `run` and `evaluate`.
"""

import os
import shlex
import shutil
import sysconfig
from pathlib import Path
from threading import Event
from typing import NamedTuple

from rich.console import Console

from adapt.cli.live import LiveLine, progress_bar
from adapt.cli.tables import compare_table
from adapt.data.toy_town import town as toy_town
from adapt.data.writing.pack import pack
from adapt.errors import JobError, known_names
from adapt.evaluation.evaluate import Evaluation
from adapt.evaluation.pictures import comparison_sheet
from adapt.models.weights import WEIGHTS
from adapt.places import Place
from adapt.spec.job_spec import JobSpec, load_spec
from adapt.spec.shipped import shipped_dir
from adapt.tracking.mlflow_database import embedded_tracking_uri
from adapt.trainer.opening import open_run_folder
from adapt.trainer.run import run_job
from adapt.trainer.score import evaluate_checkpoint
from storage.store import Store
from storage.stores import Stores

SPECS = shipped_dir() / "toy_town"
SIZE_HW = (96, 192)
GAME_IMAGES = 400
GAP = 1.4
"""Distance of the camera's look from the game's; networks of the game alone fail there."""
CAMERA_IMAGES = {"train": 400, "val": 40, "test": 80}


class DemoResult(NamedTuple):
    """Scores of both jobs on the camera's test split, and the picture of their predictions."""

    source_only: Evaluation
    adapted: Evaluation
    picture_path: Path

    @property
    def gain(self) -> float:
        """MIoU that adaptation added, in [-1, 1]."""
        return self.adapted.score.metrics()["miou"] - self.source_only.score.metrics()["miou"]


def toy_jobs() -> set[str]:
    """Methods that have a job spec of the toy town."""
    return {path.stem for path in SPECS.glob("*.yaml")} - {"start", "source_only"}


def run_demo(
    out: Path,
    seed: int,
    method: str,
    place: Place,
    console: Console,
    stop: Event,
    fresh: bool = False,
) -> DemoResult:
    """Make everything under `out`; an earlier call that was stopped is resumed.

    Raises as `run_job` does.
    """
    if method not in toy_jobs():
        raise JobError(
            f"--method: expected a job of the toy town, {known_names(method, toy_jobs())}"
        )
    make_towns(out, seed, console)
    start = demo_job("start", out, seed)
    train(start, place, console, stop, fresh, "a common start, on the game's images")
    _copy_last_weights(start, place, out / "start.safetensors")
    evaluations = {}
    for name, text in (
        ("source_only", "continuing with the game's images alone"),
        (method, f"continuing with {method}, which also gets the camera's images without labels"),
    ):
        job = demo_job(name, out, seed)
        train(job, place, console, stop, fresh, text)
        evaluations[name] = score(job, place)
    result = DemoResult(evaluations["source_only"], evaluations[method], out / "result.png")
    _say(result, method, demo_job("start", out, seed), out, console)
    return result


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


def demo_job(name: str, out: Path, seed: int) -> JobSpec:
    """A job of job_specs/toy_town with its folders under `out`."""
    path = SPECS / f"{name}.yaml"
    job = load_spec(path)
    overrides = [f"{key}={out / Path(uri).relative_to('demo')}" for key, uri in job.uris().items()]
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
    with progress_bar(f"packing {dataset} {split}", console) as advance:
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
    ious = {"source only": result.source_only.score.iou, method: result.adapted.score.iou}
    console.print(compare_table(ious, names, "camera images that neither was trained on, IoU in %"))
    sheet = comparison_sheet(
        {"source only": result.source_only.pictures, method: result.adapted.pictures}, job.classes
    )
    sheet.save(result.picture_path)
    points = 100 * result.gain
    if points > 0:
        console.print(
            f"[green]{method} gains {points:.1f} points of mIoU[/green] in equally many steps"
        )
    else:
        console.print(f"[yellow]{method} did not gain here: {points:.1f} points of mIoU[/yellow]")
    console.print(f"picture: {result.picture_path}")
    console.print(f"MLflow:  {_mlflow_command(out)}", markup=False, highlight=False, soft_wrap=True)


def _mlflow_command(out: Path) -> str:
    """The command that opens the demo's MLflow, as it can be typed here."""
    beside = Path(sysconfig.get_path("scripts")) / "mlflow"
    program = str(beside) if beside.exists() and not shutil.which("mlflow") else "mlflow"
    return shlex.join([program, "ui", "--backend-store-uri", embedded_tracking_uri(out / "runs")])
