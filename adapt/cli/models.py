"""The command about networks: models."""

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, console
from adapt.errors import JobError

if TYPE_CHECKING:
    from adapt.cli.network_tables import Architecture, EncoderChoice

commands = typer.Typer()

LEAST_PX, MOST_PX = 32, 65536
"""A side of the image. The deepest stages reduce it 32 times; counts overflow beyond."""

PIPED_WIDTH = 120
"""Columns of text in files and pipes, of which rich makes 80, too few for these tables."""

COUNTED = (
    "GMACs: 10^9 multiply-accumulates of convolutions and matrix products on one image, with all "
    "heads."
)
ENCODERS_LISTED = (
    "Encoders are listed at their largest output stride, and by the weights that they start from. "
    "Those without: caffe_* take files, which import-checkpoint makes, mit_* NVIDIA's, the others "
    "start at random, as in their papers. Any other backbone of timm that gives stages works too, "
    "and vision transformers, such as vit_base_patch14_dinov2; --encoder NAME describes one."
)


@commands.command()
def models(
    architecture: Annotated[
        str | None, typer.Option(help="Describe this one, layer group by layer group.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="On this encoder, one of the list or any of timm's; without --architecture: "
            "describe it alone."
        ),
    ] = None,
    output_stride: Annotated[
        int | None,
        typer.Option(
            metavar="8|16|32",
            help="Input pixels per pixel of the deepest stage, a side; default: the "
            "architecture's, or the encoder's largest.",
        ),
    ] = None,
    size: Annotated[
        str, typer.Option(metavar="HxW", help="Height x width of the image that GMACs are of.")
    ] = "512x1024",
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 19,
    as_json: AsJson = False,
) -> None:
    """List architectures and encoders with what they cost, or describe one network.

    Networks are built without memory or weights: nothing is downloaded, no GPU is needed.
    """
    size_hw = parsed_size(size)
    if architecture is not None:
        values = {"architecture": architecture, "encoder": encoder, "output_stride": output_stride}
        _show_architecture(values, size_hw, classes, as_json)
    elif encoder is not None:
        _show_encoder(encoder, output_stride, size_hw, as_json)
    elif output_stride is not None:
        raise JobError(
            "--output-stride: expected --architecture or --encoder beside it, got neither",
            fix="add --encoder resnet101",
        )
    else:
        _list(size_hw, classes, as_json)


def parsed_size(text: str) -> tuple[int, int]:
    """`512x1024` -> (512, 1024). Raises `JobError` for other text and sides no image has."""
    found = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text, re.ASCII)
    height, width = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(LEAST_PX <= side <= MOST_PX for side in (height, width)):
        raise JobError(
            f"--size: expected height x width, from {LEAST_PX} to {MOST_PX} pixels each, such as "
            f"512x1024, got {text!r}"
        )
    return height, width


def _list(size_hw: tuple[int, int], num_classes: int, as_json: bool) -> None:
    from adapt.cli.network_tables import architectures_table, encoders_table

    architectures, encoders = _all(size_hw, num_classes)
    if as_json:
        answer = {
            "num_classes": num_classes,
            "architectures": [asdict(row) for row in architectures],
        }
        _answer(size_hw, {**answer, "encoders": [asdict(row) for row in encoders]})
        return
    title = f"architectures, {num_classes} classes, {_in_words(size_hw)}"
    _print(
        architectures_table(architectures, title),
        encoders_table(encoders, f"encoders, {_in_words(size_hw)}"),
        notes=(COUNTED, ENCODERS_LISTED),
    )


def _all(
    size_hw: tuple[int, int], num_classes: int
) -> "tuple[list[Architecture], list[EncoderChoice]]":
    """Every architecture on its default encoder, and every encoder that is tested."""
    from adapt.cli.live import progress_bar
    from adapt.cli.network_tables import describe_architecture, describe_encoder
    from adapt.models import ARCHITECTURES, ENCODERS
    from adapt.models.encoders.timm import TESTED_ENCODERS

    names, architectures, encoders = [*ENCODERS, *TESTED_ENCODERS], [], []
    total = len(ARCHITECTURES) + len(names)
    with progress_bar("counting", console) as advance:
        for name in ARCHITECTURES:
            architectures.append(
                describe_architecture({"architecture": name}, size_hw, num_classes)
            )
            advance(len(architectures), total)
        for name in names:
            encoders.append(describe_encoder(name, size_hw))
            advance(len(architectures) + len(encoders), total)
    return architectures, encoders


def _show_architecture(
    values: dict[str, Any], size_hw: tuple[int, int], num_classes: int, as_json: bool
) -> None:
    from adapt.cli.network_tables import architectures_table, describe_architecture, keys_table

    given = {key: value for key, value in values.items() if value is not None}
    found = describe_architecture(given, size_hw, num_classes)
    if as_json:
        _answer(size_hw, {"num_classes": num_classes, **asdict(found)})
        return
    title = f"{found.name} on {found.encoder}, {num_classes} classes, {_in_words(size_hw)}"
    _print(architectures_table([found], title), keys_table(found.keys), *_layers(found))


def _show_encoder(
    name: str, output_stride: int | None, size_hw: tuple[int, int], as_json: bool
) -> None:
    from adapt.cli.network_tables import describe_encoder, encoders_table

    found = describe_encoder(name, size_hw, output_stride)
    if as_json:
        _answer(size_hw, asdict(found))
        return
    title = f"{found.name} at output stride {found.output_stride}, {_in_words(size_hw)}"
    _print(encoders_table([found], title), *_layers(found))


def _layers(found: "Architecture | EncoderChoice") -> tuple[Table, Table]:
    from adapt.cli.network_tables import groups_table, stages_table

    return stages_table(found.stages), groups_table(found.groups)


def _in_words(size_hw: tuple[int, int]) -> str:
    return f"an image of {size_hw[0]} x {size_hw[1]}"


def _answer(size_hw: tuple[int, int], facts: dict[str, Any]) -> None:
    print_answer({"size_hw": size_hw, **facts})


def _print(*tables: Table, notes: tuple[str, ...] = (COUNTED,)) -> None:
    out = Console()
    if not out.is_terminal:
        out.width = max(out.width, PIPED_WIDTH)
    for table in tables:
        out.print(table)
    out.print(*notes, highlight=False)
