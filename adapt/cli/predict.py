"""The command `predict`: a network on pictures, folders and videos, or the files of a job's
validation split as Cityscapes' server takes them.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import typer

from adapt.cli.messages import print_answer
from adapt.cli.options import (
    AsJson,
    Base,
    StoresFrom,
    console,
    job_and_place,
    place_here,
    stores_of,
)
from adapt.cli.predict_jobs import Sending, submit_slices
from adapt.cli.predict_options import (
    OF_INPUTS,
    OF_PLATFORM,
    OF_SERVER,
    BatchSize,
    Checkpoints,
    Colours,
    Device,
    DryRun,
    Frames,
    Ids,
    Inputs,
    Model,
    Out,
    Overrides,
    Overwrite,
    Part,
    Precision,
    SizeHW,
    Slices,
    Split,
    Threads,
    To,
    TrackingUri,
    Weights,
    Write,
    Yes,
)
from adapt.errors import DataError, Interrupted, JobError, counted

if TYPE_CHECKING:
    from adapt.places import Place
    from adapt.use.model import LoadedModel
    from adapt.use.predict_set import PredictOptions
    from adapt.use.predictions import Summary
    from storage.stores import Stores

commands = typer.Typer()


@commands.command()
def predict(
    context: typer.Context,
    model: Model,
    out: Out,
    inputs: Inputs = None,
    write: Write = "overlay",
    ids: Ids = None,
    split: Split = None,
    part: Part = "0/1",
    overwrite: Overwrite = False,
    frames: Frames = None,
    batch_size: BatchSize = None,
    threads: Threads = None,
    device: Device = None,
    precision: Precision = "fp32",
    tracking_uri: TrackingUri = None,
    spec: StoresFrom = None,
    base: Base = None,
    as_json: AsJson = False,
    to: To = None,
    slices: Slices = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    checkpoints: Checkpoints = None,
    weights: Weights = None,
    overrides: Overrides = None,
    size_hw: SizeHW = None,
    colours: Colours = False,
) -> None:
    """Predict pictures, folders, videos or a camera with a trained network.

    For each picture DIR/KIND/NAME.png is written, for each video DIR/KIND/NAME.mp4, and
    DIR/shares.csv with the share of each class. The same command resumes after a stop. Bad files
    are named and skipped; the exit code is 4 then.

    `--to PROFILE --slices N` predicts as N jobs of a platform, after showing what will run where,
    at which price. Each writes to the same --out and skips what is written.

    `predict SPEC --checkpoint WEIGHTS` writes predictions of the spec's validation split as PNGs of
    the dataset's own label ids. With dataset cityscapes these are files for its test server. Labels
    are not needed.
    """
    if checkpoints:
        _refuse(context, (*OF_INPUTS, "to", *OF_PLATFORM), "none beside --checkpoint", "one")
        _of_split(model, checkpoints, Path(out), weights, base, overrides, size_hw, colours)
        return
    ours = [name for name in OF_SERVER if to is None or name != "overrides"]
    _refuse(context, ours, "--checkpoint beside it", "none")
    if not inputs:
        raise JobError(
            "INPUT: expected a picture, a folder, a video or another input, got none",
            "name one after the model, or --checkpoint for the files of a job's validation split",
        )
    if to is not None:
        _refuse(context, ("frames",), "none beside --to", "one")
        sending = Sending(to, overrides or (), slices, part, dry_run, yes, as_json)
        submit_slices(context, model, inputs, out, spec, tracking_uri, sending)
        return
    _refuse(context, OF_PLATFORM, "--to beside it", "none")
    from adapt.use.predict_set import PredictOptions

    options = PredictOptions(write, ids, split, part, threads, batch_size, overwrite, frames)
    place, stores = place_here(), stores_of(spec)
    network = _network(place, stores, model, device, precision, tracking_uri, base)
    _predict(network, inputs, out, stores, place, options, as_json)


def _network(
    place: "Place",
    stores: "Stores",
    model: str,
    device: str | None,
    precision: str,
    tracking_uri: str | None,
    base: str | None,
) -> "LoadedModel":
    from adapt.places import PREDICT_SHA256
    from adapt.use.load import load

    return load(
        model,
        device=device or _own_gpu(place),
        precision=precision,
        stores=stores,
        tracking_uri=tracking_uri,
        sha256=place.environment.get(PREDICT_SHA256) or None,
        base=base,
    )


def _predict(
    network: "LoadedModel",
    inputs: list[str],
    out: str,
    stores: "Stores",
    place: "Place",
    options: "PredictOptions",
    as_json: bool,
) -> None:
    """Predict here, with progress, and report the counts."""
    from adapt.cli.live import rate_bar
    from adapt.use.predict_set import predict_set

    with rate_bar("predicting", console, quiet=not place.leader) as show, _stop_asked() as stop:
        summary = predict_set(
            network,
            inputs,
            out,
            stores,
            place,
            options,
            stop,
            lambda now: show(now.done, now.total, now.bad),
        )
    _answer(summary, out, place, as_json)


def _refuse(context: typer.Context, names: Sequence[str], expected: str, got: str) -> None:
    """Raise `JobError` for a parameter of the other form that was given."""
    for param in context.command.params:
        source = context.get_parameter_source(str(param.name))
        if param.name in names and source is not None and source.name == "COMMANDLINE":
            shown = param.opts[0] if param.opts[0].startswith("--") else "INPUT"
            raise JobError(
                f"{shown}: expected {expected}, got {got}",
                "use the options of one form: `predict MODEL INPUT`, the same with --to, or "
                "`predict SPEC --checkpoint`",
            )


def _own_gpu(place: "Place") -> str | None:
    """The GPU of a rank that a launcher started; None: the only one, or none."""
    from adapt.accelerator import accelerator, num_accelerators

    several = place.launched and num_accelerators() > 0
    return str(accelerator(place.local_rank)) if several else None


@contextmanager
def _stop_asked() -> Iterator[Event]:
    """An event that the first SIGTERM or Ctrl-C sets; a second Ctrl-C ends the process."""
    stop = Event()

    def ask(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            os._exit(130)
        stop.set()

    before = {one: signal.signal(one, ask) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _answer(summary: "Summary", out: str, place: "Place", as_json: bool) -> None:
    """Report the counts. Raises `Interrupted` after a stop, `DataError` after bad files."""
    written = _written(summary)
    if place.leader:
        if as_json:
            print_answer({"out": out, **summary.as_json()})
        for reason, count in summary.left_out.items():
            console.print(f"left out: {reason} ({count})", markup=False, highlight=False)
        console.print(f"{written} in {out}", soft_wrap=True, markup=False, highlight=False)
    if summary.stopped:
        raise Interrupted(f"stopped: {written}; the same command resumes")
    if summary.bad and not place.leader:
        raise typer.Exit(DataError.exit_code)
    if summary.bad:
        from adapt.data.problems import first_ones

        lines = [f"{counted(len(summary.bad), 'bad file')}:", *first_ones(summary.bad)]
        raise DataError(
            "\n  ".join(lines), "replace them and run the same command, which predicts the rest"
        )


def _written(summary: "Summary") -> str:
    """`5 images, 2 videos of 40 frames, 3 written before`."""
    parts = [counted(summary.images, "image")]
    if summary.videos:
        frames = counted(summary.frames, "frame")
        parts.append(f"{counted(summary.videos, 'video')} of {frames}")
    if summary.skipped:
        parts.append(f"{summary.skipped} written before")
    return ", ".join(parts)


def _of_split(
    spec: str,
    checkpoints: list[str],
    out: Path,
    weights: list[float] | None,
    base: str | None,
    overrides: list[str] | None,
    size_hw: tuple[int, int] | None,
    colours: bool,
) -> None:
    """Write the validation split's predictions as PNGs of the dataset's ids."""
    from adapt.cli.live import progress_bar
    from adapt.trainer.score import predict_checkpoint

    job, place = job_and_place(spec, overrides)
    with progress_bar("predicting", console) as advance:
        count = predict_checkpoint(
            job, place, checkpoints, weights, out, size_hw, colours, advance, base
        )
    console.print(f"{count} predictions in {out}", soft_wrap=True)
