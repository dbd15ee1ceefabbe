"""The commands.

Each is a few lines over a function elsewhere; messages go to stderr, `--json` answers to stdout.
"""

import json
import logging
import os
import signal
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from adapt.data.label_maps import LabelSpace
from adapt.errors import JobError
from adapt.places import Place, find_place
from adapt.spec import JobSpec, json_schema, load_spec
from storage.store import Stores

if TYPE_CHECKING:
    from adapt.trainer import Outcome

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train segmentation networks for streets nobody labelled. One job spec, any platform.",
)
console = Console(stderr=True)

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="Job spec, a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, as in train.steps=500."),
]
StoresFrom = Annotated[
    Path | None, typer.Option("--spec", help="Job spec whose `stores:` say how to reach the URI.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]


@app.callback()
def _start(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
) -> None:
    level = logging.DEBUG if verbose else logging.INFO
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, markup=False)
    else:  # where logs are collected, a message is a line
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    for package in ("adapt", "storage"):
        logging.getLogger(package).setLevel(level)


@app.command()
def run(
    spec: SpecPath,
    overrides: Overrides = None,
    fresh: Annotated[
        bool, typer.Option(help="Delete the run's checkpoints and start over.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train: from the newest checkpoint of this run where there is one, else from the start."""
    from adapt.job import run_job
    from adapt.live import LiveLine

    job, place = load_spec(spec, overrides or ()), _place()
    with LiveLine(console, quiet=not place.leader) as line:
        outcome = run_job(job, place, stop_on_signals(place.leader), line.show, fresh)
    if place.leader:
        _say_outcome(job, place, outcome, as_json)


@app.command()
def check(spec: SpecPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say whether a job spec is valid, and what it comes to.

    Touches no data and no GPU.
    """
    job, place = load_spec(spec, overrides or ()), _place()
    job.check_environment(place.environment)
    job.check_ranks(place.num_ranks)
    if as_json:
        typer.echo(json.dumps(job.resolved()))
        return
    console.print(f"[green]valid[/green]: run {job.name!r}")
    typer.echo(job.to_yaml(), nl=False)


@app.command()
def pack(
    dataset: Annotated[
        str, typer.Argument(help="Layout of RAW_DIR: gta5, cityscapes, synthia, camvid or folders.")
    ],
    raw_dir: Annotated[
        Path, typer.Argument(metavar="RAW_DIR", help="The dataset as it was downloaded.")
    ],
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="Where to: a folder, s3://..., obs://...")
    ],
    split: Annotated[str, typer.Option(help="Which split to pack.")] = "train",
    size_hw: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Resize to this size, as the papers do."),
    ] = None,
    original: Annotated[
        bool, typer.Option("--original", help="Keep the files' own bytes and size.")
    ] = False,
    small: Annotated[
        bool,
        typer.Option("--small", help="Resize and store as JPEG 95: lossy, a fifth of the size."),
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="What label spaces call it, for layout `folders`.")
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Pack the images alone.")
    ] = False,
    skip: Annotated[
        list[str] | None, typer.Option(help="A sample to leave out, by key; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Start of the shuffle over shards.")] = 0,
    shard_mb: Annotated[float, typer.Option(help="Size of a shard in 10^6 bytes.")] = 64,
    workers: Annotated[
        int | None, typer.Option(help="Shards packed side by side; default: the cores.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another packing.")
    ] = False,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Write a raw dataset as shards, straight into any store.

    Run it again to go on after a stop.
    """
    from adapt.data.packing import pack as pack_split
    from adapt.live import progress_bar

    if original and (small or size_hw):
        raise JobError("--original: keeps the files as they are; leave out --small and --size-hw")
    profile: Any = "original" if original else "small" if small else "exact"
    with progress_bar(f"packing {dataset} {split}", console) as advance:
        manifest = pack_split(
            dataset,
            raw_dir,
            _stores(spec).open(uri),
            split,
            profile=profile,
            size_hw=size_hw,
            name=name,
            unlabelled=unlabelled,
            seed=seed,
            shard_bytes=int(shard_mb * 1e6),
            workers=workers,
            skip=tuple(skip or ()),
            overwrite=overwrite,
            on_progress=lambda progress: advance(progress.done, progress.total),
        )
    size_mb = sum(shard.size_bytes for shard in manifest.shards) / 1e6
    console.print(
        f"{uri}/{split}: {manifest.num_samples} samples in {len(manifest.shards)} shards, "
        f"{size_mb:.1f} MB",
        soft_wrap=True,
    )
    if as_json:
        typer.echo(
            json.dumps({"dataset_id": manifest.dataset_id, **manifest.model_dump(mode="json")})
        )


@app.command()
def inspect(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A packed dataset.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "train",
    classes: Annotated[
        str | None, typer.Option(help="A label space, or a job spec, for class shares.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet to this PNG.")] = None,
    count: Annotated[int, typer.Option(help="Samples on the contact sheet.")] = 12,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Show counts, sizes and class shares of a packed split, and a contact sheet."""
    from adapt.data.inspect import contact_sheet
    from adapt.data.inspect import inspect as inspect_split
    from adapt.report import inspection_table

    store, space = _stores(spec).open(uri), _label_space(classes)
    found = inspect_split(store, split, space)
    if as_json:
        typer.echo(
            json.dumps({**asdict(found), "manifest": found.manifest.model_dump(mode="json")})
        )
    else:
        Console().print(inspection_table(f"{uri}/{split}", found))
    if sheet is not None:
        contact_sheet(store, split, space, count=count).save(sheet)
        console.print(f"contact sheet: {sheet}", soft_wrap=True)


@app.command()
def evaluate(
    spec: SpecPath,
    checkpoint: Annotated[
        str, typer.Option(help="weights.safetensors or the folder that holds it: a path or a URI.")
    ],
    overrides: Overrides = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Write pictures of predictions to this PNG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on the spec's validation split; `--set validation.split=test` for another
    one."""
    from adapt.job import evaluate_checkpoint
    from adapt.report import evaluation_sheet, per_class_table

    job = load_spec(spec, overrides or ())
    evaluation = evaluate_checkpoint(job, _place(), checkpoint)
    score, names = evaluation.score, job.classes.names
    if as_json:
        typer.echo(json.dumps(score.record(names)))
    else:
        Console().print(per_class_table(score.iou, names, f"{job.name}: IoU in %"))
    if pictures is not None:
        evaluation_sheet(evaluation.pictures, job.classes).save(pictures)
        console.print(f"pictures: {pictures}", soft_wrap=True)


@app.command()
def download_best(
    run: Annotated[
        str, typer.Argument(metavar="RUN|EXPERIMENT", help="MLflow run id, run name or experiment.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow server; default: MLFLOW_TRACKING_URI, else ./runs/mlflow.db."),
    ] = None,
    metric: Annotated[str, typer.Option(help="What to compare an experiment's runs by.")] = "miou",
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the best checkpoint of a run, or of an experiment's best run, and check it."""
    from adapt.download import download_best as fetch
    from adapt.job import embedded_tracking_uri

    place = _place()
    uri = tracking_uri or place.tracking_uri or embedded_tracking_uri(Path("runs"))
    found = fetch(run, out, uri, place, metric, _stores(spec) if spec else None)
    if as_json:
        typer.echo(json.dumps(found._asdict(), default=str))
        return
    console.print(f"run {found.run_name} ({found.run_id}), {metric} {found.score:.2%}")
    typer.echo(str(found.weights_path))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Start of all random numbers.")] = 1,
    method: Annotated[str, typer.Option(help="Adaptation method to show.")] = "advent",
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier demo's runs.")] = False,
) -> None:
    """Render two small towns, train on one, adapt to the other, and show what it brought."""
    from adapt.demo import run_demo

    run_demo(out, seed, method, _place(), console, stop_on_signals(), fresh)


@app.command()
def schema() -> None:
    """Print the JSON schema of job specs, for editors."""
    typer.echo(json_schema(), nl=False)


def stop_on_signals(tell: bool = True) -> Event:
    """An event that SIGTERM and SIGINT set; the first one is told."""
    stop = Event()

    def ask(number: int, _frame: object) -> None:
        if stop.is_set():
            return
        stop.set()
        if not tell:
            return
        with suppress(RuntimeError):  # the signal may come inside a write to the same stream
            name = signal.Signals(number).name
            console.print(f"{name}: saving at the next step, then stopping (exit code 75)")

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return stop


def say_error(message: str, kind: str) -> None:
    """One error, where a person sees it."""
    console.print(f"[bold red]{kind}[/bold red]", end=" ")
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def _place() -> Place:
    return find_place(os.environ)


def _stores(spec: Path | None) -> Stores:
    configs = {} if spec is None else load_spec(spec).stores
    return Stores(configs, _place().environment)


def _label_space(name: str | None) -> LabelSpace | None:
    if name is None:
        return None
    is_spec = Path(name).suffix in (".yaml", ".yml")
    return load_spec(Path(name)).classes if is_spec else LabelSpace.named(name)


def _say_outcome(job: JobSpec, place: Place, outcome: "Outcome", as_json: bool) -> None:
    from adapt.job import tracking_uri

    best = None if outcome.best is None else outcome.best._asdict()
    answer = {"run": job.name, "step": outcome.step, "best": best, "figures": outcome.figures}
    if as_json:
        typer.echo(json.dumps({**answer, "tracking_uri": tracking_uri(job, place)}))
        return
    console.print(f"[green]done[/green]: {job.name}, {outcome.step} steps")
    if outcome.best is not None:
        score = f"{job.evaluate.select_by} {outcome.best.score:.2%}"
        console.print(f"best checkpoint: {outcome.best.name}, {score}")
        where = tracking_uri(job, place)
        command = f"python entrypoint.py download-best {job.name} --out best --tracking-uri {where}"
        console.print(f"fetch it: {command}", highlight=False, soft_wrap=True)
