"""`predict --to`: a set as jobs of a platform, a slice each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

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
    from adapt.platforms.predict_jobs import Asked, facts_of, prepare_prediction
    from storage.stores import Stores

    _check_base(context.params["base"])
    profile, place = load_profile(sending.to, sending.overrides), place_here()
    job = None if spec is None else job_and_place(spec, None)[0]
    stores = Stores({} if job is None else job.stores, place.environment)
    asked = Asked(model, inputs, out, _forwarded(context), sending.num_slices, sending.part)
    plan = prepare_prediction(asked, profile, stores, job, tracking_uri or place.tracking_uri)
    if sending.dry_run:
        print_request(plan.requests)
        return
    show_facts(facts_of(plan))
    confirm("predict", "Submit?", sending.yes, "pass --yes to submit or --dry-run to preview")
    client = plan.platform.connect(profile, place.environment)
    sent = _send_all(plan, client)
    if sending.as_json:
        print_answer({"out": out, "jobs": sent})
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


def _forwarded(context: typer.Context) -> list[str]:
    """The options that were given, as words."""
    words: list[str] = []
    for param in context.command.params:
        source = context.get_parameter_source(str(param.name))
        if param.name in FORWARDED and source is not None and source.name == "COMMANDLINE":
            value = context.params[str(param.name)]
            words += [param.opts[0]] if value is True else [param.opts[0], str(value)]
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
