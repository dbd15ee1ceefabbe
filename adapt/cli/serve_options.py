"""The options of `serve`, each with its help."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A file of weights, the folder of a checkpoint or run, as a path or a URI, or "
        "models:/NAME@best; default: SEGADAPT_MODEL, else /opt/ml/model.",
    ),
]
Host = Annotated[
    str | None,
    typer.Option(
        help="Address to listen on; 0.0.0.0 for every network of the machine. Default: "
        "SEGADAPT_HOST (0.0.0.0 in the image), else 127.0.0.1."
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")]
Name = Annotated[str, typer.Option(help="The model's name in URLs.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:1; default: the GPU where there is one.")
]
Precision = Annotated[Literal["fp32", "bf16"], typer.Option(help="Precision of the network.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=256,
        help="Most images of one size that are computed together; default: 8 on a GPU, 1 on a "
        "CPU, where more are no faster and change the last bits.",
    ),
]
BatchWait = Annotated[
    float,
    typer.Option(min=0, max=1000, help="Longest that an image waits for others of its size."),
]
Queue = Annotated[
    int,
    typer.Option(
        min=1, max=4096, help="Images in the server at the same time; more are answered 429."
    ),
]
MaxBody = Annotated[int, typer.Option(min=1, max=256, help="Largest body of a request in MiB.")]
MaxPixels = Annotated[
    int, typer.Option(min=1, max=1 << 28, help="Most pixels of an image; default: 4K.")
]
MaxImage = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="Most seconds that one image may take on a CPU, whose speed is measured at the start; "
        "larger images are answered 413.",
    ),
]
BodyTimeout = Annotated[
    float, typer.Option(min=0.1, help="Seconds in which a body arrives; later ones end in 408.")
]
Timeout = Annotated[
    float, typer.Option(min=0.1, help="Seconds until an image is computed, else 503.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File with the token that requests state; default: SEGADAPT_TOKEN, else no token."
    ),
]
