"""Submits jobs to platforms: names them, states their cost, follows them, and submits reclaimed
ones again."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from adapt.platforms import PLATFORMS
from adapt.platforms.cost import price_of
from adapt.platforms.following import over_outages
from adapt.platforms.gpus import check_gpus
from adapt.platforms.platform import (
    ENDED,
    Client,
    JobStatus,
    Platform,
    Profile,
    Request,
    Submission,
)
from adapt.platforms.reachable import CHECKPOINTS
from storage.uris import split_uri, without_password

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

NAME_CHARS = 40
POLL_S = 2.0
SETTLE_S = 120.0
"""Time that a platform may need, after a job's last line, to report its end."""


class PreparedJob(NamedTuple):
    """A job that is ready to be sent."""

    submission: Submission
    profile: Profile
    platform: Platform
    request: Request

    @property
    def tracking_uri(self) -> str | None:
        """The MLflow server that the job logs to; None without one."""
        named = self.submission.job.tracking.uri
        return named or self.profile.environment.get("MLFLOW_TRACKING_URI")


def prepare_job(
    job: "JobSpec", profile: Profile, attempt: int = 1, now: datetime | None = None
) -> PreparedJob:
    """The request and its parts.

    Raises `JobError` for values that the platform would refuse, and for GPUs that the image cannot
    run on.
    """
    if profile.gpus:
        check_gpus(profile)
    name = name_of(job.name, now or datetime.now(UTC), attempt)
    submission = Submission(name, priced(job, profile))
    platform = PLATFORMS[profile.platform]
    return PreparedJob(submission, profile, platform, platform.request(submission, profile))


def priced(job: "JobSpec", profile: Profile) -> "JobSpec":
    """The job with the profile's price, which its report shows, unless its spec has one."""
    if profile.price_per_hour is None or job.report.price_per_hour is not None:
        return job
    price = {"price_per_hour": profile.price_per_hour, "currency": profile.currency}
    return job.model_copy(update={"report": job.report.model_copy(update=price)})


def name_of(run: str, now: datetime, attempt: int, reserve: int = 0) -> str:
    """A platform's label for a run: its own name as far as that goes, the time, the attempt; with
    room for `reserve` characters at its end."""
    tail = f"-{now:%y%m%d-%H%M%S}" + (f"-r{attempt}" if attempt > 1 else "")
    label = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"job-{label}"
    return label[: NAME_CHARS - len(tail) - reserve].rstrip("-") + tail


def facts_of(plan: PreparedJob, submissions: int = 1) -> dict[str, str]:
    """The facts to confirm before a job is sent, a line each; it is submitted so often at most."""
    job, profile = plan.submission.job, plan.profile
    each = f"{profile.gpus} GPU{'' if profile.gpus == 1 else 's'}" if profile.gpus else "CPU"
    nodes = f"{profile.nodes} node{'' if profile.nodes == 1 else 's'} x {each}"
    tracking = plan.tracking_uri
    again = "submit --follow --restart N submits a reclaimed job again"
    if plan.platform.restarts(profile):
        again = f"by the platform; after its last attempt, {again}"
    facts = {
        "run": job.name,
        "job": plan.submission.name,
        "platform": f"{profile.platform}, {nodes}",
        "image": profile.image,
        **{key: _really(profile, key, uri, job.name) for key, uri in job.uris().items()},
        **profile.results(job.name, plan.submission.name),
        "MLflow": without_password(tracking) if tracking else "a file beside the checkpoints",
        "steps": f"{job.train.steps} of {job.method.name} over {job.model.architecture}",
        "grace": f"{plan.platform.grace_s(profile):.0f} s from the platform's stop to its kill",
        "restarts": again,
    }
    price = price_of(job, profile, submissions)
    return facts if price is None else {**facts, "price": price}


def _really(profile: Profile, key: str, uri: str, run: str) -> str:
    """The URI that the job will really read or write for a key of the spec."""
    replaced = profile.checkpoints_at(run) if key == CHECKPOINTS else profile.replaced().get(key)
    if replaced is not None:
        return f"{replaced}, in place of the spec's {uri}"
    scheme, path = split_uri(uri)
    mounted = profile.outside(path) if scheme == "file" else None
    return uri if mounted is None else f"{uri}, which is {mounted}"


def follow(client: Client, job: str, show: Callable[[str], None]) -> JobStatus:
    """Show a job's log until it ended; returns its last status. Outages are retried."""
    for line in client.logs(job, follow=True):
        show(line)
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        status = over_outages(lambda: client.status(job))
        if status.state in ENDED or time.monotonic() > deadline_s:
            return status
        time.sleep(POLL_S)


def exit_code_of(status: JobStatus) -> int:
    """The exit code of a command that followed a job: the job's own where it is known."""
    if status.state == "done":
        return 0
    if status.state in ("interrupted", "stopped"):
        return 75
    return status.exit_code or 1
