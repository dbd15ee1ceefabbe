"""The arguments and options of `pack`."""

from pathlib import Path
from typing import Annotated

import typer

from adapt.cli import completion

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
