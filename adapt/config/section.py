"""`Section`: what every part of a job spec is, a frozen pydantic model that refuses unknown keys.

Each section stands in its owner's file; `adapt/spec/job_spec.py` collects them.
"""

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from adapt.errors import JobError


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
        try:
            return cls.model_validate_json(json.dumps(dict(values)), strict=True)
        except ValidationError as error:
            lines = [
                f"{'.'.join(map(str, (key, *one['loc'])))}: {one['msg']}, got {one['input']!r}"
                for one in error.errors(include_url=False)
            ]
            raise JobError("\n".join(lines)) from error
