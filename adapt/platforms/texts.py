"""Patterns of texts in the profiles of several platforms."""

import re
from typing import Annotated

from pydantic import AfterValidator


def matching(
    pattern: str, expected: str, *, longest: int | None = None, shown: bool = True
) -> AfterValidator:
    """A text of this pattern and length; the error states what was expected, and shows the text if
    it may."""

    def check(text: str) -> str:
        too_long = longest is not None and len(text) > longest
        if too_long or re.fullmatch(pattern, text) is None:
            raise ValueError(f"expected {expected}" + (f", got {text!r}" if shown else ""))
        return text

    return AfterValidator(check)


VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"

VariableName = Annotated[
    str, matching(VARIABLE, "a variable's name, never the secret itself", shown=False)
]
