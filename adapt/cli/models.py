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
    from adapt.cli.network_facts import Architecture, EncoderChoice, Networks

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
    "start at random, as in their papers. Vision transformers are listed with their own patches, "
    "as architectures on equal strides take them; all others take them as a pyramid, at output "
    "stride 8, 16 or 32. Any other backbone of timm that gives stages works too, and its other "
    "vision transformers; --encoder NAME describes one."
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
            metavar="8|14|16|32",
            help="Input pixels per pixel of the deepest stage, a side; default: the "
            "architecture's, or the encoder's largest. Of a vision transformer alone: the side of "
            "its patches, by default its own; 8 and 32 are pyramids.",
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

    found = _networks(size_hw, num_classes)
    if as_json:
        _answer(size_hw, {"num_classes": num_classes, **found.as_json()})
        return
    title = f"architectures, {num_classes} classes, {_in_words(size_hw)}"
    _print(
        architectures_table(found.architectures, title),
        encoders_table(found.encoders, f"encoders, {_in_words(size_hw)}"),
        notes=(COUNTED, ENCODERS_LISTED),
    )


def _networks(size_hw: tuple[int, int], num_classes: int) -> "Networks":
    """From the package's list, where they are of this size and these classes, else counted."""
    from adapt.cli.network_facts import LISTED_CLASSES, LISTED_HW, listed_networks

    if (size_hw, num_classes) == (LISTED_HW, LISTED_CLASSES):
        return listed_networks()
    from adapt.cli.live import progress_bar
    from adapt.cli.network_counts import count_networks

    with progress_bar("counting", console) as advance:
        return count_networks(size_hw, num_classes, advance)


def _show_architecture(
    values: dict[str, Any], size_hw: tuple[int, int], num_classes: int, as_json: bool
) -> None:
    from adapt.cli.network_counts import describe_architecture
    from adapt.cli.network_tables import architectures_table, keys_table

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
    from adapt.cli.network_counts import describe_encoder
    from adapt.cli.network_tables import encoders_table

    found = describe_encoder(name, size_hw, output_stride)
    if as_json:
        _answer(size_hw, asdict(found))
        return
    of_pyramid = found.pyramid_strides and found.stages[0] != found.stages[-1]
    how = f"{'a pyramid at ' if of_pyramid else ''}output stride {found.output_stride}"
    title = f"{found.name} at {how}, {_in_words(size_hw)}"
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
