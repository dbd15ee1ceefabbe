"""The datasets that a domain's batches draw from.

`source` and `target` of a job spec are one section or a list of them; the labelled samples of the
target are one more dataset of the source's batches.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

from pydantic import AfterValidator

from adapt.config.section import one_or_more
from adapt.errors import JobError
from adapt.stream.config import DomainConfig, TargetConfig

Config = TypeVar("Config", bound=DomainConfig)

DOMAINS = ("source", "target")
"""The job spec's section of each stream, by the stream's number."""


def _agreed(section: Config | tuple[Config, ...]) -> Config | tuple[Config, ...]:
    """A list of one is that one; in a list, `batch_size` is the first's where it is left out."""
    if not isinstance(section, tuple):
        return section
    if not section:
        raise ValueError("expected a dataset or a list of them, got an empty list")
    if len(section) == 1:
        return section[0]
    size = {"batch_size": section[0].batch_size}
    return tuple(
        one if "batch_size" in one.model_fields_set else one.model_copy(update=size)
        for one in section
    )


if TYPE_CHECKING:
    SourceSection = DomainConfig | tuple[DomainConfig, ...]
    TargetSection = TargetConfig | tuple[TargetConfig, ...]
else:
    SourceSection = Annotated[one_or_more(DomainConfig), AfterValidator(_agreed)]
    TargetSection = Annotated[one_or_more(TargetConfig), AfterValidator(_agreed)]


def datasets_of(domain: str, section: Config | tuple[Config, ...] | None) -> dict[str, Config]:
    """The datasets of a domain by their keys in the job spec: `source`, or `source.0` and so on."""
    if section is None:
        return {}
    if not isinstance(section, tuple):
        return {domain: section}
    return {f"{domain}.{number}": one for number, one in enumerate(section)}


class Part(NamedTuple):
    """A dataset that a domain's batches draw from, with `weight` against those of the others.

    `name` is what findings call it, `key` its section in the job spec; `config` names the split, of
    which `keys`, or those that the file at `keys_uri` lists, are drawn alone where either is given.
    """

    name: str
    key: str
    config: DomainConfig
    labelled: bool
    weight: float
    keys: tuple[str, ...] | None = None
    keys_uri: str | None = None

    @property
    def of_some(self) -> bool:
        """Some samples of the split are drawn, not all."""
        return self.keys is not None or self.keys_uri is not None


def unlabelled_parts(targets: Mapping[str, TargetConfig]) -> tuple[Part, ...]:
    """The target's datasets, without their labels."""
    return tuple(Part(key, key, one, False, one.weight) for key, one in targets.items())


def labelled_parts(
    sources: Mapping[str, DomainConfig], targets: Mapping[str, TargetConfig]
) -> tuple[Part, ...]:
    """The source's datasets, and the labelled samples of the target's: these have their
    `labelled_share` of all draws, several of them the mean of theirs by weight."""
    named = {key: one for key, one in targets.items() if one.has_labelled}
    total = sum(one.weight for one in named.values())
    labelled = [
        _labelled_part(key, one, one.labelled_share * one.weight / total)
        for key, one in named.items()
    ]
    rest = 1 - sum(part.weight for part in labelled)
    total = sum(one.weight for one in sources.values())
    drawn = [Part(key, key, one, True, rest * one.weight / total) for key, one in sources.items()]
    return (*drawn, *labelled)


def _labelled_part(key: str, target: TargetConfig, weight: float) -> Part:
    keys, keys_uri = target.labelled_keys, target.labelled_keys_uri
    if target.labelled_split is not None:
        target = target.model_copy(update={"split": target.labelled_split})
    return Part(f"labelled {key}", key, target, True, weight, keys, keys_uri)


def check_batch_size(datasets: Mapping[str, DomainConfig]) -> None:
    """Raise `JobError` where the datasets of a domain state different ones."""
    first = next(iter(datasets), "")
    for key, one in datasets.items():
        expected = datasets[first].batch_size
        if one.batch_size != expected:
            raise JobError(
                f"{key}.batch_size: expected {expected} as in {first}, since they share batches, "
                f"got {one.batch_size}",
                fix=f"state it in {first} alone",
            )


def check_one_size(domain: str, parts: Sequence[Part]) -> None:
    """Raise `JobError` where the spec's sizes do not let a rank put a batch into one tensor."""
    sizes = {part.name: part.config.image_hw for part in parts}
    known = {name: size_hw for name, size_hw in sizes.items() if size_hw is not None}
    first = next(iter(known), "")
    for name, size_hw in known.items():
        if size_hw != known[first]:
            raise JobError(
                f"{domain}.batch_size: expected images of one size in a rank's batch, got "
                f"{list(known[first])} of {first} and {list(size_hw)} of {name}",
                fix="set the same augment.crop_hw for both",
            )
