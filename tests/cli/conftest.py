"""Fixtures of the commands' tests: a spec on disk, a finished run; how a refusal is checked."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import Ended, call
from tests.conftest import tiny_values

SECONDS = 15
"""What `within seconds` means on a busy machine of two cores."""


@pytest.fixture
def spec(tiny_uri: str, tmp_path: Path) -> Path:
    """The tiny job's spec file; its checkpoints go to `runs` in the same folder."""
    return write_spec(tiny_values(tiny_uri, "runs"), tmp_path)


def write_spec(values: dict[str, Any], folder: Path) -> Path:
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder / "tiny.yaml"


def refused(ended: Ended, code: int, *parts: str) -> None:
    """The command ended with this code and one message, which has these parts."""
    message = ended.err.strip().splitlines()
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err and ended.out == ""
    kinds = (
        "JobError",
        "StoreError",
        "MissingObject",
        "SilentStore",
        "StoreUnavailable",
        "DataError",
        "BadFiles",
    )
    assert sum(line.startswith(kinds) for line in message) == 1, ended.err
    for part in parts:
        assert part in ended.err


@pytest.fixture(scope="module")
def finished(tiny_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the spec and the finished run of a source-only tiny job; `answer.json` is
    what the command answered."""
    folder = tmp_path_factory.mktemp("finished")
    changed = {"train": {"steps": 4, "log_every_steps": 1}, "evaluate": {"every_steps": 2}}
    values = tiny_values(tiny_uri, "runs") | {"method": {"name": "source_only"}} | changed
    ended = call("run", write_spec(values, folder), "--json", folder=folder)
    assert ended.code == 0, ended.err
    assert [line.split()[1] for line in ended.err.splitlines() if line.startswith("step ")] == [
        f"{step}/4" for step in range(1, 5)
    ]
    (folder / "answer.json").write_text(ended.out)
    return folder
