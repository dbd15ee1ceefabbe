"""The arguments and options of `pack`, and those of a command whose slices may be jobs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapt.cli import completion
from adapt.cli.options import place_here
from adapt.errors import JobError

if TYPE_CHECKING:
    from adapt.cli.predict_jobs import Sending
    from adapt.data.writing.plan import Slice

Dataset = Annotated[
    str,
    typer.Argument(
        help="Layout of RAW_DIR, as gta5 or folders (docs/datasets.md lists all); or an annotated "
        "export: cvat, label_studio, coco, coco_panoptic, annotated_png.",
        autocompletion=completion.datasets,
    ),
]
RawDir = Annotated[
    Path,
    typer.Argument(metavar="RAW_DIR", help="The dataset as it was downloaded, in folders or zips."),
]
Destination = Annotated[
    str,
    typer.Argument(
        metavar="URI", help="Destination: a folder, s3://..., obs://..., gs://... or az://..."
    ),
]
SplitToPack = Annotated[str, typer.Option(help="Split to pack.")]
SizeHW = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="H W", help="Resize to this height and width, as the papers do."),
]
Original = Annotated[
    bool, typer.Option("--original", help="Store the files unchanged, at full size.")
]
Small = Annotated[
    bool,
    typer.Option("--small", help="Store images as JPEG of quality 95: lossy, a fifth of the size."),
]
Name = Annotated[
    str | None, typer.Option(help="Name of the dataset in label spaces, for layout folders.")
]
Unlabelled = Annotated[bool, typer.Option("--unlabelled", help="Pack images without labels.")]
Skip = Annotated[
    list[str] | None,
    typer.Option(help="Key or file name of a sample to leave out; may be repeated."),
]
SkipFile = Annotated[
    Path | None,
    typer.Option(metavar="LIST", help="File with samples to leave out, one a line, as --skip."),
]
PairsOnly = Annotated[
    bool,
    typer.Option("--pairs-only", help="Leave out images without label, and labels without image."),
]
Colours = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC|TABLE",
        help="Labels are colours: map them to ids by a job spec, a label space, or a table (CSV, "
        "YAML, labelmap.txt) of names, colours and ids.",
        autocompletion=completion.label_spaces,
    ),
]
IgnoreColour = Annotated[
    list[str] | None,
    typer.Option(
        metavar="R,G,B", help="Colour that belongs to no class, stored as 255; may be repeated."
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Label space, or job spec: store its train ids, not the dataset's own ids.",
        autocompletion=completion.label_spaces,
    ),
]
Part = Annotated[
    str,
    typer.Option("--slice", metavar="I/N", help="Pack only slice I of N; `merge` then joins them."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the shuffle over shards.")]
ShardMB = Annotated[
    float, typer.Option(min=1e-6, max=17_179, help="Size of a shard in 10^6 bytes.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Shards packed in parallel; default: the number of cores."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a split that is packed already.")
]
Merge = Annotated[
    bool,
    typer.Option("--merge", help="With --slice: join the slices as `merge` does, once all are."),
]
JOBS = "As jobs of a platform"
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="PROFILE",
        help="Work on a platform, as jobs with a slice each: a profile, a YAML file or a name that "
        "`specs` lists. The jobs get the other options as they are.",
        autocompletion=completion.profiles,
        rich_help_panel=JOBS,
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
        rich_help_panel=JOBS,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the requests as YAML; send nothing.", rich_help_panel=JOBS
    ),
]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Submit without confirmation.", rich_help_panel=JOBS),
]
ProfileOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key of the profile: gpus=0.",
        rich_help_panel=JOBS,
    ),
]


def sending_of(
    to: str | None,
    slices: int | None,
    part: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    overrides: list[str] | None,
) -> "Sending | None":
    """How a command's jobs are sent to its --to; None without. Raises `JobError` for options that
    say nothing then."""
    from adapt.cli.predict_jobs import Sending

    if to is not None:
        return Sending(to, overrides or (), slices, part, dry_run, yes, as_json)
    given = {"--slices": slices, "--dry-run": dry_run, "--yes": yes, "--set": overrides}
    for option, value in given.items():
        if value:
            raise JobError(f"{option}: expected --to beside it, got none", "name a profile: --to")
    return None


def slice_here(part: str) -> "Slice":
    """Slice I/N, shared out again over the nodes of the place, as the pods of an Indexed Job.
    Raises `JobError`."""
    from adapt.data.writing.plan import Slice

    piece, place = Slice.parse(part), place_here()
    number = piece.number * place.num_nodes + place.node
    return Slice(number, piece.num_slices * place.num_nodes)
