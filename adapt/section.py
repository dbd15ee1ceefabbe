"""`Section`: what every part of a job spec is, a frozen pydantic model that refuses unknown keys.

Each section stands in its owner's file; `adapt/spec.py` collects them.
"""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the job spec.

    Frozen; unknown keys are errors; values are not coerced across kinds.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )
