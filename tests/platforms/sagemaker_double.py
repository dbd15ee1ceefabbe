"""An AWS account on loopback, behind the strict protocols of `tests.platforms.aws_server`.

Jobs go through their states one description at a time; lists come in small pages, as AWS's do.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.platforms.aws_server import REGION, AwsRefused, serve
from tests.platforms.sagemaker_processing_double import ACCOUNT, ProcessingJobs

ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job"
DIGEST = "sha256:" + "a" * 64
RUNS = [
    ("InProgress", "Starting"),
    ("InProgress", "Downloading"),
    ("InProgress", "Training"),
    ("InProgress", "Uploading"),
    ("Completed", "Completed"),
]


class Call(NamedTuple):
    """One request that was understood."""

    action: str
    given: dict[str, Any]


class SageMakerDouble(ProcessingJobs):
    """What the account holds, and what was asked. `failures[ACTION]` are answered first, one each;
    `broken` actions do their work and hang up, once each."""

    def __init__(self) -> None:
        super().__init__()
        self.url = ""
        self.calls: list[Call] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.scripts: dict[str, list[tuple[str, str]]] = {}
        self.next_script = list(RUNS)
        self.streams: dict[str, list[tuple[int, str]]] = {}
        self.later: list[dict[str, list[tuple[int, str]]]] = []
        self.failures: dict[str, list[AwsRefused]] = {}
        self.broken: set[str] = set()
        self.images = {"segadapt": ["0.1.0", DIGEST]}
        self.buckets = {"my-bucket": REGION}
        self.forbidden: set[str] = set()
        self.quotas = {"ml.g5.2xlarge for spot training job usage": 2.0}
        self.clock_s = time.time()

    def fails(
        self, action: str, code: str, message: str, status: int = 400, times: int = 1
    ) -> None:
        """Have the next `times` calls of an action refused."""
        self.failures.setdefault(action, []).extend([AwsRefused(code, message, status)] * times)

    def actions(self) -> list[str]:
        """The names of all that was asked."""
        return [call.action for call in self.calls]

    def answer(self, action: str, given: dict[str, Any]) -> dict[str, Any]:
        """Do what an action says. Raises `AwsRefused`."""
        self.calls.append(Call(action, given))
        if self.failures.get(action):
            raise self.failures[action].pop(0)
        return getattr(self, f"_{action}")(given)  # type: ignore[no-any-return]

    def _CreateTrainingJob(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["TrainingJobName"]
        if name in self.jobs:
            raise AwsRefused(
                "ResourceInUse",
                "Training job names must be unique within an AWS account and region, and a "
                f"training job with this name already exists ({ARN}/{name})",
            )
        check_combinations(given)
        self.clock_s += 1
        self.jobs[name] = {**given, "TrainingJobArn": f"{ARN}/{name}", "CreationTime": self.clock_s}
        self.scripts[name] = list(self.next_script)
        return {"TrainingJobArn": f"{ARN}/{name}"}

    def _DescribeTrainingJob(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["TrainingJobName"]
        described = self._described(name)
        if len(self.scripts[name]) > 1:
            self.scripts[name].pop(0)
        if self.later:
            self.streams.update(self.later.pop(0))
        return described

    def _described(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise AwsRefused("ValidationException", "Requested resource not found.")
        first, second = self.scripts[name][0]
        job = {key: self.jobs[name][key] for key in DESCRIBED if key in self.jobs[name]}
        transition = {"Status": second, "StartTime": self.clock_s, "StatusMessage": f"{second} now"}
        return {
            **job,
            "TrainingJobName": name,
            "TrainingJobStatus": first,
            "SecondaryStatus": second,
            "SecondaryStatusTransitions": [transition],
            "ModelArtifacts": {"S3ModelArtifacts": f"s3://my-bucket/{name}/output/model"},
            **({"FailureReason": self.reason} if first == "Failed" else {}),
        }

    def _StopTrainingJob(self, given: dict[str, Any]) -> dict[str, Any]:
        status = self._described(given["TrainingJobName"])["TrainingJobStatus"]
        if status != "InProgress":
            raise AwsRefused(
                "ValidationException",
                f"The request was rejected because the training job is in status {status}.",
            )
        self.scripts[given["TrainingJobName"]] = [("Stopping", "Stopping"), ("Stopped", "Stopped")]
        return {}

    def _Search(self, given: dict[str, Any]) -> dict[str, Any]:
        """Pages of two."""
        (wanted,) = given["SearchExpression"]["Filters"]
        assert wanted["Operator"] == "Equals" and given["SortOrder"] == "Descending"
        assert given["Resource"] == "TrainingJob" and given["SortBy"] == "CreationTime"
        tag = {"Key": wanted["Name"].removeprefix("Tags."), "Value": wanted["Value"]}
        found = [name for name, job in self.jobs.items() if tag in job.get("Tags", [])]
        found.sort(key=lambda name: -self.jobs[name]["CreationTime"])
        at = int(given.get("NextToken", "0"))
        page = [{"TrainingJob": self._described(name)} for name in found[at : at + 2]]
        return {"Results": page, **({"NextToken": str(at + 2)} if len(found) > at + 2 else {})}

    def _DescribeLogStreams(self, given: dict[str, Any]) -> dict[str, Any]:
        """Pages of one."""
        is_set = given["logStreamNamePrefix"].rstrip("/") in self.processing
        kind = "ProcessingJobs" if is_set else "TrainingJobs"
        assert given["logGroupName"] == f"/aws/sagemaker/{kind}"
        if not self.streams:
            raise AwsRefused("ResourceNotFoundException", "The specified log group does not exist.")
        names = sorted(n for n in self.streams if n.startswith(given["logStreamNamePrefix"]))
        at = int(given.get("nextToken", "0"))
        more = {"nextToken": str(at + 1)} if len(names) > at + 1 else {}
        return {"logStreams": [{"logStreamName": name} for name in names[at : at + 1]], **more}

    def _GetLogEvents(self, given: dict[str, Any]) -> dict[str, Any]:
        """Pages of two events, and an empty one after the first, as CloudWatch has them."""
        assert given["startFromHead"] is True
        events = self.streams[given["logStreamName"]]
        at, _, empty = given.get("nextToken", "f/0").removeprefix("f/").partition("/")
        start = int(at)
        page = [] if empty else events[start : start + 2]
        token = f"f/{start + len(page)}" + ("/empty" if start == 0 and page else "")
        return {
            "events": [{"timestamp": ms, "message": text} for ms, text in page],
            "nextForwardToken": token,
            "nextBackwardToken": "b/0",
        }

    def _DescribeImages(self, given: dict[str, Any]) -> dict[str, Any]:
        name, (wanted,) = given["repositoryName"], given["imageIds"]
        where = f"in the registry with id '{given['registryId']}'"
        if name not in self.images:
            message = f"The repository with name '{name}' does not exist {where}"
            raise AwsRefused("RepositoryNotFoundException", message)
        if next(iter(wanted.values())) not in self.images[name]:
            message = f"The image with imageId {wanted} does not exist within the repository"
            raise AwsRefused("ImageNotFoundException", message)
        detail = {"imageDigest": DIGEST, "imageSizeInBytes": 6_500_000_000}
        return {"imageDetails": [detail]}

    def _ListServiceQuotas(self, given: dict[str, Any]) -> dict[str, Any]:
        """Pages of one."""
        assert given["ServiceCode"] == "sagemaker"
        at, found = int(given.get("NextToken", "0")), list(self.quotas.items())
        page = [{"QuotaName": name, "Value": value} for name, value in found[at : at + 1]]
        return {"Quotas": page, **({"NextToken": str(at + 1)} if len(found) > at + 1 else {})}

    def _GetCallerIdentity(self, _given: dict[str, Any]) -> dict[str, Any]:
        return {"Account": ACCOUNT, "Arn": f"arn:aws:iam::{ACCOUNT}:user/me", "UserId": "AIDA"}

    def head_bucket(self, name: str) -> tuple[int, dict[str, str]]:
        """Status and headers of HEAD on a bucket."""
        self.calls.append(Call("HeadBucket", {"Bucket": name}))
        if name not in self.buckets:
            return 404, {}
        status = 403 if name in self.forbidden else 200
        return status, {"x-amz-bucket-region": self.buckets[name]}


DESCRIBED = {
    "RoleArn", "HyperParameters", "AlgorithmSpecification", "InputDataConfig", "OutputDataConfig",
    "ResourceConfig", "VpcConfig", "StoppingCondition", "CheckpointConfig", "Environment",
    "RetryStrategy", "TrainingJobArn", "CreationTime", "EnableManagedSpotTraining",
    "EnableInterContainerTrafficEncryption",
}  # fmt: skip


def check_combinations(job: dict[str, Any]) -> None:
    """What the service refuses beyond its model. Raises `AwsRefused`."""
    stopping, resources = job["StoppingCondition"], job["ResourceConfig"]
    wait_s, spot = stopping.get("MaxWaitTimeInSeconds"), job.get("EnableManagedSpotTraining")
    if spot and (wait_s is None or wait_s < stopping["MaxRuntimeInSeconds"]):
        raise AwsRefused("ValidationException", "MaxWaitTimeInSeconds below MaxRuntimeInSeconds")
    if not spot and wait_s is not None:
        raise AwsRefused(
            "ValidationException", "MaxWaitTimeInSeconds without managed spot training"
        )
    if spot and "KeepAlivePeriodInSeconds" in resources:
        raise AwsRefused("ValidationException", "A warm pool of spot instances")
    for metric in job["AlgorithmSpecification"].get("MetricDefinitions", []):
        if re.compile(metric["Regex"]).groups != 1:
            raise AwsRefused("ValidationException", f"{metric['Name']}: one capture group expected")
    for channel in job.get("InputDataConfig", []):
        uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
        if channel.get("InputMode") == "FastFile" and not uri.endswith("/"):
            raise AwsRefused("ValidationException", f"{uri}: FastFile needs a folder")


@contextmanager
def aws_double() -> Iterator[SageMakerDouble]:
    """A running double; its `url` is the address of every service."""
    double = SageMakerDouble()
    with serve(double) as double.url:
        yield double
