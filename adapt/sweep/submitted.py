"""Trains trials as jobs of a platform, which train while this machine is off: the next start
of the sweep finds them by their names in the study."""

import logging
import time
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

from adapt.checkpoint.run_folder import RunFolder
from adapt.errors import JobError
from adapt.places import Place
from adapt.platforms import PLATFORMS
from adapt.platforms.platform import ENDED, Client, JobStatus, Profile
from adapt.platforms.records import record_job
from adapt.platforms.submit import PreparedJob, prepare_job
from adapt.spec.job_spec import JobSpec
from adapt.sweep.runner import Ending, RunningTrial
from adapt.trainer.opening import open_run_folder
from storage.errors import StoreUnavailable
from storage.uris import split_uri

log = logging.getLogger(__name__)

LABEL, JOB, ATTEMPT = "label", "platform_job", "attempt"
"""Notes of a trial: our name of its newest job, the platform's, and which submission it is."""
_NEXT_LABEL_S = 1.0
"""Labels have the time in seconds."""


class PlatformRunner:
    """Submits trials by a profile; `slots` of them are on the platform at the same time."""

    def __init__(self, profile: Profile, place: Place, slots: int, poll_s: float = 15.0) -> None:
        self.slots, self.poll_s = slots, poll_s
        self._profile, self._place = profile, place
        self._client: Client = PLATFORMS[profile.platform].connect(profile, place.environment)
        self._labels = set[str]()

    def start(self, job: JobSpec, _slot: int, notes: MutableMapping[str, Any]) -> RunningTrial:
        """Follow the job that an earlier start has submitted, else submit one."""
        known = self._known(notes)
        if known is not None and known.state not in ("interrupted", "stopped"):
            return SubmittedTrial(self._client, str(notes[JOB]))
        attempt = int(notes.get(ATTEMPT, 0)) + 1
        plan = self._prepared(job, attempt)
        notes[LABEL], notes[ATTEMPT] = plan.submission.name, attempt
        notes[JOB] = ""
        notes[JOB] = name = self._client.submit(plan.request)
        run, environment = plan.submission.job.name, self._place.environment
        record_job(environment, name, plan.submission.name, run, self._profile, plan.tracking_uri)
        return SubmittedTrial(self._client, name)

    def folder(self, job: JobSpec) -> RunFolder:
        """The folder where the platform keeps the run."""
        return open_run_folder(seen_from_here(job, self._profile), self._place)

    def _known(self, notes: Mapping[str, Any]) -> JobStatus | None:
        """The newest job of a trial; None without one. That of a start which was killed between
        the submission and its note is found by its label."""
        if notes.get(JOB):
            return self._client.status(str(notes[JOB]))
        label = notes.get(LABEL)
        if not label:
            return None
        found = (one for one in self._client.jobs() if label in f"{one.job} {one.detail}")
        status = next(found, None)
        if status is not None and isinstance(notes, MutableMapping):
            notes[JOB] = status.job
        return status

    def _prepared(self, job: JobSpec, attempt: int) -> PreparedJob:
        """The request, under a label that no other trial has."""
        plan = prepare_job(job, self._profile, attempt, datetime.now(UTC))
        while plan.submission.name in self._labels:
            time.sleep(_NEXT_LABEL_S / 4)
            plan = prepare_job(job, self._profile, attempt, datetime.now(UTC))
        self._labels.add(plan.submission.name)
        return plan


class SubmittedTrial:
    """A trial's job on a platform."""

    def __init__(self, client: Client, job: str) -> None:
        self._client, self._job, self._away = client, job, False

    def ended(self) -> Ending | None:
        """The platform's state as an ending; None also while it does not answer."""
        try:
            status = self._client.status(self._job)
        except StoreUnavailable as error:
            if not self._away:
                log.warning("%s; the trial is asked about again", error)
            self._away = True
            return None
        self._away = False
        if status.state not in ENDED:
            return None
        if status.state == "failed":
            code = "" if status.exit_code is None else f"exit code {status.exit_code}: "
            return Ending("failed", f"{code}{status.detail or self._job}")
        return Ending("done" if status.state == "done" else "interrupted", status.detail)

    def stop(self, _urgent: bool = False) -> None:
        """Have the platform stop the job, which saves."""
        try:
            self._client.stop(self._job)
        except StoreUnavailable as error:
            log.warning("%s is not stopped: %s", self._job, error)


def seen_from_here(job: JobSpec, profile: Profile) -> JobSpec:
    """The job with the URI by which this machine reaches its checkpoints on a platform. Raises
    `JobError` where it cannot."""
    uri = profile.checkpoints_at(job.name) or job.checkpoint.uri
    scheme, path = split_uri(uri)
    if scheme == "file":
        here = profile.here(path)
        if here is None:
            raise JobError(
                f"checkpoint.uri: expected a folder that this machine reaches too, to read the "
                f"trials' scores, got {uri} of {profile.platform}'s machines",
                "name an object store, as s3://bucket/runs",
            )
        uri = here
    return job.model_copy(update={"checkpoint": job.checkpoint.model_copy(update={"uri": uri})})
