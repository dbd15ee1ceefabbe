"""SkyPilot's command `sky`, of the environment that it is installed in; its Python packages are not
ours to share."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from adapt.errors import JobError
from adapt.platforms.sky.refusals import refusal_of
from storage.errors import StoreUnavailable

TIMEOUT_S = 300.0
LAUNCH_S = 1800.0
"""The first launch starts the machine of SkyPilot's jobs controller."""

INSTALL = (
    "pip install 'skypilot[aws]', or gcp, azure, kubernetes and others, best in an environment of "
    "its own whose bin folder is on PATH; then `sky check`"
)

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_UNREACHABLE = re.compile(
    "could not connect to skypilot api server|api server .* (is not reachable|unhealthy|timed out)"
    "|connection (refused|reset|aborted)|max retries exceeded|name or service not known"
    "|temporary failure in name resolution|(502|503|504) server error",
    re.IGNORECASE,
)


class SkyMissing(JobError):
    """The command is not installed here."""

    def __init__(self) -> None:
        super().__init__("sky: expected SkyPilot's command on this machine, got none", INSTALL)


class Answer(NamedTuple):
    """The exit code and what was written, without colours; `text` is standard output."""

    code: int
    text: str
    errors: str

    @property
    def said(self) -> str:
        """Both, for messages."""
        return f"{self.text}\n{self.errors}".strip()


class Sky:
    """The command, in an environment with the values of secrets."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**environment, "NO_COLOR": "1", "COLUMNS": "1000"}

    def run(self, *words: str, timeout_s: float = TIMEOUT_S) -> Answer:
        """Run it to its end. Raises `JobError` where it is missing, `StoreUnavailable` where its
        server is unreachable or does not answer."""
        try:
            ended = subprocess.run(
                ["sky", *words],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
            )
        except FileNotFoundError as error:
            raise SkyMissing from error
        except subprocess.TimeoutExpired as error:
            raise _unavailable(f"no answer for {timeout_s:g} s") from error
        answer = Answer(ended.returncode, plain(ended.stdout), plain(ended.stderr))
        if answer.code and _UNREACHABLE.search(answer.said):
            raise _unavailable(_last_line(answer.said))
        return answer

    def lines(self, *words: str) -> Iterator[str]:
        """Its output, line by line as it comes. Raises like `run`; an exit code is no error, since
        SkyPilot's logs end with that of the job."""
        try:
            process = subprocess.Popen(
                ["sky", *words],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError as error:
            raise SkyMissing from error
        with process:
            assert process.stdout is not None
            held: list[str] = []  # why a stream broke off, if nothing follows it
            try:
                for raw in process.stdout:
                    line = plain(raw).rstrip("\r\n").rpartition("\r")[2]
                    yield from held
                    held = [line] if _UNREACHABLE.search(line) else []
                    if not held:
                        yield line
            finally:
                process.terminate()
        if process.returncode and held:
            raise _unavailable(held[0])
        yield from held


def done(answer: Answer) -> str:
    """The standard output of a command. Raises `JobError` where it failed."""
    if answer.code:
        refusal = refusal_of(answer.said)
        raise JobError(f"{refusal.key}: {refusal.found}", refusal.fix)
    return answer.text


def plain(output: bytes) -> str:
    """Text without colours."""
    return _COLOURS.sub("", output.decode(errors="replace"))


def records_in(text: str) -> list[dict[str, Any]]:
    """The list in JSON after whatever SkyPilot writes before it. Raises `JobError` without one."""
    start = re.search(r"^\[(?=\]|\s*$)", text, re.MULTILINE)
    try:
        if start is None:
            raise ValueError("no list")
        found, _ = json.JSONDecoder().raw_decode(text, start.start())
    except ValueError as error:
        raise JobError(
            f"sky: expected a list in JSON, got {_last_line(text)!r} ({error})",
            "see what `sky jobs queue --output json` shows; SkyPilot 0.14 or later has it",
        ) from error
    return list(found)


def _unavailable(said: str) -> StoreUnavailable:
    return StoreUnavailable(f"sky: unreachable [{said}]", "see whether `sky api status` answers")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")
