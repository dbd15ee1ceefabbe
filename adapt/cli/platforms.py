"""Commands about jobs on platforms: submit, jobs, status, logs, stop.

Platforms are imported where they are used: the ranks of a job import this module too.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from adapt.cli import completion
from adapt.cli.confirm import confirm, print_request, show_facts
from adapt.cli.messages import print_answer
from adapt.cli.options import (
    PROFILE_HELP,
    AsJson,
    MaxCost,
    Overrides,
    Profiled,
    SpecPath,
    console,
    job_and_place,
    place_here,
    with_options,
)
from adapt.errors import JobError
from storage.errors import StoreError

if TYPE_CHECKING:
    from adapt.platforms.platform import Client, JobStatus, Profile
    from adapt.platforms.submit import PreparedJob

commands = typer.Typer()

ProfilePath = Annotated[
    str,
    typer.Option("--to", metavar="PROFILE", help=PROFILE_HELP, autocompletion=completion.profiles),
]
MaybeProfile = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="PROFILE",
        help="Profile, for jobs that were not submitted from here.",
        autocompletion=completion.profiles,
    ),
]
JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="Name of a job, as `submit` and `jobs` show it.")
]


@commands.command()
def submit(
    spec: SpecPath,
    to: ProfilePath,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the request as YAML; send nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Submit without confirmation.")] = False,
    following: Annotated[
        bool, typer.Option("--follow", "-f", help="Show the log until the job ends.")
    ] = False,
    restart: Annotated[
        int,
        typer.Option(min=0, help="With --follow: how often to submit a reclaimed job again."),
    ] = 0,
    max_cost: MaxCost = None,
    profiled: Profiled = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job to a platform, after showing what will run where.

    With --follow the exit code is the job's. Ctrl-C ends the following, not the job.
    """
    if restart and not following:
        raise JobError(
            "--restart: expected --follow beside it, which notices the end, got --restart alone",
            "add --follow",
        )
    from adapt.check.subject import Subject
    from adapt.platforms import load_profile
    from adapt.platforms.submit import exit_code_of, facts_of, prepare_job, priced
    from adapt.trainer.problems import WITHOUT_SECRETS, refuse_problems

    job, place = job_and_place(spec, with_options(overrides, max_cost, profiled))
    profile = load_profile(to)
    job = priced(job, profile)
    refuse_problems(job, Subject(job, place, profile).place_of_job, WITHOUT_SECRETS)
    plan = prepare_job(job, profile)
    if dry_run:
        print_request(plan.request)
        return
    show_facts(facts_of(plan, restart + 1))
    confirm("submit", "Submit?", yes, "pass --yes to submit or --dry-run to preview")
    client = plan.platform.connect(profile, place.environment)
    for attempt in range(1, restart + 2):
        name = _send(plan, client, as_json)
        if not following:
            return
        status = _follow(client, name)
        if status.state != "interrupted" or attempt > restart:
            raise typer.Exit(exit_code_of(status))
        console.print(f"{name} was interrupted; submitting it again ({attempt} of {restart})")
        plan = prepare_job(job, profile, attempt + 1)


@commands.command()
def jobs(to: MaybeProfile = None, as_json: AsJson = False) -> None:
    """List the jobs that were submitted from here, or all of a profile's, the newest first."""
    from adapt.platforms import load_profile

    found = list(_listed() if to is None else _connect(load_profile(to)).jobs())
    if as_json:
        print_answer([status._asdict() for status in found])
        return
    table = Table("job", "state", "exit code", "detail")
    for status in found:
        code = "" if status.exit_code is None else str(status.exit_code)
        table.add_row(status.job, status.state, code, status.detail)
    Console().print(table)


@commands.command()
def status(job: JobName, to: MaybeProfile = None, as_json: AsJson = False) -> None:
    """Show the status of a job; ends with 0 in every state."""
    client, name = _reach(job, to)
    found = client.status(name)
    print_answer(found._asdict() if as_json else _described(found))


@commands.command()
def logs(
    job: JobName,
    to: MaybeProfile = None,
    following: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Follow until the job ends; then end with its exit code."
        ),
    ] = False,
) -> None:
    """Print a job's log, all nodes'."""
    from adapt.platforms.submit import exit_code_of

    client, name = _reach(job, to)
    if following:
        raise typer.Exit(exit_code_of(_follow(client, name)))
    for line in client.logs(name, follow=False):
        typer.echo(line)


@commands.command()
def stop(job: JobName, to: MaybeProfile = None) -> None:
    """Stop a job: it saves and ends. Submit it again to resume."""
    from adapt.platforms.platform import ENDED

    client, name = _reach(job, to)
    before = client.status(name)
    client.stop(name)
    if before.state in ENDED:
        console.print(f"{_described(before)}; there is nothing to stop", highlight=False)
    elif before.state == "waiting":
        console.print(f"{name}: stopping; it has not begun")
    else:
        console.print(f"{name}: stopping; it saves and ends")


def _send(plan: "PreparedJob", client: "Client", as_json: bool) -> str:
    """Send a prepared job, record it, and print the next commands; the platform's name of it."""
    from adapt.platforms.records import record_job

    name, (ours, job) = client.submit(plan.request), plan.submission
    environment = place_here().environment
    record_job(environment, name, ours, job.name, plan.profile, plan.tracking_uri)
    if as_json:
        print_answer({"job": ours, "platform_job": name, "run": job.name})
    console.print(f"[green]submitted[/green]: {ours}", highlight=False)
    for what, command in (
        ("follow", f"logs {ours} -f"),
        ("stop", f"stop {ours}"),
        ("fetch the best", f"download-best {ours} --out best"),
    ):
        line = f"{what}: segadapt {command}"
        console.print(line, highlight=False, soft_wrap=True)
    return name


def _follow(client: "Client", name: str) -> "JobStatus":
    from adapt.platforms.submit import follow

    try:
        found = follow(client, name, typer.echo)
    except KeyboardInterrupt:
        console.print(f"{name} continues; only the following ended")
        raise typer.Exit(130) from None
    console.print(_described(found), highlight=False, soft_wrap=True)
    return found


def _described(status: "JobStatus") -> str:
    code = "" if status.exit_code is None else f" (exit code {status.exit_code})"
    detail = f": {status.detail}" if status.detail else ""
    return f"{status.job} {status.state}{code}{detail}"


def _reach(job: str, to: str | None) -> tuple["Client", str]:
    """A client for a job, and the platform's name of it."""
    from adapt.platforms import load_profile, recorded_profile
    from adapt.platforms.records import find_record, records_path

    if to is not None:
        return _connect(load_profile(to)), job
    record = find_record(records_path(place_here().environment), job)
    return _connect(recorded_profile(record.name, record.platform, record.profile)), record.job


def _connect(profile: "Profile") -> "Client":
    from adapt.platforms import PLATFORMS

    return PLATFORMS[profile.platform].connect(profile, place_here().environment)


def _listed() -> Iterator["JobStatus"]:
    """The status of every recorded job; unknown, with the reason, where it cannot be read."""
    from adapt.platforms import recorded_profile
    from adapt.platforms.platform import JobStatus
    from adapt.platforms.records import read_records, records_path

    for record in read_records(records_path(place_here().environment)):
        try:
            profile = recorded_profile(record.name, record.platform, record.profile)
            found = _connect(profile).status(record.job)
        except (JobError, StoreError) as error:
            found = JobStatus(record.job, "unknown", str(error).splitlines()[0])
        yield found._replace(job=record.name)
