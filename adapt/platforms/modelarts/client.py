"""The connection to ModelArts: submit, status, logs, stop, jobs, check."""

import copy
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from adapt.errors import JobError
from adapt.platforms import following
from adapt.platforms.gpus import check_gpus
from adapt.platforms.modelarts.api import ModelArtsApi
from adapt.platforms.modelarts.job_status import status_of
from adapt.platforms.modelarts.logs import ModelArtsLog
from adapt.platforms.modelarts.profile import ModelArtsProfile
from adapt.platforms.modelarts.request import NAME_PREFIX
from adapt.platforms.platform import ENDED, Finding, JobStatus, Request
from storage.errors import StoreUnavailable

log = logging.getLogger(__name__)

POLL_S = 10.0
BUSY = ("Creating", "Pending", "Running", "Terminating")


def connect(profile: ModelArtsProfile, environment: Mapping[str, str]) -> "ModelArtsClient":
    """A client with the keys in `environment`. Nothing is sent yet.

    Raises `JobError` where a variable or the SDK is missing.
    """
    return ModelArtsClient(ModelArtsApi(profile, environment), profile, environment)


class ModelArtsClient:
    """See `adapt.platforms.platform.Client`."""

    def __init__(
        self, api: ModelArtsApi, profile: ModelArtsProfile, environment: Mapping[str, str]
    ) -> None:
        self.api, self._profile, self._environment = api, profile, environment
        self.poll_s = POLL_S

    def submit(self, request: Request) -> str:
        """Create the job; its id. Secrets are filled in here, and nowhere else."""
        body = with_secrets(request, self._environment)
        for line in _seen_secrets(request):
            log.warning("%s", line)
        try:
            return str(self.api.create(body)["metadata"]["id"])
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"job {request['metadata']['name']}: its creation is not confirmed: "
                f"{error.problem}",
                "check `jobs` before you submit it again",
            ) from error

    def status(self, job: str) -> JobStatus:
        """The status of a job. Raises `JobError` where there is none of that id."""
        return status_of(job, self.api.details(job))

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """Lines of all nodes' logs; those of several begin with the node's name."""
        log = ModelArtsLog(self.api, job)
        if follow:
            return following.follow(log.new_lines, log.has_ended, self.poll_s)
        log.has_ended()
        return log.new_lines(is_last=True)

    def stop(self, job: str) -> None:
        """Terminate a job; one that has ended, or is ending, is left as it is."""
        found = self.api.details(job)
        if _ends(job, found):
            return
        try:
            self.api.terminate(job)
        except JobError:  # it may have ended in this moment
            if not _ends(job, self.api.details(job)):
                raise

    def jobs(self) -> Iterator[JobStatus]:
        """The jobs with the name prefix of SegAdapt, the newest first."""
        for found in self.api.search("name", "like", NAME_PREFIX):
            if str(found["metadata"]["name"]).startswith(NAME_PREFIX):
                yield status_of(str(found["metadata"]["id"]), found, named=True)

    def check(self, request: Request) -> Iterator[Finding]:
        """Keys, machine, name, folders that other jobs write to, secrets."""
        try:
            flavors = self.api.flavors()
        except (JobError, StoreUnavailable) as error:
            yield Finding("ModelArts", False, error.problem, error.fix, error.exit_code)
            return
        yield Finding("ModelArts", True, f"answers in {self._profile.region}")
        yield self._machine(flavors)
        yield Finding(
            "image", True, "named as in SWR; only the start of a job shows whether it is there"
        )
        yield self._name(request)
        yield self._outputs(request)
        yield from self._secrets(request)

    def _machine(self, flavors: Mapping[str, Any]) -> Finding:
        profile = self._profile
        if profile.pool_id is not None:
            there = self.api.has_pool(profile.pool_id)
            found = f"pool {profile.pool_id} is " + ("there" if there else "not there")
            return Finding("machine", there, found, "" if there else "correct pool_id")
        name = str(profile.flavor_id)
        if not flavors:
            return Finding("machine", True, f"{name}: ModelArts lists no flavors; not checked")
        if name not in flavors:
            fix = f"set flavor_id: one of {', '.join(sorted(flavors)) or 'another region'}"
            return Finding("machine", False, f"there is no flavor {name} for training", fix)
        info = flavors[name].get("flavor_info") or {}
        most = info.get("max_num") or flavors[name].get("max_num") or profile.nodes
        if profile.nodes > most:
            return Finding("machine", False, f"{name} allows {most} nodes", f"set nodes: {most}")
        gpus = _gpus_of(flavors[name])
        if gpus is None:
            found = f"{name} x {profile.nodes}; ModelArts does not say how many GPUs it has"
            return Finding("machine", True, found)
        if gpus != profile.gpus:
            return Finding("machine", False, f"{name} has {gpus} GPUs", f"set gpus: {gpus}")
        try:
            if (product := (info.get("gpu") or {}).get("product_name")) is not None:
                check_gpus(profile, str(product))
        except JobError as error:
            return Finding("machine", False, error.problem, error.fix)
        return Finding("machine", True, f"{name} x {profile.nodes}, {gpus} GPUs each")

    def _name(self, request: Request) -> Finding:
        name = request["metadata"]["name"]
        if self.api.is_taken(name):
            return Finding(
                "name", False, f"{name} is taken", "submit again, which makes a new name"
            )
        return Finding("name", True, f"{name} is free")

    def _outputs(self, request: Request) -> Finding:
        ours = _folders(request)
        for job in self.api.search("phase", "in", *BUSY) if ours else ():
            taken = sorted(ours & _folders(job))
            if taken:
                name = job["metadata"]["name"]
                fix = f"wait for it, stop it ({job['metadata']['id']}), or change outputs"
                return Finding("outputs", False, f"job {name} writes to {taken[0]}", fix)
        return Finding("outputs", True, "no other job writes to them" if ours else "none")

    def _secrets(self, request: Request) -> Iterator[Finding]:
        for name in _secret_names(request):
            if not self._environment.get(name):
                yield Finding("secrets", False, f"variable {name} is not set", f"export {name}")
        for line in _seen_secrets(request):
            yield Finding("secrets", True, line)


def _gpus_of(flavor: Mapping[str, Any]) -> int | None:
    """GPUs of a flavor; None where its description says nothing about them."""
    info = flavor.get("flavor_info") or {}
    number = (info.get("gpu") or {}).get("unit_num")
    if number is not None:
        return int(number)
    return 0 if str(flavor.get("flavor_type")).upper() == "CPU" else None


def _ends(job: str, found: Mapping[str, Any]) -> bool:
    """Return whether a job has ended, or is ending."""
    ending = found["status"].get("phase") == "Terminating"
    return ending or status_of(job, found).state in ENDED


def with_secrets(request: Request, environment: Mapping[str, str]) -> Request:
    """The request as it is sent: values instead of the names of variables.

    Raises `JobError` where a variable is not set.
    """
    body = copy.deepcopy(request)
    variables = body["algorithm"]["environments"]
    for name in _secret_names(request):
        value = environment.get(name)
        if not value:
            raise JobError(f"secrets: expected variable {name}, got none", f"export {name}=...")
        variables[name] = value
    return body


def _secret_names(request: Request) -> list[str]:
    variables = request["algorithm"]["environments"]
    return [name for name, value in variables.items() if isinstance(value, dict)]


def _seen_secrets(request: Request) -> list[str]:
    names = ", ".join(_secret_names(request))
    if not names:
        return []
    return [
        f"secrets: ModelArts shows {names} to every user who may see the job; inputs and outputs, "
        "which the agency transfers, need no keys in the job"
    ]


def _folders(job: Mapping[str, Any]) -> set[str]:
    """The folders in OBS to which any user's job writes; it may have outputs elsewhere too."""
    outputs = (job.get("algorithm") or {}).get("outputs") or []
    in_obs = [(output.get("remote") or {}).get("obs") or {} for output in outputs]
    return {str(obs["obs_url"]) for obs in in_obs if obs.get("obs_url")}
