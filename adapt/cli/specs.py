"""The command about shipped job specs and profiles: specs."""

from pathlib import Path
from typing import Annotated

import typer

from adapt.cli import completion
from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, console
from adapt.spec.shipped import copy_shipped, shipped_names, shipped_path

commands = typer.Typer()


@commands.command()
def specs(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A shipped spec or profile; with --out also a folder of them.",
            autocompletion=completion.shipped,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to copy to, with the schema for editors.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the shipped job specs and profiles, print one, or copy some to change them.

    Every command takes a listed name in the place of a spec's path.
    """
    if out is not None:
        for path in [file for one in _wanted(name) for file in copy_shipped(one, out)]:
            print_answer(str(path))
        console.print(f"schema for editors: {out / 'schema.json'}", soft_wrap=True)
    elif name is not None:
        typer.echo(shipped_path(name).read_text(encoding="utf-8"), nl=False)
    elif as_json:
        print_answer(shipped_names())
    else:
        typer.echo("\n".join(shipped_names()))


def _wanted(name: str | None) -> list[str]:
    return shipped_names() if name is None else [name]
