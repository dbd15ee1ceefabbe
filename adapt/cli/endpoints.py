"""Commands about endpoints on platforms: deploy, endpoints, undeploy.

`status` and `logs` are about jobs; endpoints have theirs in the group `endpoints`.
"""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from adapt.cli import completion
from adapt.cli.messages import print_answer
from adapt.cli.options import PROFILE_HELP, AsJson, StoresFrom, console, place_here, stores_of
from adapt.errors import JobError, known_names
from storage.errors import StoreError

if TYPE_CHECKING:
    from adapt.platforms.deploy import PreparedEndpoint
    from adapt.platforms.endpoint import EndpointClient, EndpointStatus
    from adapt.platforms.endpoint_records import DeployedEndpoint
    from adapt.platforms.platform import Profile

commands = typer.Typer()
group = typer.Typer(
    invoke_without_command=True, help="List the endpoints; show the status or the log of one."
)
commands.add_typer(group, name="endpoints")

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
LOG_TAIL = 15
"""Last lines of the log of an endpoint that does not become ready."""


@commands.command()
def deploy(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A file of weights, the folder of a checkpoint or run, as a path or a URI, or "
            "models:/NAME@best.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="PROFILE", help=PROFILE_HELP, autocompletion=completion.profiles
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the endpoint; default: made of MODEL.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one key of the profile: serve.port=8081."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the request as YAML; send nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Deploy without confirmation.")] = False,
    wait: Annotated[
        bool, typer.Option(help="Wait until the endpoint is ready, or tell why it is not.")
    ] = True,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model on a platform, after showing what will run, at which price, and who reaches it.

    What runs is the image of the profile with `segadapt serve`. Ctrl-C ends the waiting, not the
    endpoint.
    """
    from adapt.platforms import load_profile
    from adapt.platforms.deploy import facts_of, prepare_endpoint

    profile, place = load_profile(to, overrides or ()), place_here()
    plan = prepare_endpoint(model, profile, stores_of(spec), name, place.tracking_uri)
    if dry_run:
        import yaml

        typer.echo(yaml.safe_dump(plan.request, sort_keys=False, allow_unicode=True), nl=False)
        return
    table = Table(show_header=False, box=None)
    for key, value in facts_of(plan).items():
        table.add_row(key, value)
    console.print(table, highlight=False)
    _confirm(yes)
    client = plan.serving.connect(profile, place.environment)
    status = _send(plan, client, wait)
    if as_json:
        print_answer(status._asdict())


@group.callback()
def endpoints(context: typer.Context, to: MaybeProfile = None, as_json: AsJson = False) -> None:
    """List the endpoints that were deployed from here, or all of a profile's, the newest first."""
    if context.invoked_subcommand is not None:
        return
    found = list(_listed() if to is None else _connect(_profile_at(to)).endpoints())
    if as_json:
        print_answer([status._asdict() for status in found])
        return
    table = Table("endpoint", "state", "url", "detail")
    for status in found:
        table.add_row(*status)
    Console().print(table)


@group.command("status")
def endpoint_status(name: Name, to: MaybeProfile = None, as_json: AsJson = False) -> None:
    """Show the status of an endpoint; ends with 0 in every state."""
    found = _reach(name, to).status(name)
    print_answer(found._asdict() if as_json else _described(found))


@group.command("logs")
def endpoint_logs(
    name: Name,
    to: MaybeProfile = None,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow until the endpoint is gone.")
    ] = False,
) -> None:
    """Print the log of an endpoint, all replicas'."""
    for line in _reach(name, to).logs(name, following):
        typer.echo(line)


@commands.command()
def undeploy(
    name: Name,
    to: MaybeProfile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without confirmation.")] = False,
) -> None:
    """Remove an endpoint: it finishes what is in flight and ends; the model stays where it is."""
    from adapt.platforms.endpoint_records import endpoints_path, forget_endpoint, read_endpoints

    client = _reach(name, to)
    console.print(_described(client.status(name)), highlight=False, soft_wrap=True)
    _confirm(yes, "Remove it?", "undeploy")
    client.undeploy(name)
    path = endpoints_path(place_here().environment)
    for record in read_endpoints(path):
        if record.endpoint == name and (to is None or record.profile == _plain(_profile_at(to))):
            forget_endpoint(path, record)
            break
    console.print(f"{name}: removed")


def _send(plan: "PreparedEndpoint", client: "EndpointClient", wait: bool) -> "EndpointStatus":
    """Make an endpoint, record it, wait for it, and print the next commands."""
    from adapt.platforms.endpoint_records import DeployedEndpoint, endpoints_path, record_endpoint

    name = client.deploy(plan.request)
    path, profile = endpoints_path(place_here().environment), plan.profile
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    model = plan.deployment.model
    record_endpoint(path, DeployedEndpoint(name, model, profile.platform, _plain(profile), now))
    console.print(f"[green]deployed[/green]: {name}", highlight=False)
    status = _ready(client, name) if wait else client.status(name)
    for what, command in (
        ("status", f"endpoints status {name}"),
        ("log", f"endpoints logs {name} -f"),
        ("remove", f"undeploy {name}"),
    ):
        console.print(f"{what}: segadapt {command}", highlight=False, soft_wrap=True)
    return status


def _ready(client: "EndpointClient", name: str) -> "EndpointStatus":
    """Wait with a line that shows the status; print the end of the log where it fails."""
    from adapt.platforms.deploy import wait_until_ready

    try:
        with console.status(f"{name}: starting") as line:

            def show(status: "EndpointStatus", waited_s: float) -> None:
                line.update(f"{_described(status)} ({waited_s:.0f} s)")

            status = wait_until_ready(client, name, show)
    except KeyboardInterrupt:
        console.print(f"{name} continues; only the waiting ended")
        raise typer.Exit(130) from None
    except JobError:
        for text in list(client.logs(name, follow=False))[-LOG_TAIL:]:
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        raise
    console.print(_described(status), highlight=False, soft_wrap=True)
    return status


def _confirm(yes: bool, question: str = "Deploy?", command: str = "deploy") -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise JobError(f"{command}: stdin is not a terminal", "pass --yes")
    if not typer.confirm(question, err=True):
        raise typer.Exit(0)


def _described(status: "EndpointStatus") -> str:
    detail = f": {status.detail}" if status.detail else ""
    return (
        f"{status.endpoint} {status.state}" + (f" at {status.url}" if status.url else "") + detail
    )


def _reach(name: str, to: str | None) -> "EndpointClient":
    from adapt.platforms.endpoint_records import endpoints_path, find_endpoint

    if to is not None:
        return _connect(_profile_at(to))
    record = find_endpoint(endpoints_path(place_here().environment), name)
    return _connect(_profile_of(record))


def _connect(profile: "Profile") -> "EndpointClient":
    from adapt.platforms.deploy import serving_of

    return serving_of(profile).connect(profile, place_here().environment)


def _profile_at(path: str) -> "Profile":
    from adapt.platforms import load_profile

    return load_profile(path)


def _profile_of(record: "DeployedEndpoint") -> "Profile":
    from adapt.config.validation import validate
    from adapt.platforms import PLATFORMS

    if record.platform not in PLATFORMS:
        raise JobError(
            f"{record.endpoint}: expected a known platform, "
            f"{known_names(record.platform, PLATFORMS)}"
        )
    return validate(PLATFORMS[record.platform].profile, record.profile)


def _plain(profile: "Profile") -> dict[str, object]:
    return profile.model_dump(mode="json")


def _listed() -> Iterator["EndpointStatus"]:
    """The status of every recorded endpoint; unknown, with the reason, where it cannot be read."""
    from adapt.platforms.endpoint import EndpointStatus
    from adapt.platforms.endpoint_records import endpoints_path, read_endpoints

    for record in read_endpoints(endpoints_path(place_here().environment)):
        try:
            found = _connect(_profile_of(record)).status(record.endpoint)
        except (JobError, StoreError) as error:
            detail = str(error).splitlines()[0]
            found = EndpointStatus(record.endpoint, "unknown", "", detail)
        yield found
