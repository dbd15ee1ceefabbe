"""Fixtures every test may use: the shared folder of real images and golden vectors, beside the project."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with golden vectors and real images; tests that need it are skipped where it is absent."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("the folder ../shared (golden vectors, real images) is not beside the project")
    return SHARED
