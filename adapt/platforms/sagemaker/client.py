"""A connection to SageMaker over boto3: submit, status, logs, stop, jobs, check."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from adapt.errors import JobError
from adapt.platforms import following
from adapt.platforms.platform import ENDED, Finding, JobStatus, Request, State
from adapt.platforms.sagemaker.api import AwsApis
from adapt.platforms.sagemaker.checks import findings
from adapt.platforms.sagemaker.errors import aws_errors
from adapt.platforms.sagemaker.logs import JOBS, CloudWatchLog

POLL_S = 5.0
QUIET_POLLS = 2
"""Fetches without a new line before a log counts as complete: CloudWatch lags behind."""

DETAIL_CHARACTERS = 300
_TRANSIENT = ("InternalServerError", "CapacityError")
"""Failures of SageMaker's own."""

_LIMITS = {
    "MaxRuntimeExceeded": "max_hours is over. Fix: submit it again to resume",
    "MaxWaitTimeExceeded": "max_wait_hours is over. Fix: submit it again to resume",
}

_WAITING = {
    "Starting",
    "Pending",
    "LaunchingMLInstances",
    "PreparingTrainingStack",
    "Downloading",
    "DownloadingTrainingImage",
    "Interrupted",
    "Restarting",
}


class SageMakerClient(AwsApis):
    """`adapt.platforms.platform.Client` for one account and region."""

    def submit(self, request: Request) -> str:
        """Create the training job; its name.

        Where the SDK had to retry, a name in use is that of its own first attempt.
        """
        from botocore.exceptions import ClientError

        name = str(request["TrainingJobName"])
        with aws_errors(name, "sagemaker"):
            try:
                self.api("sagemaker").create_training_job(**request)
            except ClientError as error:
                code, facts = error.response["Error"]["Code"], error.response["ResponseMetadata"]
                if code != "ResourceInUse" or not facts.get("RetryAttempts"):
                    raise
        return name

    def status(self, job: str) -> JobStatus:
        """The status of a job."""
        return status_of(self._describe(job))

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """The lines of all machines; with `follow` until the job ended and CloudWatch is quiet,
        over outages of AWS too."""
        describe = partial(self._describe, job)
        answer = following.over_outages(describe) if follow else describe()
        nodes = answer.get("ResourceConfig", {}).get("InstanceCount", 1)
        log = CloudWatchLog(self.api("logs"), job, JOBS, named=nodes > 1)
        if not follow:
            yield from log.new_lines(True)
            return
        yield from following.follow(
            log.new_lines, lambda: self.status(job).state in ENDED, POLL_S, QUIET_POLLS
        )

    def stop(self, job: str) -> None:
        """Request SIGTERM; 120 s later the machines are gone. A job that ends or has ended is left
        as it is."""
        try:
            with aws_errors(job, "sagemaker"):
                self.api("sagemaker").stop_training_job(TrainingJobName=job)
        except JobError:
            if self._describe(job)["TrainingJobStatus"] == "InProgress":
                raise

    def jobs(self) -> Iterable[JobStatus]:
        """The jobs with our tag, the newest first."""
        tag = {"Name": "Tags.segadapt", "Operator": "Equals", "Value": "job"}
        search: dict[str, Any] = {
            "Resource": "TrainingJob",
            "SearchExpression": {"Filters": [tag]},
            "SortBy": "CreationTime",
            "SortOrder": "Descending",
        }
        while True:
            with aws_errors("jobs", "sagemaker"):
                answer = self.api("sagemaker").search(**search)
            for result in answer["Results"]:
                yield status_of(result["TrainingJob"])
            if not answer.get("NextToken"):
                return
            search["NextToken"] = answer["NextToken"]

    def check(self, request: Request) -> Iterator[Finding]:
        """Credentials, role, image, buckets and quota."""
        return findings(self, self._profile, request)

    def _describe(self, job: str) -> dict[str, Any]:
        with aws_errors(job, "sagemaker"):
            answer: dict[str, Any] = self.api("sagemaker").describe_training_job(
                TrainingJobName=job
            )
        return answer


def status_of(answer: Mapping[str, Any]) -> JobStatus:
    """SageMaker's description of a job -> its status.

    A fault of SageMaker's own is `interrupted`. A stop by a limit is `stopped`, since only the
    user should extend the limit.
    """
    second, reason = answer["SecondaryStatus"], answer.get("FailureReason", "")
    codes = re.findall(r"exit code:? *(\d+)", reason, re.IGNORECASE)
    code = int(codes[-1]) if codes else None
    transitions = answer.get("SecondaryStatusTransitions") or [{}]
    why = _LIMITS.get(second) or reason or transitions[-1].get("StatusMessage", "")
    detail = " ".join(f"{second}: {why}".split()).removesuffix(":")[:DETAIL_CHARACTERS]
    state = _state(answer["TrainingJobStatus"], second, reason, code)
    if state == "done":
        code = 0
    return JobStatus(answer["TrainingJobName"], state, detail, code)


def _state(first: str, second: str, reason: str, code: int | None) -> State:
    if first == "InProgress":
        return "waiting" if second in _WAITING else "running"
    if first == "Stopped":
        return "stopped"
    if first == "Failed":
        return "interrupted" if code == 75 or reason.startswith(_TRANSIENT) else "failed"
    others: dict[str, State] = {"Completed": "done", "Stopping": "running"}
    return others.get(first, "unknown")
