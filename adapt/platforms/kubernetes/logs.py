"""The lines of a job's pods, as they are written.

A stream may break off while its pod runs (a proxy's time limit, a rotated file), or be silent for
long, as nodes other than the first are between evaluations: it is requested again, and earlier
lines are skipped, by the time that each line carries.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from adapt.errors import JobError
from adapt.platforms import following
from adapt.platforms.kubernetes.api import ApiServer, Quiet
from adapt.platforms.kubernetes.job_status import Object, node_of, phase_of
from adapt.platforms.kubernetes.kinds import Kind
from adapt.platforms.kubernetes.refusals import ServerRefused
from storage.errors import StoreUnavailable

POLL_S = 2.0
"""Interval at which pods are listed while a job is followed."""

OVERLAP_S = 60
"""Span of a log that is read twice, as clocks differ."""


class TooEarly(StoreUnavailable):
    """A pod that has ended has no log yet; where its container never started, it gets none."""


class PodLog:
    """The log of one pod."""

    def __init__(self, api: ApiServer, kind: Kind, pod: Object, prefix: str) -> None:
        place = pod["metadata"]
        self._api, self._container, self._prefix = api, kind.container, prefix
        self._path = f"/api/v1/namespaces/{place['namespace']}/pods/{place['name']}"
        self._seen, self._seen_s = "", time.monotonic()

    def has_ended(self) -> bool:
        """Return whether the pod has, or is gone."""
        try:
            return phase_of(self._api.get(self._path)) in ("Succeeded", "Failed")
        except ServerRefused as error:
            if error.code != 404:
                raise
            return True

    def new_lines(self, is_last: bool) -> Iterator[str]:
        """The lines after those that were given before: those that are there where these are the
        last, else as they come, until the stream ends or is silent for long."""
        try:
            for stamp, text in self._stream(follow=not is_last):
                self._seen, self._seen_s = stamp, time.monotonic()
                yield self._prefix + text
        except Quiet:
            if is_last:
                raise
        except ServerRefused as error:
            if error.code == 400 and is_last:
                raise TooEarly(str(error)) from error
            if error.code not in (400, 404):  # no log yet; the pod is gone
                raise

    def _stream(self, follow: bool) -> Iterator[tuple[str, str]]:
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        seen = self._seen  # as it is now: several lines may bear one time
        query = {"container": self._container, "timestamps": "true"}
        query |= {"follow": "true"} if follow else {}
        if seen:
            query["sinceSeconds"] = str(int(time.monotonic() - self._seen_s) + OVERLAP_S)
        answer = self._api.stream(f"{self._path}/log", **query)
        try:
            for line in _lines_of(answer.stream(None)):
                stamp, _, text = line.partition(" ")
                if stamp > seen:
                    yield stamp, text
        except HTTPError as error:
            kind = Quiet if isinstance(error, ReadTimeoutError) else StoreUnavailable
            raise kind(f"{self._api.host}: the log broke off: {error}") from error
        finally:
            answer.close()


def _lines_of(blocks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def read_logs(
    api: ApiServer, kind: Kind, pods: Sequence[Object], named: bool = False
) -> Iterator[str]:
    """The lines of all pods so far, one pod after the other, nodes in order. Those of several have
    `[node N]` before them; `named`: the pod's name."""
    for pod, prefix in _started(kind, pods, named):
        with suppress(TooEarly):
            yield from PodLog(api, kind, pod, prefix).new_lines(is_last=True)


def follow_logs(
    api: ApiServer,
    kind: Kind,
    read_job: Callable[[], tuple[bool, Sequence[Object]]],
    named: bool = False,
) -> Iterator[str]:
    """The lines of all pods as they come, also of those that start later; until the job ended.

    `read_job` returns whether the job has ended, and its pods; `named` as in `read_logs`.
    """
    lines: queue.SimpleQueue[str | Exception] = queue.SimpleQueue()
    readers: dict[str, threading.Thread] = {}
    closed = threading.Event()
    try:
        while True:
            ended, pods = following.over_outages(read_job)
            for pod, prefix in _started(kind, pods, named):
                uid = pod["metadata"]["uid"]
                if uid not in readers:
                    log = PodLog(api, kind, pod, prefix)
                    readers[uid] = threading.Thread(
                        target=_read, args=(log, lines, closed), daemon=True
                    )
                    readers[uid].start()
            yield from _drain(lines, time.monotonic() + POLL_S, ended)
            if ended and not any(reader.is_alive() for reader in readers.values()):
                yield from _drain(lines, time.monotonic(), ended)
                return
    finally:
        closed.set()


def _read(log: PodLog, lines: Any, closed: threading.Event) -> None:
    try:
        for line in following.follow(
            log.new_lines, lambda: closed.is_set() or log.has_ended(), min(1.0, POLL_S)
        ):
            lines.put(line)
    except TooEarly:
        pass
    except (StoreUnavailable, JobError) as error:
        lines.put(error)


def _drain(lines: Any, until_s: float, ended: bool) -> Iterator[str]:
    while True:
        try:
            line = lines.get(timeout=max(0.01, until_s - time.monotonic()))
        except queue.Empty:
            return
        if isinstance(line, Exception):
            raise line
        yield line
        if time.monotonic() > until_s and not ended:
            return


def _started(kind: Kind, pods: Sequence[Object], named: bool) -> list[tuple[Object, str]]:
    """Pods that have a log, by node, and the prefix of their lines."""

    def who(pod: Object) -> str:
        return str(pod["metadata"]["name"]) if named else f"node {node_of(kind, pod)}"

    several = len(set(map(who, pods))) > 1
    order = sorted(
        (pod for pod in pods if phase_of(pod) not in ("Pending", "Unknown")),
        key=lambda pod: (node_of(kind, pod), pod["metadata"].get("creationTimestamp") or ""),
    )
    return [(pod, f"[{who(pod)}] " if several else "") for pod in order]
