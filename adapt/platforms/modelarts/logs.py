"""Lines of a job's logs, each once, from ModelArts' previews.

A preview is the end of a node's log, at most 5 MB, and the size of the whole: the same bytes come
again with each look, so what is new is counted from the end.
"""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from adapt.platforms.modelarts.api import Api
from adapt.platforms.modelarts.status import status_of
from adapt.platforms.platform import ENDED, patiently


def log_lines(api: Api, job: str, follow: bool, poll_s: float) -> Iterator[str]:
    """The lines so far; with `follow` all until the job ends, looked for every `poll_s`, over
    outages of ModelArts too.

    Where a job has several nodes, each line begins with its node's name.
    """
    tasks: dict[str, TaskLog] = {}
    while True:
        look = partial(api.details, job)
        found = patiently(look) if follow else look()
        ended = not follow or status_of(job, found).state in ENDED
        names = sorted(found["status"].get("tasks") or [], key=_number)
        for name in names:
            show = partial(api.log_end, job, name)
            preview = patiently(show) if follow else show()
            lines = tasks.setdefault(name, TaskLog()).lines(preview, ended) if preview else []
            yield from (f"{name} | {line}" if len(names) > 1 else line for line in lines)
        if ended:
            return
        time.sleep(poll_s)


class TaskLog:
    """What has been seen of a node's log."""

    def __init__(self) -> None:
        self._end_bytes, self._rest = 0, b""

    def lines(self, preview: dict[str, Any], ended: bool) -> list[str]:
        """What is new in a preview; an unfinished line is kept back until it or the log ends."""
        content = str(preview.get("content") or "").encode()
        size_bytes = int(preview.get("full_size") or len(content))
        if size_bytes < self._end_bytes:  # the log of a restarted node begins anew
            self._end_bytes, self._rest = 0, b""
        lost_bytes = size_bytes - self._end_bytes - len(content)
        new = content[len(content) - min(len(content), size_bytes - self._end_bytes) :]
        self._end_bytes = size_bytes
        first = []
        if lost_bytes > 0:
            first = [f"[{lost_bytes} bytes before this are no longer shown; log_uri keeps them]"]
            self._rest = b""
        whole, newline, self._rest = (self._rest + new).rpartition(b"\n")
        if ended and self._rest:
            whole, newline, self._rest = whole + newline + self._rest, b"\n", b""
        text = whole.decode(errors="replace")
        return [*first, *(line.rstrip("\r") for line in text.split("\n") if newline)]


def _number(task: str) -> tuple[str, int]:
    """`worker-10` comes after `worker-9`."""
    name, _, number = task.rpartition("-")
    return (name, int(number)) if number.isdigit() else (task, -1)
