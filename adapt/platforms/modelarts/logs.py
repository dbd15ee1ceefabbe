"""Lines of a job's logs, each once, from ModelArts' previews.

A preview is the end of a node's log, at most 5 MB, and the size of the whole: each preview repeats
bytes, so the new ones are counted from the end.
"""

from collections.abc import Iterator
from typing import Any

from adapt.platforms.modelarts.api import ModelArtsApi
from adapt.platforms.modelarts.errors import LogGone
from adapt.platforms.modelarts.job_status import status_of
from adapt.platforms.platform import ENDED


class ModelArtsLog:
    """The logs of a job's nodes; where there are several, each line begins with its node's name."""

    def __init__(self, api: ModelArtsApi, job: str) -> None:
        self._api, self._job = api, job
        self._nodes: list[str] = []
        self._logs: dict[str, TaskLog] = {}
        self._gone: set[str] = set()

    def has_ended(self) -> bool:
        """Return whether the job has; to be called before lines are read, since it lists the
        nodes."""
        found = self._api.details(self._job)
        self._nodes = sorted(found["status"].get("tasks") or [], key=_number)
        return status_of(self._job, found).state in ENDED

    def new_lines(self, is_last: bool) -> Iterator[str]:
        """The lines after those that were given before."""
        for node in self._nodes:
            lines = self._lines_of(node, is_last)
            yield from (f"{node} | {one}" if len(self._nodes) > 1 else one for one in lines)

    def _lines_of(self, node: str, is_last: bool) -> list[str]:
        try:
            preview = self._api.log_end(self._job, node)
        except LogGone as error:
            told, self._gone = node in self._gone, {*self._gone, node}
            return [] if told else [f"[{error.problem}; log_uri of the profile keeps logs]"]
        return self._logs.setdefault(node, TaskLog()).lines(preview, is_last) if preview else []


class TaskLog:
    """How far a node's log was read."""

    def __init__(self) -> None:
        self._end_bytes, self._rest = 0, b""

    def lines(self, preview: dict[str, Any], ended: bool) -> list[str]:
        """The new lines of a preview; an unfinished line is kept until it or the log ends."""
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
