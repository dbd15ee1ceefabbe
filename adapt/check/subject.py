"""The subject of a check: a job and where it is to run; failures as lines of the answer."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from urllib.parse import urlsplit

from adapt.accelerator import num_accelerators
from adapt.errors import DataError, JobError
from adapt.places import Place
from adapt.platforms.platform import Finding, Profile, Promised
from adapt.spec.job_spec import JobSpec
from storage.config import fitting_key
from storage.errors import StoreError
from storage.stores import Stores
from storage.uris import split_uri

FAILURES = (JobError, DataError, StoreError)
"""Failures that become a red line; anything else is a bug."""

_INSIDE = (".svc", ".svc.cluster.local", ".internal")
"""Endings of names that only a cluster, or a cloud's own network, knows."""

Findings = Iterator[Finding]


@dataclass(frozen=True)
class Subject:
    """A job that is to run here or, with a `profile`, on its platform."""

    job: JobSpec
    place: Place
    profile: Profile | None = None

    @property
    def local_ranks(self) -> int:
        """Ranks of one node."""
        if self.profile is not None:
            return max(1, self.profile.gpus)
        return self.place.processes or max(1, num_accelerators())

    @property
    def num_ranks(self) -> int:
        """Ranks of the whole job."""
        nodes = self.place.num_nodes if self.profile is None else self.profile.nodes
        return nodes * self.local_ranks

    @property
    def place_of_job(self) -> Place:
        """This place with the ranks of the whole job."""
        return replace(self.place, num_ranks=self.num_ranks)

    @cached_property
    def stores(self) -> Stores:
        """The stores of the job, with the secrets of this process."""
        return Stores(self.job.stores, self.place.environment)

    @property
    def promised_gb(self) -> Promised:
        """The resources of a node that the profile promises; none without one."""
        return Promised() if self.profile is None else self.profile.promised_gb()

    @property
    def place_there(self) -> Place:
        """This place with the variables that the job will have: those of the profile, and those of
        its secrets that are set here."""
        if self.profile is None:
            return self.place
        here = self.place.environment
        secrets = {name: here[name] for name in self.profile.secret_names() if name in here}
        return replace(self.place, environment={**secrets, **self.profile.environment})

    def only_there(self, key: str, uri: str) -> str | None:
        """Why the URI at `key` of the spec can be checked on the platform alone; None where it can
        from here."""
        if self.profile is None:
            return None
        instead = self.profile.replaced().get(key)
        if instead is not None:
            return f"{instead}: {self.profile.platform}'s to fetch, with rights of its own"
        if split_uri(uri)[0] == "file":
            return f"{uri}: a folder of {self.profile.platform}'s machines, checked only there"
        settings = fitting_key(uri, self.job.stores)
        endpoint = None if settings is None else self.job.stores[settings].endpoint_url
        return self.inside(endpoint or uri)

    def inside(self, url: str) -> str | None:
        """Why a server can be reached from the platform alone; None where it can from here."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        only_name = "." not in host and host != "localhost"
        web = parts.scheme in ("http", "https")
        if self.profile is None or not web or not (only_name or host.endswith(_INSIDE)):
            return None
        return f"{host}: a name of {self.profile.platform}'s own network, checked only there"


def red(what: str, error: JobError | DataError | StoreError) -> Finding:
    """A failure as a line: the problem and its fix."""
    return Finding(what, False, error.problem, error.fix, error.exit_code)
