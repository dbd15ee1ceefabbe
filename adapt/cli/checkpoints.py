"""Commands about checkpoints: evaluate, download-best."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adapt.cli.options import (
    AsJson,
    Overrides,
    SpecPath,
    StoresFrom,
    console,
    place_here,
    stores_of,
)
from adapt.spec import load_spec

commands = typer.Typer()


@commands.command()
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
    evaluation = evaluate_checkpoint(job, place_here(), checkpoint)
    score, names = evaluation.score, job.classes.names
    if as_json:
        typer.echo(json.dumps(score.record(names)))
    else:
        Console().print(per_class_table(score.iou, names, f"{job.name}: IoU in %"))
    if pictures is not None:
        evaluation_sheet(evaluation.pictures, job.classes).save(pictures)
        console.print(f"pictures: {pictures}", soft_wrap=True)


@commands.command()
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

    place = place_here()
    uri = tracking_uri or place.tracking_uri or embedded_tracking_uri(Path("runs"))
    found = fetch(run, out, uri, place, metric, stores_of(spec) if spec else None)
    if as_json:
        typer.echo(json.dumps(found._asdict(), default=str))
        return
    console.print(f"run {found.run_name} ({found.run_id}), {metric} {found.score:.2%}")
    typer.echo(str(found.weights_path))
