"""One operation, tried again while the store is unavailable."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from storage.errors import StoreUnavailable

_Result = TypeVar("_Result")


def retried(
    operation: Callable[[], _Result],
    max_attempts: int,
    first_delay_s: float = 0.5,
    longest_delay_s: float = 20.0,
) -> _Result:
    """`operation()`, tried again while it raises `StoreUnavailable`, at most `max_attempts` times.

    Waits uniform(0, min(longest, first * 2^n)) seconds in between ("full jitter"), so that ranks
    which fail together do not come back together.
    """
    for attempt in range(max_attempts - 1):
        try:
            return operation()
        except StoreUnavailable:
            time.sleep(random.uniform(0, min(longest_delay_s, first_delay_s * 2**attempt)))
    return operation()
