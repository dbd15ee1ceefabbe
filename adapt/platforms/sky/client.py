"""A connection to SkyPilot by its command: launches managed jobs, reports their state.

A job is known by the name that `submit` gives it; SkyPilot's number is looked up. SkyPilot keeps
the state of all jobs, and starts those again that ended with 75.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from shlex import join
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from adapt.errors import JobError
from adapt.platforms import following
from adapt.platforms.platform import ENDED, Finding, JobStatus, Request
from adapt.platforms.records import records_path
from adapt.platforms.sky.checks import findings
from adapt.platforms.sky.job_status import status_of
from adapt.platforms.sky.logs import JobLog
from adapt.platforms.sky.profile import SkyProfile
from adapt.platforms.sky.program import (
    LAUNCH_S,
    TIMEOUT_S,
    Sky,
    SkyMissing,
    done,
    records_in,
)
from adapt.platforms.sky.script import is_ours

NO_CONTROLLER = "No in-progress managed jobs"
"""SkyPilot's word where it has no jobs controller, or one that stopped after its jobs ended."""
POLL_S = 5.0
"""Between a stream of a log that ended and the next one."""


def connect(profile: SkyProfile, environment: Mapping[str, str]) -> "SkyClient":
    """A client of the SkyPilot that is installed here; its keys of clouds are its own."""
    return SkyClient(profile, Sky(environment), environment)


class SkyClient:
    """`adapt.platforms.platform.Client` of SkyPilot."""

    def __init__(self, profile: SkyProfile, sky: Sky, environment: Mapping[str, str]) -> None:
        self._profile, self._sky, self._environment = profile, sky, environment

    def submit(self, request: Request) -> str:
        """Launch the task as a managed job; its name. Without SkyPilot the task is left in a file,
        and the error names that and the command that launches it."""
        names = list(request.get("secrets", {}))
        for name in names:
            if not self._environment.get(name):
                raise JobError(
                    f"secrets: expected the variable {name} in this environment, got nothing",
                    fix=f"export {name}=..., or remove it from the profile",
                )
        secrets = [word for name in names for word in ("--secret", name)]
        command = ["jobs", "launch", "--yes", "--detach-run", *secrets]
        with TemporaryDirectory(prefix="segadapt-") as folder:
            path = written(request, Path(folder))
            try:
                done(self._sky.run(*command, str(path), timeout_s=LAUNCH_S))
            except SkyMissing as error:
                kept = written(request, records_path(self._environment).parent / "sky")
                launch = join(["sky", *command, str(kept)])
                raise JobError(
                    f"{error.problem}; the job is not submitted, its task is in {kept}",
                    f"{error.fix}; then submit again, or elsewhere: {launch}",
                ) from error
        return str(request["name"])

    def status(self, job: str) -> JobStatus:
        """The status of a job."""
        return status_of(self._record(job))

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """The lines of a job's log, all nodes', each with its node before it; those of earlier
        machines too as long as it is followed."""
        log = JobLog(self._sky, str(self._record(job)["job_id"]))
        if not follow:
            return log.new_lines(follow=False)
        return following.follow(
            lambda is_last: log.new_lines(follow=not is_last),
            lambda: self.status(job).state in ENDED,
            POLL_S,
        )

    def stop(self, job: str) -> None:
        """Cancel a job: the hook of its task has it save before the machines are taken down."""
        record = self._record(job)
        if status_of(record).state not in ENDED and record["status"] != "CANCELLING":
            done(self._sky.run("jobs", "cancel", "--yes", str(record["job_id"])))

    def jobs(self) -> Iterable[JobStatus]:
        """The user's managed jobs whose names are those of our jobs, the newest first."""
        ours = [one for one in self._records() if is_ours(str(one.get("job_name")))]
        return [status_of(one) for one in sorted(ours, key=_number, reverse=True)]

    def check(self, request: Request) -> Iterator[Finding]:
        """SkyPilot, the secrets, and machines for the task; see `sky.checks`."""
        with TemporaryDirectory(prefix="segadapt-") as folder:
            path = written(request, Path(folder))
            yield from findings(self._sky, path, request, self._environment)

    def _records(self, *refresh: str) -> list[dict[str, Any]]:
        """None where no jobs controller runs; `--refresh` starts one that stopped when it was
        idle."""
        queue = ("jobs", "queue", "--all", "--verbose", *refresh, "--output", "json")
        answer = self._sky.run(*queue, timeout_s=LAUNCH_S if refresh else TIMEOUT_S)
        if answer.code and NO_CONTROLLER in answer.said:
            return []
        return records_in(done(answer))

    def _record(self, job: str) -> dict[str, Any]:
        """The record of a job by our name, or SkyPilot's number, of one of our jobs."""
        newest = _newest(job, self._records()) or _newest(job, self._records("--refresh"))
        if newest is None:
            raise JobError(
                f"JOB: SkyPilot knows no job {job}", "take a name from `jobs --to PROFILE`"
            )
        if not is_ours(str(newest.get("job_name"))):
            raise JobError(
                f"JOB: expected a job of SegAdapt, got another, {job!r}",
                fix="take a name from `jobs --to PROFILE`",
            )
        return newest


def _newest(job: str, records: list[dict[str, Any]]) -> dict[str, Any] | None:
    found = [one for one in records if job in (one.get("job_name"), str(one.get("job_id")))]
    return max(found, key=_number, default=None)


def written(request: Request, folder: Path) -> Path:
    """The task as a file that `sky jobs launch` reads."""
    path = folder / f"{request['name']}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(request, sort_keys=False, width=10**9))
    return path


def _number(record: Mapping[str, Any]) -> int:
    return int(record.get("job_id") or 0)
