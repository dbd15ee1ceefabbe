"""What a platform is to `submit`, `status`, `logs`, `stop` and `check`: a row of
`adapt.platforms.PLATFORMS`.

A row has a profile (what a person writes down once about their account), `request`, a pure
function from a job to what the platform's API is asked, which golden files hold, and a client, a
few lines over the platform's own library. Secrets stand in a request by name only; the client
puts values in while it sends, where the platform has no other way.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from pydantic import Field, field_validator

from adapt.config.section import Section
from adapt.config.strict_yaml import packed
from adapt.platforms.texts import VARIABLE
from storage.errors import StoreUnavailable
from storage.uris import without_password

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

State = Literal["waiting", "running", "done", "interrupted", "failed", "stopped", "unknown"]
"""`interrupted` ended with 75 or was reclaimed: submitted again, the job goes on."""

ENDED = frozenset({"done", "interrupted", "failed", "stopped"})

Request = dict[str, Any]
Answer = TypeVar("Answer")

log = logging.getLogger(__name__)

SECRET = re.compile(
    r"(?i)(^|_)(password|passwd|secret|token|sk|api_?key|access_key|private_key|credentials)(_|$)"
)
FILE = re.compile(r"(?i)_(file|path|uri|url|dir)$")
"""Names of variables that hold secrets, and of those that only say where one is."""

PATIENCE_S, AGAIN_S = 600.0, 3.0
"""How long, and how often, a platform that does not answer is asked again by who follows a job."""


class Promised(NamedTuple):
    """Sizes in 10^9 bytes; None where nobody says."""

    shm: float | None = None
    disk: float | None = None


class Profile(Section):
    """What every platform is told; the platform's own keys stand in its file."""

    platform: str = Field(description="Which platform this profile is for.")
    image: str = Field(description="The image, as the platform pulls it.")
    nodes: int = Field(1, ge=1, description="Machines, or pods, of a job.")
    gpus: int = Field(
        1, ge=0, description="GPUs of a node, each with one rank; 0 trains on the CPU."
    )
    gpu_memory_gb: float | None = Field(
        None, gt=0, description="Memory of one GPU in 10^9 bytes, for `check`."
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="Price of one node an hour; `submit` shows what the job comes to."
    )
    currency: str = Field("USD", description="Of the price.")
    environment: dict[str, str] = Field(
        {}, description="Variables of the job that are no secrets, such as MLFLOW_TRACKING_URI."
    )

    secrets_go: ClassVar[str] = "name it in `secrets`: its value is taken from where you submit"
    """What to do with a secret, for the message that refuses it."""

    @field_validator("environment")
    @classmethod
    def _of_variables(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if re.fullmatch(VARIABLE, name) is None:
                raise ValueError(f"expected names of letters, digits and `_`, got {name!r}")
        return environment

    @field_validator("environment")
    @classmethod
    def _without_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        found = [name for name in environment if SECRET.search(name) and not FILE.search(name)]
        if found:
            raise ValueError(f"expected no secrets, got {', '.join(found)}; {cls.secrets_go}")
        return environment

    @field_validator("environment")
    @classmethod
    def _without_passwords(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if without_password(value) != value:
                raise ValueError(
                    f"{name}: expected no password, got {without_password(value)}; requests and "
                    "logs show it: name a secret that holds MLFLOW_TRACKING_USERNAME and "
                    "MLFLOW_TRACKING_PASSWORD"
                )
        return environment

    def secret_names(self) -> Sequence[str]:
        """Variables whose values the job gets from where it is submitted."""
        return ()

    def promised_gb(self) -> Promised:
        """What a node surely has, as far as the profile says."""
        return Promised()

    def replaced(self) -> dict[str, str]:
        """Keys of the job spec, as `source.uri`, whose place the platform takes itself, and the
        URIs that it reads or writes there with its own rights."""
        return {}

    def checkpoints_at(self, _run: str) -> str | None:
        """Where the rest of the world finds the folder that the job knows as `checkpoint.uri`, if
        the platform carries it there."""
        return self.replaced().get("checkpoint.uri")


class Submission(NamedTuple):
    """A job as it is handed to a platform.

    `name` is a label of lower-case letters, digits and `-`, up to 40 characters, that begins with
    a letter; unique for each submission.
    """

    name: str
    job: "JobSpec"

    def spec_base64(self) -> str:
        """The whole resolved job spec, as SEGADAPT_SPEC_BASE64 takes it."""
        return packed(self.job.to_yaml())

    def environment(self, profile: Profile, grace_s: float) -> dict[str, str]:
        """The job's plain variables: the profile's, its name, and the grace it will have."""
        own = {"SEGADAPT_JOB": self.name, "SEGADAPT_GRACE_S": f"{grace_s:.0f}"}
        outside = profile.checkpoints_at(self.job.name)
        if outside is not None:
            own["SEGADAPT_CHECKPOINTS_AT"] = outside
        return {**profile.environment, **own}


class JobStatus(NamedTuple):
    """How a job on a platform is: `detail` in the platform's own words, a short line."""

    job: str
    state: State
    detail: str = ""
    exit_code: int | None = None


class Finding(NamedTuple):
    """A line of `check`: what was looked at, what was found, and the cure where `ok` is false.

    `exit_code` is what the command ends with where this is the first that is not ok.
    """

    what: str
    ok: bool
    found: str
    cure: str = ""
    exit_code: int = 2


def patiently(look: Callable[[], Answer]) -> Answer:
    """What `look` answers; while the platform does not answer it is asked again, for
    `PATIENCE_S`. Following a job for days needs that in every look.

    Raises `StoreUnavailable` after that, and at once what else `look` raises.
    """
    deadline_s, told = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            return look()
        except StoreUnavailable as error:
            if time.monotonic() + AGAIN_S > deadline_s:
                raise
            if not told:
                log.warning("%s; it is asked again for %.0f minutes", error, PATIENCE_S / 60)
            told = True
            time.sleep(AGAIN_S)


class Client(Protocol):
    """A connection to a platform. Every method raises `JobError` for what the user can mend and
    `StoreUnavailable` where the platform does not answer."""

    def submit(self, request: Request) -> str:
        """Ask the platform to run a request; its own name of the job, for the methods below."""

    def status(self, job: str) -> JobStatus:
        """How a job is."""

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """The lines of a job's log, all nodes'; with `follow` until the job ends, over outages of
        the platform too (`patiently`), no line lost or twice."""

    def stop(self, job: str) -> None:
        """Ask a job to save and to end; returns at once. Asked again, or of a job that has ended,
        it does nothing."""

    def jobs(self) -> Iterable[JobStatus]:
        """The jobs that SegAdapt submitted, the newest first."""

    def check(self, request: Request) -> Iterator[Finding]:
        """What can be known before a request is sent: credentials, image, machine, quota."""


@dataclass(frozen=True)
class Platform:
    """A row of PLATFORMS.

    `grace_s` of a profile is the time between the platform's stop and its kill. `restarts` says
    whether the platform itself starts an interrupted job again.
    """

    profile: type[Profile]
    request: Callable[[Submission, Any], Request]
    connect: Callable[[Any, Mapping[str, str]], Client]
    grace_s: Callable[[Any], float]
    restarts: Callable[[Any], bool]
