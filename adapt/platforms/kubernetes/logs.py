"""The lines of a job's pods, as they are written.

A stream may break off while its pod runs (a proxy's time limit, a rotated file), or be silent for
long, as nodes other than the first are between evaluations: it is asked for again, and what was
seen before is left out, by the time that each line carries.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from adapt.errors import JobError
from adapt.platforms import platform
from adapt.platforms.kubernetes.api import Api, Quiet
from adapt.platforms.kubernetes.kinds import Kind
from adapt.platforms.kubernetes.refusals import Refused
from adapt.platforms.kubernetes.status import Object, node_of, phase_of
from storage.errors import StoreUnavailable

POLL_S = 2.0
"""How often pods are looked for while a job is followed."""

OVERLAP_S = 60
"""How much of a log is asked for twice, as clocks differ."""


class PodLog:
    """The log of one pod."""

    def __init__(self, api: Api, kind: Kind, pod: Object, prefix: str) -> None:
        place = pod["metadata"]
        self._api, self._container, self._prefix = api, kind.container, prefix
        self._path = f"/api/v1/namespaces/{place['namespace']}/pods/{place['name']}"

    def lines(self, follow: bool, wanted: Callable[[], bool] = lambda: True) -> Iterator[str]:
        """What the pod wrote; with `follow` until it ends or is no longer `wanted`."""
        seen, seen_s = "", time.monotonic()
        well_s = seen_s
        while wanted():
            try:
                for stamp, text in self._quietly_ending(follow, seen, seen_s):
                    seen, seen_s = stamp, time.monotonic()
                    well_s = seen_s
                    yield self._prefix + text
                if not follow or self._ended():
                    return
                well_s = time.monotonic()
            except Refused as error:
                if error.code == 404 or (error.code == 400 and not follow):
                    return  # the pod is gone, or has no log yet
                if error.code != 400:
                    raise
            except StoreUnavailable:
                if not follow or time.monotonic() - well_s > platform.PATIENCE_S:
                    raise
            time.sleep(min(1.0, POLL_S))

    def _quietly_ending(self, follow: bool, seen: str, seen_s: float) -> Iterator[tuple[str, str]]:
        """What a stream holds; one that is followed ends where it is silent for long."""
        try:
            yield from self._stream(follow, seen, seen_s)
        except Quiet:
            if not follow:
                raise

    def _stream(self, follow: bool, seen: str, seen_s: float) -> Iterator[tuple[str, str]]:
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        query = {"container": self._container, "timestamps": "true"}
        query |= {"follow": "true"} if follow else {}
        if seen:
            query["sinceSeconds"] = str(int(time.monotonic() - seen_s) + OVERLAP_S)
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

    def _ended(self) -> bool:
        return phase_of(self._api.get(self._path)) in ("Succeeded", "Failed")


def _lines_of(blocks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def read_logs(api: Api, kind: Kind, pods: Sequence[Object]) -> Iterator[str]:
    """What all pods wrote so far, one pod after the other, nodes in order."""
    for pod, prefix in _started(kind, pods):
        yield from PodLog(api, kind, pod, prefix).lines(follow=False)


def follow_logs(
    api: Api, kind: Kind, look: Callable[[], tuple[bool, Sequence[Object]]]
) -> Iterator[str]:
    """The lines of all pods as they come, also of those that start later; until the job ended.

    `look` says whether the job has ended, and which pods it has.
    """
    lines: queue.SimpleQueue[str | Exception] = queue.SimpleQueue()
    readers: dict[str, threading.Thread] = {}
    closed = threading.Event()
    try:
        while True:
            ended, pods = platform.patiently(look)
            for pod, prefix in _started(kind, pods):
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
        for line in log.lines(follow=True, wanted=lambda: not closed.is_set()):
            lines.put(line)
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


def _started(kind: Kind, pods: Sequence[Object]) -> list[tuple[Object, str]]:
    """Pods that have a log, by node, and what their lines begin with."""
    several = len({node_of(kind, pod) for pod in pods}) > 1
    order = sorted(
        (pod for pod in pods if phase_of(pod) not in ("Pending", "Unknown")),
        key=lambda pod: (node_of(kind, pod), pod["metadata"].get("creationTimestamp") or ""),
    )
    return [(pod, f"[node {node_of(kind, pod)}] " if several else "") for pod in order]
