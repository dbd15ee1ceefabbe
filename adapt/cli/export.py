"""The command `export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from adapt.cli.export_options import (
    Bundle,
    Calibrate,
    Images,
    Int8,
    Model,
    Opset,
    Out,
    Spec,
    Split,
    To,
    WholeImage,
    WithLatency,
)
from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, Base, console, stores_of
from adapt.errors import JobError, counted
from adapt.export.wanted import DEFAULT_OPSET, check_ending, check_free

if TYPE_CHECKING:
    from adapt.export.export import Exported
    from adapt.export.int8 import Quantised
    from adapt.export.latency import Latency

commands = typer.Typer()


@commands.command()
def export(
    model: Model,
    to: To = "onnx",
    out: Out = None,
    bundle: Bundle = None,
    opset: Opset = DEFAULT_OPSET,
    whole_image: WholeImage = False,
    int8: Int8 = False,
    calibrate: Calibrate = None,
    split: Split = "val",
    images: Images = 32,
    latency: WithLatency = False,
    spec: Spec = None,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Write a trained network as an ONNX graph, a torch.export program, or a folder for the edge.

    The graph reads RGB bytes and a size and returns class map, confidence and logits. It is
    compared with the model at three sizes before the file appears.
    """
    _check_wanted(to, out, bundle)
    _check_int8(int8, calibrate, to)
    with console.status("loading the model") as status:
        import adapt
        from adapt.export.export import export_model

        loaded = adapt.load(model, spec=spec, device="cpu", base=base)
        exported = export_model(loaded, to, opset, whole_image, status.update)
    small = _quantised(loaded, exported, calibrate, split, images, spec) if calibrate else None
    timed = _timed(loaded, exported, to, small) if latency else []
    written = _write(loaded, exported, to, out, bundle, small and small.content)
    if as_json:
        loss = small and small.loss._asdict()
        times = [one._asdict() for one in timed]
        print_answer({"written": written, **exported.record(), "int8": loss, "latency": times})
        return
    Console().print(_table(exported))
    if small is not None:
        Console().print(_loss_line(small), soft_wrap=True, highlight=False)
    if timed:
        Console().print(_latency_table(timed))
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


def _check_int8(int8: bool, calibrate: str | None, to: str) -> None:
    """Raise `JobError` for 8 bits without a split that measures their loss."""
    if int8 and calibrate is None:
        raise JobError(
            "--int8: expected a labelled packed split, by which its loss is measured, got none",
            "add --calibrate URI --split val",
        )
    if calibrate is not None and not int8:
        raise JobError("--calibrate: expected --int8 beside it, got none", "add --int8")
    if int8 and to != "onnx":
        raise JobError(f"--int8: expected --to onnx, got {to}", "leave out --to")


def _quantised(
    model: Any, exported: "Exported", uri: str, split: str, images: int, spec: str | None
) -> "Quantised":
    """The graph in 8 bits, with its loss."""
    from adapt.cli.live import progress_bar
    from adapt.export.int8 import quantise

    store = stores_of(spec).open(uri)
    with progress_bar("quantising", console) as advance:
        return quantise(
            exported.content, store, split, model.classes, model.size_hw, images, advance
        )


def _timed(model: Any, exported: "Exported", to: str, small: "Quantised | None") -> "list[Latency]":
    """Milliseconds of the model, of the exported file and of 8 bits."""
    from adapt.cli.live import progress_bar
    from adapt.export.latency import latencies, latency_sizes
    from adapt.export.programs import FORMATS, network_run

    runs = {"torch": network_run(exported.network), f"--to {to}": FORMATS[to].run(exported.content)}
    if small is not None:
        runs["--int8"] = FORMATS["onnx"].run(small.content)
    sizes = latency_sizes(model.size_hw, exported.network.smallest_side_px)
    with progress_bar("timing", console) as advance:
        return latencies(runs, sizes, on_pass=advance)


def _loss_line(small: "Quantised") -> str:
    """The loss of 8 bits, as a line."""
    loss = small.loss
    return (
        f"8 bits: mIoU {loss.miou_int8:.2%} instead of {loss.miou_float32:.2%} "
        f"({-100 * loss.lost:+.2f} points) on {counted(loss.images, 'image')} of {loss.split}, "
        f"calibrated on {loss.calibrated_on} others; {len(small.content) / 1e6:.1f} MB"
    )


def _latency_table(timed: "list[Latency]") -> Table:
    """A row a runtime and size."""
    import torch

    threads = counted(torch.get_num_threads(), "thread")
    table = Table("runtime", title=f"one image on this CPU, {threads}, {timed[0].passes} passes")
    for heading in ("size", "median ms", "p95 ms"):
        table.add_column(heading, justify="right")
    for one in timed:
        size = "x".join(map(str, one.size_hw))
        table.add_row(one.runtime, size, f"{one.median_ms:.1f}", f"{one.p95_ms:.1f}")
    return table


def _write(
    model: Any,
    exported: "Exported",
    to: str,
    out: Path | None,
    bundle: Path | None,
    small: bytes | None,
) -> list[str]:
    """Write what is wanted; returns the paths."""
    from adapt.export.bundle import write_bundle
    from adapt.export.export import write_export

    written = []
    if out is not None:
        write_export(exported.content, out, to)
        written.append(str(out))
        if small is not None:
            beside = out.with_suffix(".int8.onnx")
            write_export(small, beside, to)
            written.append(str(beside))
    if bundle is not None:
        names = write_bundle(model, exported, bundle, small)
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
