"""Slurm's commands: a short program of sh on its standard input, here or over ssh, so that values
of secrets are on no command line."""

import re
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from adapt.errors import JobError
from storage.errors import StoreUnavailable

TIMEOUT_S = 120.0
_UNREACHABLE = re.compile(
    "unable to contact slurm controller|socket timed out|zero bytes were transmitted"
    "|connection refused|could not establish a configuration|transport endpoint",
    re.IGNORECASE,
)
_SSH_FAILED, _NOT_FOUND = 255, 127


class Answer(NamedTuple):
    """The output of a program, and its exit code."""

    code: int
    output: bytes
    errors: str

    @property
    def text(self) -> str:
        """The output as text."""
        return self.output.decode(errors="replace")


class Shell:
    """Where the commands of Slurm run: this machine, or the login node at the other end of ssh."""

    def __init__(self, login: str | None, environment: Mapping[str, str]) -> None:
        remote = ["ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=30", str(login)]
        self._command = ["sh", "-s"] if login is None else [*remote, "sh -s"]
        self._environment, self.where = dict(environment), login or "this machine"
        self._login = login

    def run(self, program: str) -> Answer:
        """Run a program. Raises `JobError` where the commands are missing, `StoreUnavailable` where
        the machine or Slurm's controller is unreachable."""
        try:
            ended = subprocess.run(
                self._command,
                input=program.encode(),
                env=self._environment,
                capture_output=True,
                timeout=TIMEOUT_S,
            )
        except FileNotFoundError as error:
            raise JobError(
                f"login: expected the command {self._command[0]} on this machine, got none",
                "install it, or remove login from the profile",
            ) from error
        except subprocess.TimeoutExpired as error:
            raise self._unavailable(f"no answer for {TIMEOUT_S:g} s") from error
        answer = Answer(ended.returncode, ended.stdout, ended.stderr.decode(errors="replace"))
        self._check(answer)
        return answer

    def _check(self, answer: Answer) -> None:
        said = answer.errors.strip()
        if self._login is not None and answer.code == _SSH_FAILED:
            raise self._unavailable(said)
        if answer.code == _NOT_FOUND:
            raise JobError(
                f"slurm: expected its commands on {self.where}, got none [{said}]",
                "name a login node of the cluster with login of the profile",
            )
        if answer.code and _UNREACHABLE.search(said):
            raise self._unavailable(said)

    def _unavailable(self, said: str) -> StoreUnavailable:
        last = said.splitlines()[-1] if said else "no message"
        fix = "see whether `sinfo` answers there"
        if self._login is not None:
            fix = f"make `ssh {self._login} sinfo` work without a question"
        return StoreUnavailable(f"slurm on {self.where}: unreachable [{last}]", fix)
