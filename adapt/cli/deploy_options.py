"""The arguments and options of `deploy` and of the commands about endpoints."""

from typing import Annotated

import typer

from adapt.cli import completion
from adapt.cli.options import PROFILE_HELP

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A file of weights, the folder of a checkpoint or run, as a path or a URI, or "
        "models:/NAME@best.",
    ),
]
To = Annotated[
    str,
    typer.Option("--to", metavar="PROFILE", help=PROFILE_HELP, autocompletion=completion.profiles),
]
NewName = Annotated[
    str | None, typer.Option("--name", help="Name of the endpoint; default: made of MODEL.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one key of the profile: serve.port=8081."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the request as YAML; send nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Deploy without confirmation.")]
Wait = Annotated[
    bool, typer.Option(help="Wait until the endpoint is ready, or tell why it is not.")
]
MaybeProfile = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="PROFILE",
        help="Profile, for endpoints that were not deployed from here.",
        autocompletion=completion.profiles,
    ),
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of an endpoint, as `deploy` shows it.")
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Follow until the endpoint is gone.")]
YesRemove = Annotated[bool, typer.Option("--yes", "-y", help="Remove without confirmation.")]
