"""The arguments and options of `init`: each answer is one."""

from pathlib import Path
from typing import Annotated

import typer

from adapt.cli import completion

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Folder with labels, or URI of a packed dataset.")
]
Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="Folder of the images to adapt to, or URI of a packed dataset."
    ),
]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="New folder for spec, tables, commands.")]
SourceName = Annotated[str | None, typer.Option(help="Name of the source; default: the folder's.")]
TargetName = Annotated[str | None, typer.Option(help="Name of the target; default: the folder's.")]
SourceLayout = Annotated[
    str | None,
    typer.Option(help="Layout of the source; default: found.", autocompletion=completion.datasets),
]
TargetLayout = Annotated[
    str | None,
    typer.Option(help="Layout of the target; default: found.", autocompletion=completion.datasets),
]
SourceIds = Annotated[
    str | None,
    typer.Option(metavar="DATASET", help="Dataset whose ids the source's labels have."),
]
TargetIds = Annotated[
    str | None,
    typer.Option(metavar="DATASET", help="Dataset whose ids the target's labels have."),
]
Names = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Names of the classes, in the order of the table."),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="ID|R,G,B", help="Value of the labels that is no class; may be repeated."),
]
SourceSize = Annotated[
    tuple[int, int] | None,
    typer.Option(
        metavar="H W", help="Size of the source's images; default: at most 1280 pixels a side."
    ),
]
TargetSize = Annotated[
    tuple[int, int] | None,
    typer.Option(
        metavar="H W", help="Size of the target's images; default: at most 1280 pixels a side."
    ),
]
PackedTo = Annotated[
    str | None,
    typer.Option("--packed", metavar="URI", help="Place to pack to; default: FOLDER/packed."),
]
RunName = Annotated[
    str | None, typer.Option("--name", help="Name of the run; default: SOURCE_to_TARGET.")
]
Method = Annotated[str | None, typer.Option(help="Adaptation method; default: dacs.")]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="imagenet|none|URI", help="The encoder's weights; default: imagenet, from timm."
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps; default: the network's.")]
MemoryGB = Annotated[
    float | None,
    typer.Option(
        min=1, help="Memory of one GPU in 10^9 bytes that the job is for; default: this machine's."
    ),
]
Labels = Annotated[int, typer.Option(min=1, help="Labels of each domain to read at most.")]
PairsOnly = Annotated[
    bool, typer.Option("--pairs-only", help="Leave out images of the source without label.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nothing: take every default.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the files of FOLDER.")]
