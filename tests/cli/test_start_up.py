"""Commands load what they need alone: a package that takes a second is paid for at every start."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import finish, start_python

HEAVY = {
    *("mlflow", "scipy", "sklearn", "pandas", "optuna", "matplotlib", "plotly", "sqlalchemy"),
    *("boto3", "botocore", "kubernetes", "docker", "onnx", "onnxruntime", "fastapi", "uvicorn"),
    *("av", "jinja2", "pyarrow", "IPython"),
}
"""Packages that neither help nor the check of a local job needs."""
NUMBERS = {"torch", "torchvision", "timm", "numpy", "PIL", "pydantic", "yaml"}
"""Those that no help needs."""


def loaded(folder: Path, *argv: str) -> set[str]:
    """The packages that a command has loaded when it ends, well."""
    code = (
        f"import sys; sys.argv = {['segadapt', *argv]!r}; from adapt.cli.main import main; "
        "code = main(); print('LOADED', *{name.partition('.')[0] for name in sys.modules}); "
        "sys.exit(code)"
    )
    ended = finish(start_python("-c", code, folder=folder), timeout_s=600)
    assert ended.code == 0, ended.err
    return set(ended.out.rpartition("LOADED")[2].split())


@pytest.mark.cold_start
def test_help_loads_no_package_for_numbers_services_or_specs(tmp_path: Path) -> None:
    found = loaded(tmp_path, "--help")
    assert "typer" in found and not found & (HEAVY | NUMBERS)


@pytest.mark.slow
@pytest.mark.cold_start
def test_the_help_of_a_command_loads_none_either(tmp_path: Path) -> None:
    own = {"pydantic"}  # typer's, for options with bounds
    for command in ("run", "check", "submit", "evaluate", "pack"):
        assert not loaded(tmp_path, command, "--help") & (HEAVY | NUMBERS) - own, command


@pytest.mark.slow
@pytest.mark.cold_start
def test_a_check_loads_no_service(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_job))
    found = loaded(tmp_path, "check", "tiny.yaml")
    assert "torch" in found and not found & HEAVY
