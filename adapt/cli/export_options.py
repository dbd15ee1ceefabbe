"""The options of `export`, each with its help."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from adapt.cli import completion
from adapt.export.wanted import OPSETS

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A file of weights, the folder of a checkpoint or of a run, or models:/NAME@best.",
    ),
]
To = Annotated[Literal["onnx", "torch"], typer.Option(help="Format of the file.")]
Out = Annotated[
    Path | None, typer.Option(help="The file to write: .onnx, or .pt2 with --to torch.")
]
Bundle = Annotated[
    Path | None,
    typer.Option(help="A folder to write that predicts without SegAdapt and torch."),
]
Opset = Annotated[
    int, typer.Option(min=OPSETS[0], max=OPSETS[-1], help="Version of ONNX's operators.")
]
WholeImage = Annotated[
    bool,
    typer.Option("--whole-image", help="Leave out mirrored views, scales and windows."),
]
Int8 = Annotated[
    bool,
    typer.Option(
        "--int8", help="Also write the graph in 8 bits for CPUs, beside the file as .int8.onnx."
    ),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="Packed dataset for --int8: images that calibrate, others that are scored.",
    ),
]
Split = Annotated[str, typer.Option(help="Split of that dataset, with labels.")]
Images = Annotated[
    int, typer.Option(min=1, help="Images that calibrate, and as many that are scored.")
]
WithLatency = Annotated[
    bool, typer.Option("--latency", help="Measure milliseconds an image on this CPU.")
]
Spec = Annotated[
    str | None,
    typer.Option(
        help="Job spec of the network, for a file whose header does not state it.",
        autocompletion=completion.specs,
    ),
]
