"""The cluster as a `Client`: submit, status, logs, stop, jobs, check."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from adapt.errors import JobError
from adapt.platforms.kubernetes.api import ApiServer
from adapt.platforms.kubernetes.checks import findings
from adapt.platforms.kubernetes.job_status import Object, status_of
from adapt.platforms.kubernetes.jobs import Manifest
from adapt.platforms.kubernetes.kinds import COMMANDS, KINDS, Kind, collection, path_of
from adapt.platforms.kubernetes.kueue import QUEUE, waits_for, workload_of
from adapt.platforms.kubernetes.logs import follow_logs, read_logs
from adapt.platforms.kubernetes.pod import MANAGED_BY, STOPPED
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.kubernetes.refusals import ServerRefused
from adapt.platforms.platform import ENDED, Finding, JobStatus, Request
from storage.errors import StoreUnavailable


class KubernetesClient:
    """The jobs of a profile's kind in its namespace."""

    def __init__(self, profile: KubernetesProfile, api: ApiServer) -> None:
        self._profile, self._api = profile, api
        self._kind: Kind = KINDS[profile.kind]

    def submit(self, request: Request) -> str:
        """Create the job and the objects that it needs, or nothing; the job then owns the others,
        which are deleted with it."""
        job = create_all(self._api, request["items"], owner=request["items"][-1]["kind"])
        return str(job["metadata"]["name"])

    def status(self, job: str) -> JobStatus:
        """The status of a job; its detail is that of its failed pod, or why it does not start."""
        found, pods = self._job(job), self._pods(job)
        status = status_of(self._kind, found, pods, ())
        if status.state != "waiting":
            return status
        if self._kind.phase(found).name == "suspended" and QUEUE in _labels(found):
            return status._replace(detail=self._in_queue(found) or status.detail)
        return status_of(self._kind, found, pods, self._warnings(job))

    def _in_queue(self, job: Manifest) -> str:
        try:
            workload = workload_of(self._api, self._profile.namespace, job)
        except ServerRefused:  # many roles may not read them, and they only explain
            return ""
        return waits_for(workload[1]) if workload else ""

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """The lines of all pods of a job, those of several nodes with `[node N]` before them."""
        self._job(job)
        if not follow:
            yield from read_logs(self._api, self._kind, self._pods(job))
            return
        yield from follow_logs(self._api, self._kind, lambda: self._look(job))

    def _look(self, job: str) -> tuple[bool, Sequence[Object]]:
        pods = self._pods(job)
        try:
            return status_of(self._kind, self._job(job), pods, ()).state in ENDED, pods
        except ServerRefused as error:
            if error.code != 404:
                raise
            return True, pods  # deleted while it was followed

    def stop(self, job: str) -> None:
        """Suspend a job: its pods get SIGTERM and their grace, its object stays. Of a job in a
        queue Kueue does so."""
        found = self._job(job)
        ended = status_of(self._kind, found, self._pods(job), ()).state in ENDED
        if ended or self._kind.phase(found).name == "stopping":
            return
        mark = {"metadata": {"annotations": {STOPPED: "true"}}}
        if QUEUE in _labels(found):
            workload = workload_of(self._api, self._profile.namespace, found)
            if workload is not None:
                self._api.merge(self._path(job), mark)
                self._api.merge(workload[0], {"spec": {"active": False}})
                return
        self._api.merge(self._path(job), {**mark, **self._kind.suspend})
        if not self._kind.suspend:
            self._command(abort_command(found))

    def _command(self, command: Manifest) -> None:
        try:
            self._api.create(collection(command), command)
        except ServerRefused as error:
            if error.code != 409:  # requested already, and not seen yet
                raise

    def jobs(self) -> Iterator[JobStatus]:
        """The jobs that were submitted from here or elsewhere by SegAdapt, the newest first."""
        query = {"labelSelector": f"{MANAGED_BY}=segadapt"}
        found = self._api.get(self._path(), **query)["items"]
        pods = self._api.get(self._core("pods"), labelSelector=self._kind.job_label)["items"]
        for job in sorted(found, key=_created, reverse=True):
            name = job["metadata"]["name"]
            own = [
                pod for pod in pods if pod["metadata"]["labels"].get(self._kind.job_label) == name
            ]
            yield status_of(self._kind, job, own, ())

    def check(self, request: Request) -> Iterator[Finding]:
        """The cluster's findings before anything is created; the last are its own dry run."""
        yield from findings(self._api, self._profile, request)

    def _job(self, name: str) -> Manifest:
        if not re.fullmatch(r"[a-z0-9][-a-z0-9.]*", name):
            raise JobError(
                f"JOB: expected a job of this cluster, got {name!r}", fix="take a name from `jobs`"
            )
        job: Manifest = self._api.get(self._path(name))
        return job

    def _pods(self, job: str) -> Sequence[Object]:
        selector = f"{self._kind.job_label}={job}"
        pods: Sequence[Object] = self._api.get(self._core("pods"), labelSelector=selector)["items"]
        return pods

    def _warnings(self, job: str) -> Sequence[Object]:
        """The warnings about a job and its pods, whose names begin with the job's."""
        try:
            found = self._api.get(self._core("events"), fieldSelector="type=Warning")["items"]
        except ServerRefused:  # many roles may not read them, and they only explain
            return []
        about = re.compile(rf"{re.escape(job)}(-.*)?")
        return sorted(
            (one for one in found if about.fullmatch(one["involvedObject"].get("name") or "")),
            key=lambda one: one.get("lastTimestamp") or one.get("eventTime") or "",
        )

    def _path(self, name: str = "") -> str:
        return path_of(self._kind.api_version, self._profile.namespace, self._kind.plural, name)

    def _core(self, plural: str) -> str:
        return path_of("v1", self._profile.namespace, plural)


def create_all(api: ApiServer, manifests: Sequence[Manifest], owner: str) -> Manifest:
    """Create the objects, or none; the one of kind `owner` then owns the others. Returns it."""
    made: dict[str, Manifest] = {}
    try:
        for manifest in manifests:
            one = _create(api, manifest)
            made[_path_of(one)] = one
        (owning,) = [one for one in made.values() if one["kind"] == owner]
        owned = {"metadata": {"ownerReferences": [_reference(owning)]}}
        for path, one in made.items():
            if one is not owning:
                api.merge(path, owned)
    except (JobError, StoreUnavailable):
        _take_back(api, [*made])
        raise
    return owning


def _create(api: ApiServer, manifest: Manifest) -> Manifest:
    try:
        made: Manifest = api.create(collection(manifest), manifest)
    except StoreUnavailable:  # it may have been created all the same
        _take_back(api, [_path_of(manifest)])
        raise
    return made


def _take_back(api: ApiServer, paths: Sequence[str]) -> None:
    for path in reversed(paths):
        with suppress(JobError, StoreUnavailable):
            api.delete(path)


def abort_command(job: Manifest) -> Manifest:
    """The command to Volcano that ends a job's pods and keeps the job; its name makes a second one
    a conflict."""
    target = _reference(job) | {"controller": True}
    name = job["metadata"]["name"]
    return {
        "apiVersion": COMMANDS,
        "kind": "Command",
        "metadata": {
            "name": f"{name}-abortjob",
            "namespace": job["metadata"]["namespace"],
            "ownerReferences": [target],
        },
        "action": "AbortJob",
        "target": target,
    }


def _path_of(manifest: Manifest) -> str:
    return f"{collection(manifest)}/{manifest['metadata']['name']}"


def _reference(job: Manifest) -> dict[str, Any]:
    place = job["metadata"]
    return {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "name": place["name"],
        "uid": place["uid"],
    }


def _labels(job: Object) -> dict[str, str]:
    return job["metadata"].get("labels") or {}


def _created(job: Object) -> str:
    return str(job["metadata"].get("creationTimestamp") or "")
