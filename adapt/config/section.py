"""`Section`: a part of a job spec, a frozen pydantic model that refuses unknown keys.

Each section stands in its owner's file; `adapt/spec/job_spec.py` collects them.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self, Union, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from adapt.config.kinds import Forms, PickedBy
from adapt.config.validation import validate


class Section(BaseModel):
    """A part of the job spec.

    Frozen; unknown keys are errors; values are not coerced across kinds.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    @classmethod
    def from_values(cls, values: Mapping[str, Any], key: str) -> Self:
        """Plain values, as a job spec has them below `key` -> section.

        Raises `JobError` with a line for each mistake.
        """
        return validate(cls, dict(values), key)


def one_of(sections: Iterable[type[Section]], tag: str, default: str | None = None) -> Any:
    """The union of sections whose key `tag` holds the name of one of them, by default `default`."""
    if default is None:
        return Annotated[Union[tuple(sections)], Field(discriminator=tag)]  # noqa: UP007 - a table

    def name(values: Any) -> Any:
        if isinstance(values, Mapping):
            return values.get(tag, default)
        return getattr(values, tag, default)

    named = tuple(Annotated[one, Tag(_name(one, tag))] for one in sections)
    return Annotated[Union[named], Discriminator(name), PickedBy(tag)]  # noqa: UP007 - a table


def one_or_more(section: type[Section]) -> Any:
    """A section, or a list of them."""
    one: Any = section
    forms: Any = Annotated[one, Tag("one")] | Annotated[tuple[one, ...], Tag("more")]

    def form(values: Any) -> str:
        return "more" if isinstance(values, list | tuple) else "one"

    return Annotated[forms, Discriminator(form), Forms(("one", "more"))]


def _name(section: type[Section], tag: str) -> str:
    """The only value of a section's key `tag`."""
    (name,) = get_args(section.model_fields[tag].annotation)
    return str(name)
