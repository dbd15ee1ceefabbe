"""The commands: each a few lines over a function elsewhere. Heavy imports wait until a command
needs them, so that a typing mistake is reported within a second.
"""

import logging
from typing import Annotated

import typer
from rich.logging import RichHandler

from adapt import __version__
from adapt.cli import (
    cache,
    check,
    checkpoints,
    data,
    data_versions,
    endpoints,
    export,
    gap,
    import_model,
    init,
    jobs,
    models,
    pack,
    platforms,
    predict,
    pseudo_labels,
    report,
    serve,
    specs,
    suggest,
    sweep,
    tracking,
)
from adapt.cli.command import prepare
from adapt.cli.options import console

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train segmentation networks for streets without labels. One job spec, any platform.",
)
PANELS = {
    "Jobs": (init, jobs, check, sweep, specs, pseudo_labels, report),
    "Data": (pack, data, data_versions, gap, suggest, cache),
    "Networks": (models, checkpoints, import_model, predict, export, serve),
    "Platforms and tracking": (platforms, endpoints, tracking),
}
"""The headings of `segadapt --help`, with the modules whose commands stand below them."""
for panel, parts in PANELS.items():
    for part in parts:
        for command in (*part.commands.registered_commands, *part.commands.registered_groups):
            command.rich_help_panel = panel
        app.add_typer(part.commands)
prepare(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"segadapt {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log debug messages too.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    level = logging.DEBUG if verbose else logging.INFO
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, markup=False)
    else:  # where logs are collected, a message is a line
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    for package in ("adapt", "storage"):
        logging.getLogger(package).setLevel(level)


def say_error(message: str, kind: str) -> None:
    """Print one error to stderr."""
    console.print(f"[bold red]{kind}[/bold red]", end=" ")
    console.print(message, markup=False, highlight=False, soft_wrap=True)
