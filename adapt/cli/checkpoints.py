"""Commands about checkpoints: evaluate, choose, download-best, import- and export-checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from adapt.cli.messages import print_answer
from adapt.cli.options import (
    AsJson,
    Base,
    Overrides,
    SpecPath,
    StoresFrom,
    console,
    job_and_place,
    label_space,
    place_here,
    stores_of,
)
from adapt.errors import keys_renamed
from storage.uris import without_password

if TYPE_CHECKING:
    from adapt.places import Place
    from adapt.spec.job_spec import JobSpec

commands = typer.Typer()

Checkpoints = Annotated[
    list[str],
    typer.Option(
        "--checkpoint",
        help="A file of weights, or the folder of weights.safetensors, or of a run (its best, else "
        "its last): a path or a URI; or models:/NAME@best. Several are an ensemble. Each network "
        "is that of the spec beside its weights (spec.yaml, or NAME.yaml beside NAME.pth), else of "
        "SPEC.",
    ),
]
Weights = Annotated[
    list[float] | None,
    typer.Option(
        "--weight",
        help="Weight of each checkpoint of an ensemble; only their ratios count; default: equal.",
    ),
]


@commands.command()
def evaluate(
    spec: SpecPath,
    checkpoints: Checkpoints,
    weights: Weights = None,
    base: Base = None,
    overrides: Overrides = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Write pictures of predictions to this PNG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint, or an ensemble of several, on the spec's validation split.

    `--set validation.split=test` for another one; the keys of `evaluate` add flipped views, scales
    and windows.
    """
    from adapt.cli.live import progress_bar
    from adapt.cli.tables import per_class_table, percent
    from adapt.evaluation.pictures import evaluation_sheet
    from adapt.trainer.score import evaluate_checkpoint

    job, place = job_and_place(spec, overrides)
    uris = _weights_of(checkpoints, job, place)
    with progress_bar("evaluating", console) as advance, keys_renamed("weights:", "--weight:"):
        evaluation = evaluate_checkpoint(job, place, uris, weights, advance, base)
    score, names = evaluation.score, job.classes.names
    if pictures is not None:
        evaluation_sheet(evaluation.pictures, job.classes).save(pictures)
        console.print(f"pictures: {pictures}", soft_wrap=True)
    if as_json:
        print_answer(score.record(names))
    elif score.labelled:
        Console().print(per_class_table(score.iou, names, f"{job.name}: IoU in %", score.subsets))
    else:
        for name, value in score.metrics().items():
            Console().print(f"{job.name}: {name} {percent(value):.2f} %, without labels")


def _weights_of(checkpoints: Sequence[str], job: "JobSpec", place: "Place") -> list[str]:
    """Checkpoints as URIs; those of registered models are asked for at the job's MLflow."""
    from adapt.trainer.opening import open_stores
    from adapt.trainer.tracked_run import tracking_uri
    from adapt.use.locate import REGISTERED, model_at

    def weights_of(name: str) -> str:
        if not name.startswith(REGISTERED):
            return name
        return model_at(name, open_stores(job, place), tracking_uri(job, place)).uri

    return [weights_of(name) for name in checkpoints]


@commands.command()
def choose(
    spec: SpecPath,
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint",
            help="A candidate, two or more: a file of weights, the folder of "
            "weights.safetensors, or models:/NAME/3. Default: the checkpoints that the run of SPEC "
            "keeps.",
        ),
    ] = None,
    base: Base = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Choose a checkpoint without labels: the one that agrees most with the mean of all candidates.

    The images are those of the spec's validation split; labels are not read. Candidates may be of
    several runs, methods and networks: each network is that of the spec beside its weights.
    """
    from adapt.cli.live import progress_bar
    from adapt.cli.tables import percent
    from adapt.trainer.score import rank_checkpoints

    job, place = job_and_place(spec, overrides)
    uris = _weights_of(checkpoints or (), job, place)
    with progress_bar("predicting", console) as advance:
        ranked = rank_checkpoints(job, place, uris, advance, base)
    if as_json:
        print_answer([{"checkpoint": uri, "agreement": value} for uri, value in ranked])
        return
    table = Table("checkpoint", "agreement (mIoU, %)")
    for uri, value in ranked:
        table.add_row(without_password(uri), f"{percent(value):.2f}")
    Console().print(table)
    console.print(f"chosen: {without_password(ranked[0][0])}", soft_wrap=True, highlight=False)


@commands.command()
def download_best(
    run: Annotated[
        str,
        typer.Argument(
            metavar="JOB|RUN|EXPERIMENT|MODEL",
            help="A submitted job, an MLflow run's id or name, an experiment, or a registered "
            "model: NAME, models:/NAME@ALIAS, models:/NAME/VERSION.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="MLflow server; default: the submitted job's, else MLFLOW_TRACKING_URI, else "
            "./runs/mlflow.db."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Metric that ranks an experiment's runs; default: the one by which they chose "
            "their checkpoints, miou where they differ."
        ),
    ] = None,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the best checkpoint of a run, or of an experiment's best run, and check it."""
    from adapt.evaluation.protocol import chosen_text
    from adapt.platforms.records import tracking_uri_of
    from adapt.tracking.mlflow_database import embedded_tracking_uri
    from adapt.trainer.download import download_best as fetch

    place = place_here()
    uri = tracking_uri or tracking_uri_of(run, place.environment) or place.tracking_uri
    uri = uri or embedded_tracking_uri(Path("runs"))
    console.print(f"asking MLflow at {without_password(uri)}", soft_wrap=True, highlight=False)
    found = fetch(run, out, uri, place, metric, stores_of(spec) if spec else None)
    if as_json:
        answer = found._asdict() | {"tracking_uri": without_password(uri)}
        print_answer(answer)
        return
    chosen = chosen_text(found.protocol, found.chosen_by, found.weights)
    console.print(
        f"run {found.run_name} ({found.run_id}), {found.metric} {found.score:.2%} ({chosen})"
    )
    print_answer(str(found.weights_path))


@commands.command()
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A .pth, .pt or .safetensors file.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    encoder: Annotated[
        str | None, typer.Option(help="Encoder of the weights, if the file does not name it.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Expected number of classes of a trained network.")
    ] = None,
    aspp_branches: Annotated[
        int | None,
        typer.Option(
            help="Branches that its head sums: 2 in AdaptSegNet's networks, 4 in ADVENT's."
        ),
    ] = None,
    pixels: Annotated[
        Literal["bgr_mean", "rgb_std"] | None,
        typer.Option(help="Input of ImageNet weights, if the names of keys do not show it."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|SPEC",
            help="Classes of a trained network, for `adapt.load`: a label space or a job spec's.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn weights of the papers' programs, torchvision or timm into ours, key by key.

    A file of torchvision's ImageNet weights is written by `import torch, torchvision;
    torch.save(torchvision.models.resnet50(weights="IMAGENET1K_V1").state_dict(), "resnet50.pth")`.
    """
    from adapt.models.official.import_report import report_table
    from adapt.models.official.importing import import_checkpoint as import_file

    report = import_file(
        file,
        out,
        encoder=encoder,
        num_classes=num_classes,
        aspp_branches=aspp_branches,
        pixels=pixels,
        classes=label_space(classes),
    )
    if as_json:
        print_answer(report.as_dict())
        return
    Console().print(report_table(report))


@commands.command()
def export_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(help="weights.safetensors, or the folder of a checkpoint.")
    ],
    out: Annotated[Path, typer.Option(help="The .pth file to write.")],
    style: Annotated[
        Literal["adaptsegnet", "advent"], typer.Option(help="Program that will read it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Write a network, and its discriminators where a checkpoint's folder has them, for the papers'
    programs."""
    from adapt.models.official.exporting import export_checkpoint as export_file

    report = export_file(checkpoint, out, style)
    if as_json:
        print_answer({"written": [str(path) for path in report.written]})
        return
    console.print(f"{report.keys} tensors under the names of {style}'s program")
    print_answer("\n".join(map(str, report.written)))
