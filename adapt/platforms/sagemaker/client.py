"""A connection to SageMaker over boto3: submit, status, logs, stop, jobs, check. Jobs are training
jobs, or the processing jobs of `predict --to`."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from heapq import merge
from typing import Any

from adapt.errors import JobError
from adapt.platforms import following
from adapt.platforms.platform import ENDED, Finding, JobStatus, Request
from adapt.platforms.sagemaker.api import AwsApis
from adapt.platforms.sagemaker.checks import findings
from adapt.platforms.sagemaker.errors import aws_errors, is_absent
from adapt.platforms.sagemaker.job_kinds import (
    KINDS,
    JobKind,
    kind_of,
    processing_status,
    training_status,
)
from adapt.platforms.sagemaker.logs import CloudWatchLog
from adapt.platforms.sagemaker.profile import SageMakerProfile

POLL_S = 5.0
QUIET_POLLS = 2
"""Fetches without a new line before a log counts as complete: CloudWatch lags behind."""

_SETS = ("predict-", "verify-")
_SLICE = re.compile(r".+-\d{6}-\d{6}-\d+")
"""Our names of processing jobs, by which they are found: lists of them have no tags."""


class SageMakerClient(AwsApis):
    """`adapt.platforms.platform.Client` for one account and region."""

    def __init__(self, profile: SageMakerProfile, environment: Mapping[str, str]) -> None:
        super().__init__(profile, environment)
        self._kinds: dict[str, JobKind] = {}

    def submit(self, request: Request) -> str:
        """Create the job; its name.

        Where the SDK had to retry, a name in use is that of its own first attempt.
        """
        from botocore.exceptions import ClientError

        kind = kind_of(request)
        name = str(request[kind.name_key])
        with aws_errors(name, "sagemaker"):
            try:
                getattr(self.api("sagemaker"), kind.create)(**request)
            except ClientError as error:
                code, facts = error.response["Error"]["Code"], error.response["ResponseMetadata"]
                if code != "ResourceInUse" or not facts.get("RetryAttempts"):
                    raise
        self._kinds[name] = kind
        return name

    def status(self, job: str) -> JobStatus:
        """The status of a job."""
        kind, answer = self._describe(job)
        return kind.status_of(answer)

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """The lines of all machines; with `follow` until the job ended and CloudWatch is quiet,
        over outages of AWS too."""
        describe = partial(self._describe, job)
        kind, answer = following.over_outages(describe) if follow else describe()
        log = CloudWatchLog(self.api("logs"), job, kind.streams, named=kind.nodes_of(answer) > 1)
        if not follow:
            yield from log.new_lines(True)
            return
        yield from following.follow(
            log.new_lines, lambda: self.status(job).state in ENDED, POLL_S, QUIET_POLLS
        )

    def stop(self, job: str) -> None:
        """Request SIGTERM; a training job has 120 s then. A job that ends or has ended is left as
        it is."""
        kind = self._kinds.get(job) or self._describe(job)[0]
        try:
            with aws_errors(job, "sagemaker"):
                getattr(self.api("sagemaker"), kind.stop)(**{kind.name_key: job})
        except JobError:
            if self._describe(job)[1][kind.status_key] == "InProgress":
                raise

    def jobs(self) -> Iterable[JobStatus]:
        """The training jobs with our tag and the processing jobs with our form of names, the newest
        first."""
        processed = map(self._processed, _SETS)
        every = merge(self._trained(), *processed, key=lambda one: -one[0])
        return (status for _, status in every)

    def check(self, request: Request) -> Iterator[Finding]:
        """Credentials, role, image, buckets and quota."""
        return findings(self, self._profile, request)

    def _trained(self) -> Iterator[tuple[float, JobStatus]]:
        """(when it was created, in seconds; status) of training jobs."""
        tag = {"Name": "Tags.segadapt", "Operator": "Equals", "Value": "job"}
        search: dict[str, Any] = {
            "Resource": "TrainingJob",
            "SearchExpression": {"Filters": [tag]},
            "SortBy": "CreationTime",
            "SortOrder": "Descending",
        }
        for answer in self._pages("search", search):
            for result in answer["Results"]:
                found = result["TrainingJob"]
                yield found["CreationTime"].timestamp(), training_status(found)

    def _processed(self, names: str) -> Iterator[tuple[float, JobStatus]]:
        """The same of processing jobs, whose names begin so; lists do not tell waiting from
        running."""
        asked = {"NameContains": names, "SortBy": "CreationTime", "SortOrder": "Descending"}
        for answer in self._pages("list_processing_jobs", asked):
            for found in answer["ProcessingJobSummaries"]:
                name, first = found["ProcessingJobName"], found["ProcessingJobStatus"]
                if name.startswith(names) and _SLICE.fullmatch(name):
                    status = self.status(name) if first == "InProgress" else None
                    yield found["CreationTime"].timestamp(), status or processing_status(found)

    def _pages(self, method: str, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while True:
            with aws_errors("jobs", "sagemaker"):
                answer = getattr(self.api("sagemaker"), method)(**asked)
            yield answer
            if not answer.get("NextToken"):
                return
            asked = {**asked, "NextToken": answer["NextToken"]}

    def _describe(self, job: str) -> tuple[JobKind, dict[str, Any]]:
        """The kind and the description of a job."""
        from botocore.exceptions import ClientError

        kinds = (self._kinds[job],) if job in self._kinds else KINDS
        with aws_errors(job, "sagemaker"):
            for kind in kinds:
                try:
                    answer = getattr(self.api("sagemaker"), kind.describe)(**{kind.name_key: job})
                except ClientError as error:
                    if kind is kinds[-1] or not is_absent(error):
                        raise
                else:
                    self._kinds[job] = kind
                    return kind, answer
        raise AssertionError("the last kind answers or raises")
