"""Which cases of a long table run where: some in `make test`, the others in `make nightly`."""

from collections.abc import Iterable
from typing import Any

import pytest


def one_in(step: int, cases: Iterable[Any]) -> list[Any]:
    """Cases, tuples or single values; all but each `step`-th are nightly.

    With a step that shares no factor with the length of a row, each row and each column of a table
    has cases that run in `make test`.
    """
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=[pytest.mark.nightly] if number % step else [],
        )
        for number, case in enumerate(cases)
    ]
