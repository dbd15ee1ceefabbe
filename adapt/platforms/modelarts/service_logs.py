"""The log of a service: its events, and the lines of its containers, which the Log Tank Service
keeps."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from adapt.errors import JobError
from adapt.platforms.modelarts.errors import NotThere
from adapt.platforms.modelarts.services import MOST_LINES, ServicesApi

OLDEST_S = 179 * 24 * 3600
"""The Log Tank Service answers for 180 days."""


class ServiceLog:
    """How far the events and lines of a service were read."""

    def __init__(self, api: ServicesApi, service: str) -> None:
        self._api, self._service = api, service
        self._events: dict[str, int] = {}
        self._last = 0
        self._told = ""
        self._described: Mapping[str, Any] = {}

    def new_lines(self, _is_last: bool) -> Iterator[str]:
        """The events that are new or happened again, then the lines after those that were given
        before, also of a service that is gone since."""
        events: list[Any] = []
        with suppress(NotThere):
            events = self._api.events(self._service)
            self._described = self._api.described(self._service)
        for event in events:
            times = int(event.get("event_count") or 1)
            if self._events.get(event["id"]) != times:
                self._events[event["id"]] = times
                yield _line(event)
        yield from self._of_containers(self._described)

    def _of_containers(self, described: Mapping[str, Any]) -> Iterator[str]:
        """Where they cannot be read the reason, once."""
        configs = (described.get("version") or {}).get("log_configs") or ()
        for one in configs:
            if one.get("type") == "STDOUT" and one.get("log_stream_id"):
                group, stream = str(one["log_group_id"]), str(one["log_stream_id"])
                try:
                    yield from self._lines(group, stream, int(described.get("create_at") or 0))
                except JobError as error:
                    told = (
                        f"lines of the containers: Log Tank Service, group {group}, stream "
                        f"{stream}, not read: {error.problem}"
                    )
                    if told != self._told:
                        self._told = told
                        yield told

    def _lines(self, group: str, stream: str, created_ms: int) -> Iterator[str]:
        now_ms = int(1000 * time.time())
        since_ms = max(created_ms, now_ms - 1000 * OLDEST_S, self._last // 10**6)
        while True:
            found = self._api.lines(group, stream, since_ms, max(now_ms, since_ms) + 1)
            for line in found:
                if int(line["line_num"]) > self._last:
                    self._last = int(line["line_num"])
                    yield _with_pod(line)
            if len(found) < MOST_LINES or self._last // 10**6 == since_ms:
                return
            since_ms = self._last // 10**6


def _with_pod(line: Mapping[str, Any]) -> str:
    pod = (line.get("labels") or {}).get("podName")
    text = str(line.get("content", "")).rstrip("\n")
    return f"[{pod}] {text}" if pod else text


def _line(event: Mapping[str, Any]) -> str:
    stamp = event.get("update_at") or event.get("create_at") or 0
    when = f"{datetime.fromtimestamp(stamp / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return f"{when} {event.get('event_type', '')} {event.get('event_info', '')}".rstrip()
