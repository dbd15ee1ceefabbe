"""Fixtures of the supervisor's tests."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def signals_kept() -> Iterator[None]:
    """Puts back the handlers that a `Stop` sets for this process."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
