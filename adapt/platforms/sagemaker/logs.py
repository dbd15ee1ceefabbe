"""The lines of a training job in CloudWatch: a stream for each machine, a new one after each
restart, merged by time."""

import heapq
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from adapt.platforms.platform import patiently
from adapt.platforms.sagemaker.errors import aws_errors

GROUP = "/aws/sagemaker/TrainingJobs"


class _Line(NamedTuple):
    time_ms: int
    host: str
    text: str


class JobLogs:
    """Remembers of each stream how far it was read, so that no line comes twice.

    `named` puts the machine's name before each line; `patient` asks again while CloudWatch does
    not answer.
    """

    def __init__(self, api: Any, job: str, named: bool, patient: bool) -> None:
        self._api, self._job, self._named, self._patient = api, job, named, patient
        self._tokens: dict[str, str] = {}

    def fresh(self) -> Iterator[str]:
        """The lines that are new since the last call; none where nothing is logged yet."""
        names = patiently(self._streams) if self._patient else self._streams()
        streams = [self._events(stream) for stream in names]
        for line in heapq.merge(*streams, key=lambda line: line.time_ms):
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

    def _events(self, stream: str) -> Iterator[_Line]:
        """Pages may be empty in the middle; the end is where the token stays as it was."""
        host = stream.rpartition("/")[2].rpartition("-")[0]
        while True:
            token = self._tokens.get(stream)
            look = partial(self._page, stream, token)
            page = patiently(look) if self._patient else look()
            for event in page["events"]:
                for text in event["message"].splitlines():
                    yield _Line(event["timestamp"], host, text)
            self._tokens[stream] = page["nextForwardToken"]
            if page["nextForwardToken"] == token:
                return

    def _page(self, stream: str, token: str | None) -> Any:
        more = {} if token is None else {"nextToken": token}
        with aws_errors(self._job, "logs"):
            return self._api.get_log_events(
                logGroupName=GROUP, logStreamName=stream, startFromHead=True, **more
            )
