"""The lines of a training job in CloudWatch: a stream for each machine, a new one after each
restart, merged by time."""

import heapq
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from adapt.platforms.sagemaker.errors import aws_errors

GROUP = "/aws/sagemaker/TrainingJobs"


class _Line(NamedTuple):
    time_ms: int
    host: str
    text: str


class CloudWatchLog:
    """The log of a job's machines; `named` puts the machine's name before each line."""

    def __init__(self, api: Any, job: str, named: bool) -> None:
        self._api, self._job, self._named = api, job, named
        self._read: dict[str, _Stream] = {}

    def new_lines(self, _is_last: bool) -> Iterator[str]:
        """The lines after those that were given before; none where nothing is logged yet."""
        streams = [self._read.setdefault(name, _Stream(name)) for name in self._streams()]
        lines = [stream.new_lines(self._page) for stream in streams]
        for line in heapq.merge(*lines, key=lambda line: line.time_ms):
            yield f"{line.host} | {line.text}" if self._named else line.text

    def _streams(self) -> list[str]:
        from botocore.exceptions import ClientError

        prefix = f"{self._job}/"  # without `/` it would match the namesakes `job-2/...`
        found: list[str] = []
        with aws_errors(self._job, "logs"):
            try:
                pages = self._api.get_paginator("describe_log_streams").paginate(
                    logGroupName=GROUP, logStreamNamePrefix=prefix
                )
                for page in pages:
                    found += [stream["logStreamName"] for stream in page["logStreams"]]
            except ClientError as error:
                if error.response["Error"]["Code"] != "ResourceNotFoundException":
                    raise  # the group comes with the account's first line
        return found

    def _page(self, stream: str, token: str | None) -> Any:
        more = {} if token is None else {"nextToken": token}
        with aws_errors(self._job, "logs"):
            return self._api.get_log_events(
                logGroupName=GROUP, logStreamName=stream, startFromHead=True, **more
            )


class _Stream:
    """How far a stream was read: the token of the page, and how many of its lines were given."""

    def __init__(self, name: str) -> None:
        self._name, self._host = name, name.rpartition("/")[2].rpartition("-")[0]
        self._token: str | None = None
        self._given = 0

    def new_lines(self, fetch_page: Callable[[str, str | None], Any]) -> Iterator[_Line]:
        """Pages may be empty in the middle; the end is where the token stays as it was."""
        while True:
            page = fetch_page(self._name, self._token)
            for line in self._lines(page)[self._given :]:
                yield line
                self._given += 1  # not before the line was taken: the merge reads ahead
            is_end = page["nextForwardToken"] == self._token
            self._token, self._given = page["nextForwardToken"], 0
            if is_end:
                return

    def _lines(self, page: Any) -> list[_Line]:
        return [
            _Line(event["timestamp"], self._host, text)
            for event in page["events"]
            for text in event["message"].splitlines()
        ]
