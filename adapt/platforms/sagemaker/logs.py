"""The lines of a job or an endpoint in CloudWatch: a stream for each machine, a new one
after each restart, merged by time."""

import heapq
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from adapt.platforms.sagemaker.errors import aws_errors


class Streams(NamedTuple):
    """Where CloudWatch has the streams of a kind of thing called NAME: the group, what their names
    begin with, and whether they end with the time of a start."""

    group: str
    prefix: str
    dated: bool


TRAINING_JOBS = Streams("/aws/sagemaker/TrainingJobs", "{name}/", dated=True)
PROCESSING_JOBS = Streams("/aws/sagemaker/ProcessingJobs", "{name}/", dated=True)
"""`NAME/algo-1-1700000000`; without `/` it would match the namesakes `NAME-2/...`."""

ENDPOINTS = Streams("/aws/sagemaker/Endpoints/{name}", "", dated=False)
"""`main/i-0123456789abcdef0`, by variant and machine."""


class _Line(NamedTuple):
    time_ms: int
    host: str
    text: str


class CloudWatchLog:
    """The log of the machines of a job or an endpoint called `name`; `named` puts the machine's
    name before each line."""

    def __init__(self, api: Any, name: str, where: Streams, named: bool) -> None:
        self._api, self._name, self._where, self._named = api, name, where, named
        self._group, self._prefix = where.group.format(name=name), where.prefix.format(name=name)
        self._read: dict[str, _Stream] = {}

    def new_lines(self, _is_last: bool) -> Iterator[str]:
        """The lines after those that were given before; none where nothing is logged yet."""
        dated, names = self._where.dated, self._streams()
        streams = [self._read.setdefault(name, _Stream(name, dated)) for name in names]
        lines = [stream.new_lines(self._page) for stream in streams]
        for line in heapq.merge(*lines, key=lambda line: line.time_ms):
            yield f"{line.host} | {line.text}" if self._named else line.text

    def _streams(self) -> list[str]:
        from botocore.exceptions import ClientError

        only = {"logStreamNamePrefix": self._prefix} if self._prefix else {}
        found: list[str] = []
        with aws_errors(self._name, "logs"):
            try:
                pages = self._api.get_paginator("describe_log_streams").paginate(
                    logGroupName=self._group, **only
                )
                for page in pages:
                    found += [stream["logStreamName"] for stream in page["logStreams"]]
            except ClientError as error:
                if error.response["Error"]["Code"] != "ResourceNotFoundException":
                    raise  # the group comes with the first line
        return found

    def _page(self, stream: str, token: str | None) -> Any:
        more = {} if token is None else {"nextToken": token}
        with aws_errors(self._name, "logs"):
            return self._api.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **more
            )


class _Stream:
    """How far a stream was read: the token of the page, and how many of its lines were given."""

    def __init__(self, name: str, dated: bool) -> None:
        last = name.rpartition("/")[2]
        self._name, self._host = name, last.rpartition("-")[0] if dated else last
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
