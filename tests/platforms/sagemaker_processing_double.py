"""The account's processing jobs, behind the protocols of `tests.platforms.aws_server`.

A job goes through its states one description at a time. What AWS refuses beyond its model is
refused here: a name in use, a stop of what has ended, a disk larger than the machine's own.
"""

from typing import Any

from tests.platforms.aws_server import REGION, AwsRefused

ACCOUNT = "111122223333"
ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:processing-job"
RUNS = ["InProgress", "Running", "Completed"]
"""`Running` is `InProgress` with a time of its start."""
OWN_DISK_GB = {"ml.g5.xlarge": 250, "ml.g5.2xlarge": 450}


class ProcessingJobs:
    """`processing` is what was created, `states[NAME]` what its descriptions will say, `said` and
    `reason` what a job that ended says."""

    clock_s: float

    def __init__(self) -> None:
        self.processing: dict[str, dict[str, Any]] = {}
        self.states: dict[str, list[str]] = {}
        self.next_states = list(RUNS)
        self.reason, self.said = "", ""

    def _CreateProcessingJob(self, given: dict[str, Any]) -> dict[str, Any]:
        name, machine = given["ProcessingJobName"], given["ProcessingResources"]["ClusterConfig"]
        if name in self.processing:
            raise AwsRefused("ResourceInUse", f"Job name must be unique, {ARN}/{name} exists.")
        if machine["VolumeSizeInGB"] > OWN_DISK_GB.get(machine["InstanceType"], 16384):
            raise AwsRefused("ValidationException", "VolumeSizeInGB above the local storage")
        if machine["InstanceType"] in OWN_DISK_GB and "VolumeKmsKeyId" in machine:
            raise AwsRefused("ValidationException", "VolumeKmsKeyId with local storage")
        self.clock_s += 1
        made = {"ProcessingJobArn": f"{ARN}/{name}", "CreationTime": self.clock_s}
        self.processing[name] = {**given, **made}
        self.states[name] = list(self.next_states)
        return {"ProcessingJobArn": f"{ARN}/{name}"}

    def _DescribeProcessingJob(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["ProcessingJobName"]
        described = self._processed(name)
        if len(self.states[name]) > 1:
            self.states[name].pop(0)
        return described

    def _processed(self, name: str) -> dict[str, Any]:
        if name not in self.processing:
            raise AwsRefused(
                "ValidationException", f"Could not find requested job with name: {name}"
            )
        state = self.states[name][0]
        described = {k: v for k, v in self.processing[name].items() if k != "Tags"}
        described["ProcessingJobStatus"] = "InProgress" if state == "Running" else state
        if state != "InProgress":
            described["ProcessingStartTime"] = self.clock_s
        if state in ("Failed", "Stopped", "Completed"):
            described |= {"ExitMessage": self.said} if self.said else {}
        return described | ({"FailureReason": self.reason} if state == "Failed" else {})

    def _StopProcessingJob(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["ProcessingJobName"]
        status = self._processed(name)["ProcessingJobStatus"]
        if status != "InProgress":
            raise AwsRefused(
                "ValidationException",
                f"The request was rejected because the processing job is in status {status}.",
            )
        self.states[name] = ["Stopping", "Stopped"]
        return {}

    def _ListProcessingJobs(self, given: dict[str, Any]) -> dict[str, Any]:
        """Pages of two, without times of starts, as AWS's are."""
        assert given["SortOrder"] == "Descending" and given["SortBy"] == "CreationTime"
        found = [name for name in self.processing if given.get("NameContains", "") in name]
        found.sort(key=lambda name: -self.processing[name]["CreationTime"])
        at = int(given.get("NextToken", "0"))
        page = [self._summary(name) for name in found[at : at + 2]]
        more = {"NextToken": str(at + 2)} if len(found) > at + 2 else {}
        return {"ProcessingJobSummaries": page, **more}

    def _summary(self, name: str) -> dict[str, Any]:
        known = ("ProcessingJobName", "ProcessingJobArn", "CreationTime", "ProcessingJobStatus",
                 "FailureReason", "ExitMessage")  # fmt: skip
        return {key: value for key, value in self._processed(name).items() if key in known}
