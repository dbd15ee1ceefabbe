"""`predict --to`, `pack --to` and `verify --to`: work as jobs of a platform, a slice each."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from adapt.cli.confirm import confirm, print_request, show_facts
from adapt.cli.messages import print_answer
from adapt.cli.options import console, job_and_place, place_here
from adapt.errors import JobError, counted
from storage.errors import StoreError
from storage.uris import split_uri

if TYPE_CHECKING:
    from adapt.platforms.platform import Client
    from adapt.platforms.predict_jobs import PreparedPrediction
    from adapt.platforms.prediction import SetUri

FORWARDED = (
    *("write", "ids", "split", "overwrite", "batch_size", "threads", "device", "precision"),
    "base",
)
"""Parameters of `predict` that its jobs get as they were given."""


class Sending(NamedTuple):
    """How the jobs are sent: the profile and its changes, and what is shown."""

    to: str
    overrides: Sequence[str]
    num_slices: int | None
    part: str
    dry_run: bool
    yes: bool
    as_json: bool


def submit_slices(
    context: typer.Context,
    model: str,
    inputs: Sequence[str],
    out: str,
    spec: str | None,
    tracking_uri: str | None,
    sending: Sending,
) -> None:
    """Submit the jobs that predict `inputs` with `model`, after showing what will run where."""
    from adapt.platforms import load_profile
    from adapt.platforms.predict_jobs import Asked, prepare_prediction
    from storage.stores import Stores

    _check_base(context.params["base"])
    profile, place = load_profile(sending.to, sending.overrides), place_here()
    job = None if spec is None else job_and_place(spec, None)[0]
    stores = Stores({} if job is None else job.stores, place.environment)
    options = given_options(context, FORWARDED)
    asked = Asked(model, inputs, out, options, sending.num_slices, sending.part)
    plan = prepare_prediction(asked, profile, stores, job, tracking_uri or place.tracking_uri)
    send(plan, sending, {"out": out})


def submit_dataset(
    words: Sequence[str], uris: Sequence["SetUri"], spec: str | None, sending: Sending
) -> None:
    """Submit the jobs of a command on a dataset, whose `uris` are among its `words`."""
    from adapt.platforms import load_profile
    from adapt.platforms.data_jobs import Wanted, prepare_data_jobs
    from storage.stores import Stores

    profile, place = load_profile(sending.to, sending.overrides), place_here()
    job = None if spec is None else job_and_place(spec, None)[0]
    stores = Stores({} if job is None else job.stores, place.environment)
    wanted = Wanted(words, uris, sending.num_slices, sending.part)
    send(prepare_data_jobs(wanted, profile, stores, job), sending, {"uri": uris[-1].uri})


def send(plan: "PreparedPrediction", sending: Sending, answer: dict[str, Any]) -> None:
    """Show what will run where, ask, and send the jobs; or print their requests."""
    from adapt.platforms.predict_jobs import facts_of

    if sending.dry_run:
        print_request(plan.requests)
        return
    show_facts(facts_of(plan))
    confirm(
        plan.prediction.command,
        "Submit?",
        sending.yes,
        "pass --yes to submit or --dry-run to preview",
    )
    client = plan.platform.connect(plan.profile, place_here().environment)
    sent = _send_all(plan, client)
    if sending.as_json:
        print_answer({**answer, "jobs": sent})
    first = next(iter(plan.requests))
    for what, command in (
        ("all", "jobs"),
        ("log", f"logs {first} -f"),
        ("stop", f"stop {first}"),
    ):
        console.print(f"{what}: segadapt {command}", highlight=False, soft_wrap=True)


def _check_base(base: str | None) -> None:
    if base is not None and split_uri(base)[0] == "file":
        raise JobError(
            f"--base: expected the URI of a store, which the jobs read, got {base!r}",
            "copy it into a store and name its URI",
        )


def given_options(context: typer.Context, names: Collection[str]) -> list[str]:
    """The options of these parameters that were given, as words."""
    words: list[str] = []
    for param in context.command.params:
        source = context.get_parameter_source(str(param.name))
        if param.name in names and source is not None and source.name == "COMMANDLINE":
            value, option = context.params[str(param.name)], param.opts[0]
            if isinstance(value, tuple):
                words += [option, *map(str, value)]
            elif isinstance(value, list):
                words += [word for one in value for word in (option, str(one))]
            else:
                words += [option] if value is True else [option, str(value)]
    return words


def _send_all(plan: "PreparedPrediction", client: "Client") -> list[dict[str, str]]:
    """Send and record the jobs; their names."""
    from adapt.platforms.records import record_job

    environment = place_here().environment
    sent: list[dict[str, str]] = []
    for name, request in plan.requests.items():
        try:
            job = client.submit(request)
        except (JobError, StoreError):
            if sent:
                done = f"{len(sent)} of {counted(len(plan.requests), 'job')}"
                console.print(f"{done} were submitted; --slice I/N submits one more")
            raise
        record_job(environment, job, name, plan.prediction.name, plan.profile)
        console.print(f"[green]submitted[/green]: {name}", highlight=False)
        sent.append({"job": name, "platform_job": job})
    return sent
