"""MLflow without a server: a database file beside the checkpoints."""

import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from adapt.errors import JobError

_TABLES = {"experiments", "runs"}


def embedded_tracking_uri(folder: Path) -> str:
    """MLflow's URI of the database file in a folder of runs."""
    return f"sqlite:///{folder.resolve()}/mlflow.db"


def absolute(uri: str) -> str:
    """The URI of the same server or database file, in any folder."""
    return uri if embedded_folder(uri) is None else f"sqlite:///{_file_of(uri)}"


def embedded_folder(uri: str) -> Path | None:
    """The folder of a database file's URI; None for a server."""
    return _file_of(uri).parent if uri.startswith("sqlite:///") else None


def require_database(uri: str, *, or_its_folder: bool = False) -> None:
    """Raise `JobError` where a database file is not there, or is not MLflow's.

    MLflow's client would make a new one, or add its tables to another program's. A server is not
    asked. or_its_folder: a file may still be missing where its folder is there.
    """
    if embedded_folder(uri) is None:
        _refuse_path(uri)
        return
    file = _file_of(uri)
    fix = "name the MLflow server, or sqlite:///PATH of its database file, with --tracking-uri "
    fix += "(in Python tracking_uri=)"
    if or_its_folder and file.parent.is_dir() and not file.exists():
        return
    if not file.is_file():
        raise JobError(f"{file}: expected MLflow's database file, got no file", fix)
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table'"
            ).fetchall()
    except sqlite3.Error as error:
        raise JobError(f"{file}: expected MLflow's database file, got: {error}", fix) from error
    if not {name for (name,) in rows} >= _TABLES:
        raise JobError(f"{file}: expected MLflow's database file, got another one", fix)


def _refuse_path(uri: str) -> None:
    """Refuse the bare path of a file, which MLflow takes for a folder of its old form."""
    if "://" not in uri and Path(uri).is_file():
        raise JobError(
            f"{uri}: expected the URI of an MLflow server or of its database file, got a path",
            f"write sqlite:///{Path(uri).resolve()}",
        )


def make_database(uri: str) -> None:
    """Make the file with MLflow's tables, unless it is there.

    It appears whole or not at all: MLflow makes its tables one by one, for seconds, and cannot
    open a file in which it was killed meanwhile. Raises `OSError` immediately where it cannot be
    written; MLflow itself retries for half a minute.
    """
    check_writable(uri)
    file = _file_of(uri)
    if file.exists():
        return
    whole = file.with_name(f"{file.name}-{uuid4().hex}")
    with tempfile.TemporaryDirectory(prefix="segadapt-mlflow-") as folder:
        made = Path(folder) / "made.db"
        make_tables(made)
        try:
            shutil.copyfile(made, whole)
            _put_in_place(whole, file)
        finally:
            whole.unlink(missing_ok=True)


def make_tables(file: Path) -> None:
    """Have MLflow make a database file, in seconds; a kill meanwhile leaves half of one."""
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{file}")  # commits all into this one file


def check_writable(uri: str) -> None:
    """Raise `OSError` where the file, or a new one in its folder, cannot be written."""
    file = _file_of(uri)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        file.open("ab").close()
    else:
        tempfile.TemporaryFile(dir=file.parent).close()


def _put_in_place(whole: Path, file: Path) -> None:
    """Give the file its name, unless another process was faster."""
    try:
        os.link(whole, file)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        with _locked(file.parent):
            if not file.exists():
                whole.rename(file)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _file_of(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve()
