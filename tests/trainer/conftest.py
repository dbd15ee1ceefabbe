"""The place of the trainer's tests."""

from pathlib import Path

import pytest

from adapt.places import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("local", {}, tmp_path / "scratch", grace_s=120)  # time for a busy machine
