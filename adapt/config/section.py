"""`Section`: a part of a job spec, a frozen pydantic model that refuses unknown keys.

Each section stands in its owner's file; `adapt/spec/job_spec.py` collects them.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self, Union

from pydantic import BaseModel, ConfigDict, Field

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


def one_of(sections: Iterable[type[Section]], tag: str) -> Any:
    """The union of sections whose key `tag` holds the name of one of them."""
    return Annotated[Union[tuple(sections)], Field(discriminator=tag)]  # noqa: UP007 - from a table
