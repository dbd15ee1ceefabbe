"""MLflow's empty database file, made once on a machine and copied after that: MLflow needs 1.6 s of
a core to make one, and nearly every job of the tests has one.
"""

import os
import shutil
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from adapt.tracking import mlflow_database
from tests import processes

made_by_mlflow = mlflow_database.make_tables


def copy_from_now_on() -> None:
    """Have this process copy the file, unless all tests start cold."""
    if not processes.cold:
        mlflow_database.make_tables = copied


def copied(file: Path) -> None:
    """In place of `mlflow_database.make_tables`."""
    shutil.copyfile(_template(), file)


def cache_dir() -> Path:
    """The folder of what the tests make or install once on a machine."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "segadapt-tests"


def _template() -> Path:
    template = cache_dir() / f"mlflow-{version('mlflow')}.db"
    if not template.exists():
        template.parent.mkdir(parents=True, exist_ok=True)
        whole = template.with_name(f"{template.name}-{uuid4().hex}")
        made_by_mlflow(whole)
        whole.rename(template)
    return template
