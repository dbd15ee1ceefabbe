"""The command `export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from adapt.cli import completion
from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, console
from adapt.errors import JobError
from adapt.export.wanted import DEFAULT_OPSET, OPSETS, check_ending, check_free

if TYPE_CHECKING:
    from adapt.export.export import Exported

commands = typer.Typer()


@commands.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A file of weights, the folder of a checkpoint or of a run, or models:/NAME@best.",
        ),
    ],
    to: Annotated[Literal["onnx", "torch"], typer.Option(help="Format of the file.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="The file to write: .onnx, or .pt2 with --to torch.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="A folder to write that predicts without SegAdapt and torch."),
    ] = None,
    opset: Annotated[
        int, typer.Option(min=OPSETS[0], max=OPSETS[-1], help="Version of ONNX's operators.")
    ] = DEFAULT_OPSET,
    whole_image: Annotated[
        bool,
        typer.Option("--whole-image", help="Leave out mirrored views, scales and windows."),
    ] = False,
    spec: Annotated[
        str | None,
        typer.Option(
            help="Job spec of the network, for a file whose header does not state it.",
            autocompletion=completion.specs,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a trained network as an ONNX graph, a torch.export program, or a folder for the edge.

    The graph reads RGB bytes and a size and returns class map, confidence and logits. It is
    compared with the model at three sizes before the file appears.
    """
    _check_wanted(to, out, bundle)
    with console.status("loading the model") as status:
        import adapt
        from adapt.export.export import export_model

        loaded = adapt.load(model, spec=spec, device="cpu")
        exported = export_model(loaded, to, opset, whole_image, status.update)
    written = _write(loaded, exported, to, out, bundle)
    if as_json:
        print_answer({"written": written, **exported.record()})
        return
    Console().print(_table(exported))
    print_answer("\n".join(written))


def _check_wanted(to: str, out: Path | None, bundle: Path | None) -> None:
    """Raise `JobError` before any work for what cannot be written."""
    if out is None and bundle is None:
        raise JobError(
            "export: expected --out FILE or --bundle FOLDER, got neither", "add --out model.onnx"
        )
    if out is not None:
        check_ending(out, to)
    if bundle is not None:
        check_free(bundle)
        if to != "onnx":
            raise JobError(f"--bundle: expected --to onnx, got {to}", "leave out --to")


def _write(
    model: Any, exported: "Exported", to: str, out: Path | None, bundle: Path | None
) -> list[str]:
    """Write what is wanted; returns the paths."""
    from adapt.export.bundle import write_bundle
    from adapt.export.export import write_export

    written = []
    if out is not None:
        write_export(exported.content, out, to)
        written.append(str(out))
    if bundle is not None:
        names = write_bundle(model, exported, bundle)
        written += [str(bundle / name) for name in names]
    return written


def _table(exported: "Exported") -> Table:
    """A row a size: how far the file is from the model."""
    table = Table("images", title="compared with the model")
    for heading in ("outputs", "largest difference", "largest logit", "pixels of the same class"):
        table.add_column(heading, justify="right")
    for one in exported.compared:
        table.add_row(
            "x".join(map(str, one.images)),
            "x".join(map(str, one.size_hw)),
            f"{one.difference:.2g}",
            f"{one.largest_logit:.3g}",
            f"{one.equal_pixels:.4%}",
        )
    return table
