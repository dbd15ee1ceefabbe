"""The contract of a platform for `deploy`, `endpoints` and `undeploy`: `Serving` in its row.

As for jobs, a request is a pure value that golden files hold, with secrets by name only, and a
client is a few lines over the platform's own library. What runs is the image with `segadapt serve`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import AfterValidator

from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.places import GRACE, MODEL, MODEL_SHA256
from adapt.platforms.platform import Profile, Request
from adapt.platforms.spec_variable import SHORTER_SPEC, SPEC_VARIABLE, spec_variable
from storage.uris import split_uri

EndpointState = Literal["starting", "ready", "failed", "stopped", "unknown"]

PORT = 8080
"""Port of the image's server."""

READY, LIVE = "/v2/health/ready", "/v2/health/live"
"""Its probes: the model is loaded and warm; the process listens."""

MODEL_FOLDER = "/opt/ml/model"
"""The folder in which the image looks for a model."""

TOKEN = "SEGADAPT_TOKEN"
"""The server's variable with the token that requests state."""
SPEC_OPTION = "SEGADAPT_OPTION_SPEC"
"""A job spec in base64, and the variable of the server's `--spec`, which names it."""


_SET_BY_PROFILE = ("--host", "--port", "--name", "--token-file")


def _no_addresses(arguments: list[str]) -> list[str]:
    """Refuse what other keys say, by name."""
    for argument in arguments:
        if argument.partition("=")[0] in _SET_BY_PROFILE:
            expected = "other options than --host, --port, --name and --token-file"
            raise Mistake(f"expected {expected}, got {argument}", fix="use the keys of `serve`")
    return arguments


ServeArguments = Annotated[list[str], AfterValidator(_no_addresses)]
"""Options of `segadapt serve` that no key of a profile says."""


def option_variables(arguments: list[str]) -> dict[str, str]:
    """Options of `segadapt serve` as the variables that set them, for a platform that starts an
    image with the word `serve` alone. Raises `Mistake` for other words."""
    found, words = dict[str, str](), iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        value = value if equals else next(words, "")
        if not option.startswith("--") or not value:
            raise Mistake(
                f"arguments: expected options with a value each, got {' '.join(arguments)!r}",
                fix="write [--precision, bf16]",
            )
        found["SEGADAPT_OPTION_" + option[2:].replace("-", "_").upper()] = value
    return found


class ServeSettings(Section):
    """The keys of a profile's section `serve`; each platform has its own."""


class Deployment(NamedTuple):
    """A model that becomes an endpoint.

    `name` is a label as that of a job. `model` is the URI of a file of weights, an absolute path of
    this machine, or a path of the container that the profile mounts. `asked` is MODEL as the user
    named it.
    """

    name: str
    model: str
    asked: str
    is_file: bool = False
    """A path of this machine is a file of weights, not a checkpoint's folder."""
    sha256: str | None = None
    """Of the file of weights, where that is known."""
    spec: str | None = None
    """A whole job spec in base64, with the settings of the store that the model is in."""

    @property
    def is_path(self) -> bool:
        """Return whether the model is a file or a folder, not the URI of a store."""
        return split_uri(self.model)[0] == "file"

    def environment(self, profile: Profile, model: str, grace_s: float) -> dict[str, str]:
        """The server's plain variables: the profile's, the model inside the container and its
        sha256, the grace."""
        own = {MODEL: model, GRACE: f"{grace_s:.0f}"}
        own |= {} if self.sha256 is None else {MODEL_SHA256: self.sha256}
        hidden = {} if profile.gpus else {"NVIDIA_VISIBLE_DEVICES": "void"}
        return {**hidden, **profile.environment, **own}

    def store_settings(self) -> dict[str, str]:
        """The variables that give the server the settings of the model's store, if any. Raises
        `JobError` where the spec is too long for one."""
        if self.spec is None or self.is_path:
            return {}
        own = spec_variable("--spec", self.spec, SHORTER_SPEC)
        return {**own, SPEC_OPTION: f"env:{SPEC_VARIABLE}"}


class EndpointStatus(NamedTuple):
    """The status of an endpoint; `url` is where requests go, `detail` a short line."""

    endpoint: str
    state: EndpointState
    url: str = ""
    detail: str = ""


class EndpointClient(Protocol):
    """A connection to a platform. Every method raises `JobError` for what the user can fix and
    `StoreUnavailable` where the platform is unreachable."""

    def deploy(self, request: Request) -> str:
        """Create an endpoint, or nothing; the platform's name of it. It may not be ready yet."""

    def status(self, endpoint: str) -> EndpointStatus:
        """The status of an endpoint."""

    def logs(self, endpoint: str, follow: bool) -> Iterator[str]:
        """The lines of its log; with `follow` until it is gone."""

    def complete(self, request: Request) -> None:
        """Send the parts of a request that the platform takes only of a ready endpoint; see
        `Serving.after_ready`."""

    def undeploy(self, endpoint: str) -> None:
        """Let it finish what is in flight, then remove it and all that `deploy` made for it."""

    def endpoints(self) -> Iterable[EndpointStatus]:
        """The endpoints that SegAdapt deployed, the newest first."""


def _as_it_is(profile: Any) -> Any:
    return profile


def _nothing(_profile: Any) -> str:
    return ""


@dataclass(frozen=True)
class Serving:
    """How a platform serves.

    `replicas` of a profile are the fewest and the most machines that are paid for; `reach` says who
    can reach the endpoint, `access` what a request has to state. `takes_paths` is true where a path
    of this machine can be mounted. `on_machines` gives the profile with GPUs and price of an
    endpoint's machines, where those differ from a job's. `takes_settings` is false where servers
    get no settings of the model's store. `after_ready` names what can be made only when the
    endpoint is ready, "" for nothing.
    """

    request: Callable[[Deployment, Any], Request]
    connect: Callable[[Any, Mapping[str, str]], EndpointClient]
    replicas: Callable[[Any], tuple[int, int]]
    reach: Callable[[Deployment, Any], str]
    access: Callable[[Any], str]
    takes_paths: bool = False
    takes_settings: bool = True
    on_machines: Callable[[Any], Any] = _as_it_is
    after_ready: Callable[[Any], str] = _nothing
