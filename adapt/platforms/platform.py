"""The contract of a platform for `submit`, `status`, `logs`, `stop` and `check`: a row of
`adapt.platforms.PLATFORMS`.

A row has a profile (an account, written once), `request`, a pure function from a job to the body
of the platform's API, compared with golden files, and a client, a few lines over the platform's
own library. A request has secrets by name only; the client adds values while it sends, where the
platform has no other way.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field, field_validator

from adapt.config.section import Section
from adapt.config.strict_yaml import packed
from adapt.config.validation import Mistake
from adapt.places import NODES_WAIT_S
from adapt.platforms.texts import VARIABLE
from storage.uris import without_password

if TYPE_CHECKING:
    from adapt.platforms.endpoint import Serving
    from adapt.platforms.prediction import Sliced
    from adapt.spec.job_spec import JobSpec

State = Literal["waiting", "running", "done", "interrupted", "failed", "stopped", "unknown"]
"""`interrupted` ended with 75 or was reclaimed: submitted again, the job resumes."""

ENDED = frozenset({"done", "interrupted", "failed", "stopped"})

Request = dict[str, Any]

SECRET = re.compile(
    r"(?i)(^|_)(password|passwd|secret|token|sk|api_?key|access_key|private_key|credentials)(_|$)"
)
FILE = re.compile(r"(?i)_(file|path|uri|url|dir)$")
"""Names of variables with secrets, and of those that only name the place of one."""

SUBMIT_LIBRARIES = "pip install -r requirements-submit.txt, or without a clone 'segadapt[submit]'"
"""The fix where a platform's own library is missing."""


class Promised(NamedTuple):
    """Sizes in 10^9 bytes; None where the profile has none."""

    shm: float | None = None
    disk: float | None = None


class Profile(Section):
    """The keys of every platform; each platform has more in its own file."""

    platform: str = Field(description="The platform of this profile.")
    image: str = Field(description="The image, as the platform pulls it.")
    nodes: int = Field(1, ge=1, description="Machines, or pods, of a job.")
    gpus: int = Field(
        1, ge=0, description="GPUs of a node, each with one rank; 0 trains on the CPU."
    )
    gpu_memory_gb: float | None = Field(
        None, gt=0, description="Memory of one GPU in 10^9 bytes, for `check`."
    )
    gpu: str | None = Field(
        None,
        min_length=1,
        description="Model of the GPU, such as A100, where the machine's type does not say it.",
    )
    driver: int | None = Field(
        None, gt=0, description="Major version of the nodes' NVIDIA driver, such as 580, if known."
    )
    cuda: Literal[12, 13] = Field(
        13,
        description="CUDA of the image: 13 runs on GPUs from T4 on (compute capability 7.5) with "
        "driver 580; an image that was built with --build-arg CUDA=12 runs on V100 too.",
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="Price of one node an hour; `submit` shows the price of the job."
    )
    currency: str = Field("USD", description="Currency of the price.")
    environment: dict[str, str] = Field(
        {}, description="Variables of the job that are no secrets, such as MLFLOW_TRACKING_URI."
    )

    secrets_go: ClassVar[str] = "name it in `secrets`: its value is taken from where you submit"
    """The fix in the message that refuses a secret."""

    keys_here: ClassVar[str] = ""
    """The fix where this machine has no keys for a model's store, and jobs take none."""

    takes_secrets: ClassVar[bool] = True
    """False where jobs get no variable with a secret, so that stores' keys cannot reach them."""

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
            raise Mistake(f"expected no secrets, got {', '.join(found)}", fix=cls.secrets_go)
        return environment

    @field_validator("environment")
    @classmethod
    def _without_passwords(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if without_password(value) != value:
                raise Mistake(
                    f"{name}: expected no password, got {without_password(value)}, which requests "
                    "and logs show",
                    fix="name a secret with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
                )
        return environment

    def secret_names(self) -> Sequence[str]:
        """Variables whose values are taken from the submitter's environment."""
        return ()

    def gpu_model(self) -> str | None:
        """The model of the GPU, as far as it is known."""
        return self.gpu

    def longest_hours(self) -> float | None:
        """Hours after which the platform ends a job, its own restarts together, where it has such
        a limit: the key `max_hours` of its profile."""
        return getattr(self, "max_hours", None)

    def promised_gb(self) -> Promised:
        """The sizes that the profile guarantees for a node."""
        return Promised()

    def replaced(self) -> dict[str, str]:
        """Keys of the job spec, as `source.uri`, that the platform replaces, and the URIs that it
        reads or writes there with its own rights."""
        return {}

    def outside(self, _path: str) -> str | None:
        """Where a path of the container lies outside of it, if it is mounted."""
        return None

    def shares_loopback(self) -> bool:
        """Return whether a job reaches servers on 127.0.0.1 of the machine that runs it."""
        return False

    def here(self, _path: str) -> str | None:
        """Where a path of the container lies on this machine, if it is mounted from here."""
        return None

    def results(self, _run: str, _job: str) -> dict[str, str]:
        """Names of what the platform itself writes, and the URIs that it writes to."""
        return {}

    def checkpoints_at(self, _run: str) -> str | None:
        """The public URI of the folder that is `checkpoint.uri` inside the job, if the platform
        transfers it."""
        return self.replaced().get("checkpoint.uri")


class Submission(NamedTuple):
    """A job that is submitted to a platform.

    `name` is a label of lower-case letters, digits and `-`, up to 40 characters, that begins with
    a letter; unique for each submission.
    """

    name: str
    job: "JobSpec"

    def spec_base64(self) -> str:
        """The whole resolved job spec, in the form of SEGADAPT_SPEC_BASE64."""
        return packed(self.job.to_yaml())

    def environment(self, profile: Profile, grace_s: float) -> dict[str, str]:
        """The job's plain variables: the profile's, its name, its grace, and how long nodes wait
        for one another, as long as the job's watchdog unless the profile says it."""
        wait_s = 60 * self.job.train.stall_minutes
        waits = {"SEGADAPT_NODES_WAIT_S": f"{wait_s:.0f}"} if wait_s != NODES_WAIT_S else {}
        own = {"SEGADAPT_JOB": self.name, "SEGADAPT_GRACE_S": f"{grace_s:.0f}"}
        outside = profile.checkpoints_at(self.job.name)
        if outside is not None:
            own["SEGADAPT_CHECKPOINTS_AT"] = outside
        return {**(waits if profile.nodes > 1 else {}), **profile.environment, **own}


class JobStatus(NamedTuple):
    """The status of a job on a platform; `detail` is a short line, the platform's own message."""

    job: str
    state: State
    detail: str = ""
    exit_code: int | None = None


class Finding(NamedTuple):
    """A line of `check`: what was checked, what was found, and the fix where `ok` is false.

    The command ends with the `exit_code` of the first that is not ok.
    """

    what: str
    ok: bool
    found: str
    fix: str = ""
    exit_code: int = 2


class Client(Protocol):
    """A connection to a platform. Every method raises `JobError` for what the user can fix and
    `StoreUnavailable` where the platform is unreachable."""

    def submit(self, request: Request) -> str:
        """Submit a request; returns the platform's name of the job, for the methods below."""

    def status(self, job: str) -> JobStatus:
        """The status of a job."""

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """The lines of a job's log, all nodes'; with `follow` until the job ends, over outages of
        the platform too (`following.follow`), no line lost or twice."""

    def stop(self, job: str) -> None:
        """Request a job to save and to end; return immediately. A second call, or one for a job
        that has ended, does nothing."""

    def jobs(self) -> Iterable[JobStatus]:
        """The jobs that SegAdapt submitted, the newest first."""

    def check(self, request: Request) -> Iterator[Finding]:
        """Checks before a request is sent: credentials, image, machine, quota."""


@dataclass(frozen=True)
class Platform:
    """A row of PLATFORMS.

    `grace_s` of a profile is the time between the platform's stop and its kill. `restarts` is
    true where the platform itself starts an interrupted job again. `predict` gives the requests of
    `predict --to`, by their jobs' names. `serving` is how it serves models, for `deploy`.
    `predict_facts` of a profile is what is to be confirmed of those requests beside or in place of
    the general facts.
    """

    profile: type[Profile]
    request: Callable[[Submission, Any], Request]
    connect: Callable[[Any, Mapping[str, str]], Client]
    grace_s: Callable[[Any], float]
    restarts: Callable[[Any], bool]
    predict: "Callable[[Sliced, Any], dict[str, Request]]"
    serving: "Serving | None" = None
    predict_facts: Callable[[Any], dict[str, str]] = lambda _profile: {}
