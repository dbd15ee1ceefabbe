"""The arguments and options of `predict`, by their form: inputs, or the files of a validation
split."""

from typing import Annotated, Literal

import typer

from adapt.cli import completion

PLATFORM = "As jobs of a platform (--to)"
SERVER = "Files of a validation split (SPEC --checkpoint)"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A file of weights, the folder of a checkpoint or of a run, a path or a URI, or "
        "models:/NAME@best. With --checkpoint: a job spec.",
        autocompletion=completion.specs,
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT",
        help="Pictures, videos, folders, globs in quotes, packed splits, also of stores "
        "(s3://BUCKET/PHOTOS), or the index of a camera.",
    ),
]
Out = Annotated[
    str,
    typer.Option(metavar="DIR", help="Folder to write to, or a store's URI (s3://BUCKET/SEEN)."),
]
Write = Annotated[
    str,
    typer.Option(metavar="KINDS", help="One or more of overlay,colours,ids,probabilities,entropy."),
]
Ids = Annotated[
    str | None,
    typer.Option(
        metavar="DATASET", help="Dataset whose ids `--write ids` writes; default: train ids."
    ),
]
Split = Annotated[
    str | None, typer.Option(help="Split of packed inputs; default: the only one there.")
]
Part = Annotated[
    str, typer.Option("--slice", metavar="I/N", help="Predict only slice I of N, from 0/N on.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Predict again what is written already.")
]
Frames = Annotated[
    int | None,
    typer.Option(min=1, help="Frames after which a camera's recording ends; default: Ctrl-C."),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images of a pass; default: by their size and the device.")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads that read, and as many that write; default: by the cores."),
]
Device = Annotated[
    str | None, typer.Option(help="As cuda:1 or cpu; default: the GPU where there is one.")
]
Precision = Annotated[
    Literal["fp32", "bf16"], typer.Option(help="fp32, as scores are measured, or bf16.")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        help="MLflow server of models:/; default: MLFLOW_TRACKING_URI, else ./runs/mlflow.db."
    ),
]
Checkpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint",
        help="A file of weights, or the folder of weights.safetensors, as of `evaluate`; several "
        "are an ensemble.",
        rich_help_panel=SERVER,
    ),
]
Weights = Annotated[
    list[float] | None,
    typer.Option(
        "--weight",
        help="Weight of each checkpoint of an ensemble; only their ratios count; default: equal.",
        rich_help_panel=SERVER,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key of the spec: validation.split=test. With --to: of the profile.",
        rich_help_panel=SERVER,
    ),
]
SizeHW = Annotated[
    tuple[int, int] | None,
    typer.Option(
        metavar="H W",
        help="Size of the predictions; default: the image's own.",
        rich_help_panel=SERVER,
    ),
]
Colours = Annotated[
    bool,
    typer.Option(
        "--colours", help="Also write them in the classes' colours.", rich_help_panel=SERVER
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="PROFILE",
        help="Predict on a platform, as jobs with a slice each: a profile, a YAML file or a name "
        "that `specs` lists. The jobs get the other options as they are.",
        autocompletion=completion.profiles,
        rich_help_panel=PLATFORM,
    ),
]
Slices = Annotated[
    int | None,
    typer.Option(
        "--slices",
        min=1,
        max=1000,
        metavar="N",
        help="Number of slices; default: the one that --slice names.",
        rich_help_panel=PLATFORM,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the requests as YAML; send nothing.",
        rich_help_panel=PLATFORM,
    ),
]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Submit without confirmation.", rich_help_panel=PLATFORM),
]
OF_PLATFORM = ("slices", "dry_run", "yes")
"""Parameters of the form with --to alone."""
OF_SERVER = ("weights", "overrides", "size_hw", "colours")
"""Parameters of the form with --checkpoint alone."""
OF_INPUTS = (
    *("inputs", "write", "ids", "split", "part", "overwrite", "frames", "batch_size", "threads"),
    *("device", "precision", "tracking_uri", "spec", "as_json"),
)
"""Parameters of the form with inputs alone."""
