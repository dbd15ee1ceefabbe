"""Commands about endpoints on platforms: deploy, endpoints, undeploy.

`status` and `logs` are about jobs; endpoints have theirs in the group `endpoints`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from adapt.cli.confirm import confirm, print_request, show_facts
from adapt.cli.deploy_options import (
    DryRun,
    Follow,
    MaybeProfile,
    Model,
    Name,
    NewName,
    Overrides,
    To,
    Wait,
    Yes,
    YesRemove,
)
from adapt.cli.messages import print_answer
from adapt.cli.options import AsJson, StoresFrom, console, job_and_place, place_here
from adapt.errors import JobError
from storage.errors import StoreError

if TYPE_CHECKING:
    from adapt.platforms.deploy import PreparedEndpoint
    from adapt.platforms.endpoint import EndpointClient, EndpointStatus
    from adapt.platforms.platform import Profile

commands = typer.Typer()
group = typer.Typer(
    invoke_without_command=True, help="List the endpoints; show the status or the log of one."
)
commands.add_typer(group, name="endpoints")

LOG_TAIL = 15
"""Last lines of the log of an endpoint that does not become ready."""


@commands.command()
def deploy(
    model: Model,
    to: To,
    name: NewName = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = True,
    spec: StoresFrom = None,
    as_json: AsJson = False,
) -> None:
    """Serve a model on a platform, after showing what will run, at which price, and who reaches it.

    What runs is the image of the profile with `segadapt serve`. Ctrl-C ends the waiting, not the
    endpoint.
    """
    from adapt.platforms import load_profile
    from adapt.platforms.deploy import facts_of, prepare_endpoint
    from storage.stores import Stores

    profile, place = load_profile(to, overrides or ()), place_here()
    job = None if spec is None else job_and_place(spec, None)[0]
    stores = Stores({} if job is None else job.stores, place.environment)
    plan = prepare_endpoint(model, profile, stores, name, place.tracking_uri, job)
    missing = plan.serving.after_ready(profile)
    if missing and not wait:
        raise JobError(
            f"--no-wait: expected --wait, since {missing} can be made only when the endpoint is "
            "ready, got --no-wait",
            "remove it, or serve.max_replicas",
        )
    if dry_run:
        print_request(plan.request)
        return
    show_facts(facts_of(plan))
    confirm("deploy", "Deploy?", yes)
    client = plan.serving.connect(profile, place.environment)
    status = _send(plan, client, wait)
    if as_json:
        print_answer(status._asdict())


@group.callback()
def endpoints(context: typer.Context, to: MaybeProfile = None, as_json: AsJson = False) -> None:
    """List the endpoints that were deployed from here, or all of a profile's, the newest first."""
    if context.invoked_subcommand is not None:
        return
    from adapt.platforms import load_profile

    found = list(_listed() if to is None else _connect(load_profile(to)).endpoints())
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
    following: Follow = False,
) -> None:
    """Print the log of an endpoint, all replicas'."""
    for line in _reach(name, to).logs(name, following):
        typer.echo(line)


@commands.command()
def undeploy(name: Name, to: MaybeProfile = None, yes: YesRemove = False) -> None:
    """Remove an endpoint: it finishes what is in flight and ends; the model stays where it is."""
    from adapt.platforms import load_profile
    from adapt.platforms.endpoint_records import endpoints_path, forget_endpoint, read_endpoints

    client = _reach(name, to)
    console.print(_described(client.status(name)), highlight=False, soft_wrap=True)
    confirm("undeploy", "Remove it?", yes)
    client.undeploy(name)
    path = endpoints_path(place_here().environment)
    for record in read_endpoints(path):
        if record.endpoint == name and (to is None or record.profile == _plain(load_profile(to))):
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
    status = _ready(plan, client, name) if wait else client.status(name)
    for what, command in (
        ("status", f"endpoints status {name}"),
        ("log", f"endpoints logs {name} -f"),
        ("remove", f"undeploy {name}"),
    ):
        console.print(f"{what}: segadapt {command}", highlight=False, soft_wrap=True)
    return status


def _ready(plan: "PreparedEndpoint", client: "EndpointClient", name: str) -> "EndpointStatus":
    """Wait with a line that shows the status; print the end of the log where it fails."""
    from adapt.platforms.deploy import wait_until_ready

    try:
        with console.status(f"{name}: starting") as line:

            def show(status: "EndpointStatus", waited_s: float) -> None:
                line.update(f"{_described(status)} ({waited_s:.0f} s)")

            status = wait_until_ready(client, name, show)
    except KeyboardInterrupt:
        missing = plan.serving.after_ready(plan.profile)
        lost = f", and {missing} was not made: undeploy and deploy again" if missing else ""
        console.print(f"{name} continues; only the waiting ended{lost}", soft_wrap=True)
        raise typer.Exit(130) from None
    except JobError:
        for text in list(client.logs(name, follow=False))[-LOG_TAIL:]:
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        raise
    client.complete(plan.request)
    console.print(_described(status), highlight=False, soft_wrap=True)
    return status


def _described(status: "EndpointStatus") -> str:
    detail = f": {status.detail}" if status.detail else ""
    return (
        f"{status.endpoint} {status.state}" + (f" at {status.url}" if status.url else "") + detail
    )


def _reach(name: str, to: str | None) -> "EndpointClient":
    from adapt.platforms import load_profile, recorded_profile
    from adapt.platforms.endpoint_records import endpoints_path, find_endpoint

    if to is not None:
        return _connect(load_profile(to))
    record = find_endpoint(endpoints_path(place_here().environment), name)
    return _connect(recorded_profile(name, record.platform, record.profile))


def _connect(profile: "Profile") -> "EndpointClient":
    from adapt.platforms.deploy import serving_of

    return serving_of(profile).connect(profile, place_here().environment)


def _plain(profile: "Profile") -> dict[str, object]:
    return profile.model_dump(mode="json")


def _listed() -> Iterator["EndpointStatus"]:
    """The status of every recorded endpoint; unknown, with the reason, where it cannot be read."""
    from adapt.platforms import recorded_profile
    from adapt.platforms.endpoint import EndpointStatus
    from adapt.platforms.endpoint_records import endpoints_path, read_endpoints

    for record in read_endpoints(endpoints_path(place_here().environment)):
        name = record.endpoint
        try:
            profile = recorded_profile(name, record.platform, record.profile)
            found = _connect(profile).status(name)
        except (JobError, StoreError) as error:
            detail = str(error).splitlines()[0]
            found = EndpointStatus(name, "unknown", "", detail)
        yield found
