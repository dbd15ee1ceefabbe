"""Waits of the platforms, as fractions of a second."""

from dataclasses import replace

import pytest

from adapt.platforms import following
from storage.retry import Retry

QUICK = Retry(max_attempts=5, first_wait_s=0.001)
"""Of single calls."""


def quick_retries(monkeypatch: pytest.MonkeyPatch, deadline_s: float = 600.0) -> None:
    """Retry a platform that is unreachable without long waits, for `deadline_s`."""
    quick = replace(following.OUTAGE, deadline_s=deadline_s, first_wait_s=0.01, longest_wait_s=0.02)
    monkeypatch.setattr(following, "OUTAGE", quick)
