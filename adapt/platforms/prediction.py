"""Commands on a set that a platform runs as jobs, each with a slice: `predict`, `pack` and
`verify`, of which every platform makes its requests.

The jobs write to one folder and skip what is written, so a slice that failed is submitted again
alone, and the same command resumes all.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import NamedTuple

from adapt.errors import JobError
from adapt.places import GRACE, PREDICT_SHA256
from adapt.platforms.platform import Profile
from adapt.platforms.reachable import ALIASES, IMAGE, READ, STORED, expected_uri, is_there
from adapt.platforms.spec_variable import LONGEST_SPEC, SHORTER_SPEC, SPEC_VARIABLE, spec_variable
from storage.uris import split_uri, without_password

COPY = "copy it into a store and name its URI"
MOUNT = "name a platform whose profile mounts the folder, or pack where it is"
PROGRAM = ("python", f"{IMAGE}/entrypoint.py")
"""The image's entrypoint, for platforms that replace it."""


class SetUri(NamedTuple):
    """A URI of a command by its key in messages. Jobs read it, or write there where it is
    `written`; `in_image`: it may be a path of the image; `path`: it can be nothing but a path."""

    key: str
    uri: str
    written: bool = False
    in_image: bool = False
    path: bool = False


class Sliced(ABC):
    """A command whose jobs each do a slice of its work.

    `name` is a label as that of a job. Of `num_slices`, those in `slices` are submitted. `words`
    are the command with its options, `uris` what it reads and writes. `spec` is a whole job spec in
    base64, `sha256` that of a model.
    """

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def num_slices(self) -> int: ...

    @property
    @abstractmethod
    def slices(self) -> tuple[int, ...]: ...

    @property
    @abstractmethod
    def sha256(self) -> str | None: ...

    @property
    @abstractmethod
    def spec(self) -> str | None: ...

    @property
    @abstractmethod
    def words(self) -> tuple[str, ...]: ...

    @property
    @abstractmethod
    def uris(self) -> tuple[SetUri, ...]: ...

    @property
    def command(self) -> str:
        """`predict`, `pack` or `verify`."""
        return self.words[0]

    def name_of(self, number: int) -> str:
        """The name of the job of a slice."""
        return f"{self.name}-{number}"

    def arguments(self, number: int | None) -> list[str]:
        """The command of a slice, without the program; None: the platform numbers the nodes."""
        spec = [] if self.spec is None else ["--spec", f"env:{SPEC_VARIABLE}"]
        part = [] if number is None else ["--slice", f"{number}/{self.num_slices}"]
        return [*self.words, *spec, *part]

    def environment(self, profile: Profile, grace_s: float) -> dict[str, str]:
        """The plain variables of a slice, without the spec."""
        hidden = {} if profile.gpus else {"NVIDIA_VISIBLE_DEVICES": "void"}
        digest = {} if self.sha256 is None else {PREDICT_SHA256: self.sha256}
        return {**hidden, **profile.environment, GRACE: f"{grace_s:.0f}", **digest}

    def spec_variable(self, longest: int = LONGEST_SPEC) -> dict[str, str]:
        """The variable of the spec, if there is one. Raises `JobError` where it is too long."""
        if self.spec is None:
            return {}
        return spec_variable("--spec", self.spec, SHORTER_SPEC, longest)


class _Prediction(NamedTuple):
    name: str
    model: str
    asked: str
    inputs: tuple[str, ...]
    out: str
    options: tuple[str, ...]
    num_slices: int
    slices: tuple[int, ...]
    sha256: str | None = None
    spec: str | None = None


class Prediction(_Prediction, Sliced):
    """A set to predict; `asked` is MODEL as the user named it, `options` are those of `predict` as
    words."""

    __slots__ = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The command without its slice."""
        return ("predict", self.model, *self.inputs, "--out", self.out, *self.options)

    @property
    def uris(self) -> tuple[SetUri, ...]:
        """MODEL, each INPUT, and --out."""
        inputs = (SetUri("INPUT", uri) for uri in self.inputs)
        model = SetUri("MODEL", self.model, in_image=True)
        return (model, *inputs, SetUri("--out", self.out, written=True))


class _DataJobs(NamedTuple):
    name: str
    words: tuple[str, ...]
    uris: tuple[SetUri, ...]
    num_slices: int
    slices: tuple[int, ...]
    spec: str | None = None
    sha256: str | None = None


class DataJobs(_DataJobs, Sliced):
    """A dataset to pack or to verify, by its shards."""

    __slots__ = ()


def check_uris(
    jobs: Sliced,
    offer: str,
    read: Collection[str] = (),
    written: Collection[str] = (),
    schemes: Collection[str] = READ,
) -> None:
    """Raise `JobError`, a line for each URI that the jobs do not have; `read` are the folders that
    they have, `written` those where results outlive them, `offer` names the profile's key."""
    stored = [scheme for scheme in schemes if scheme in STORED]
    lines, fixes = [], []
    for key, uri, is_written, in_image, path in jobs.uris:
        known = [] if path else stored if is_written else [*schemes]
        folders = [*(written if is_written else read)]
        scheme, _ = split_uri(uri)
        scheme = ALIASES.get(scheme, scheme)
        below = [*folders, IMAGE] if in_image else folders
        if not is_there(uri, below) or scheme not in ("file", *known):
            why = ", a path that the jobs do not have" if scheme == "file" else ""
            expected = expected_uri(known, folders, offer)
            lines.append(f"{key}: expected {expected}, got {without_password(uri)!r}{why}")
            fixes.append(MOUNT if path else COPY)
    if lines:
        raise JobError("\n".join(lines), "; ".join(dict.fromkeys(fixes)))


def check_one_gpu(profile: Profile) -> None:
    """Raise `JobError` for a machine whose other GPUs would be idle."""
    if profile.gpus > 1:
        raise JobError(
            f"gpus: expected 0 or 1, since a slice uses one GPU, got {profile.gpus}",
            "take a machine with one GPU (--set), and more slices",
        )


def check_one_node(profile: Profile) -> None:
    """Raise `JobError` for nodes that would be idle."""
    if profile.nodes > 1:
        raise JobError(
            f"nodes: expected 1, since a slice is one process, got {profile.nodes}",
            "set nodes=1 (--set), and take more slices",
        )
