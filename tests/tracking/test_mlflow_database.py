"""The database file that stands in for an MLflow server: there whole or not at all."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from adapt.errors import JobError
from adapt.tracking import mlflow_database
from adapt.tracking.mlflow_database import (
    _put_in_place,
    embedded_folder,
    embedded_tracking_uri,
    make_database,
    require_database,
)
from tests.mlflow_tables import made_by_mlflow


@pytest.fixture(autouse=True)
def tables_are_mlflow_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """No copies of one that was made before."""
    monkeypatch.setattr(mlflow_database, "make_tables", made_by_mlflow)


MAKE = (
    "import sys; from adapt.tracking.mlflow_database import make_database; "
    "make_database(sys.argv[1])"
)


@pytest.mark.slow
def test_a_new_file_has_tables_and_stays_as_it_is(tmp_path: Path) -> None:
    uri = embedded_tracking_uri(tmp_path / "runs")
    make_database(uri)
    assert embedded_folder(uri) == tmp_path / "runs"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mlflow.db"]
    MlflowClient(tracking_uri=uri).create_experiment("kept")
    make_database(uri)
    assert MlflowClient(tracking_uri=uri).get_experiment_by_name("kept") is not None


@pytest.mark.slow
def test_a_kill_while_tables_are_made_leaves_nothing_that_stops_the_next(tmp_path: Path) -> None:
    uri, temporary = embedded_tracking_uri(tmp_path / "runs"), tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen([sys.executable, "-c", MAKE, uri], env=environment)
    while not list(temporary.glob("*/made.db")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "runs" / "mlflow.db").exists(), "only whole files get their name"
    make_database(uri)
    assert MlflowClient(tracking_uri=uri).get_experiment_by_name("Default") is not None


@pytest.mark.slow
def test_of_two_that_make_it_at_once_one_is_taken(tmp_path: Path) -> None:
    uri = embedded_tracking_uri(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make_database, [uri, uri]))
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.slow
def test_without_hard_links_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    uri = embedded_tracking_uri(tmp_path)
    make_database(uri)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    assert MlflowClient(tracking_uri=uri).search_experiments()


def test_what_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(OSError, match=r"mlflow\.db"):
        make_database(embedded_tracking_uri(tmp_path))
    assert embedded_folder("http://127.0.0.1:5000") is None


def test_only_a_database_of_mlflow_is_taken_and_none_is_made(tmp_path: Path) -> None:
    require_database("http://127.0.0.1:5000")
    with pytest.raises(JobError, match=r"mlflow.db: expected MLflow's database file, got no file"):
        require_database(embedded_tracking_uri(tmp_path / "nowhere"))
    assert not list(tmp_path.iterdir())
    make_database(embedded_tracking_uri(tmp_path))
    require_database(embedded_tracking_uri(tmp_path) + "?timeout=5")
    with pytest.raises(JobError, match=r"mlflow.db: expected the URI of .*, got a path. Fix: write "
                       rf"sqlite:///{tmp_path}/mlflow.db"):  # fmt: skip
        require_database(str(tmp_path / "mlflow.db"))


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("notes, no database" * 100)
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE songs (title TEXT)")
    for name in ("empty", "text", "other"):
        before = (tmp_path / f"{name}.db").read_bytes()
        with pytest.raises(JobError, match=rf"{name}.db: expected MLflow's database file, got"):
            require_database(f"sqlite:///{tmp_path}/{name}.db")
        assert (tmp_path / f"{name}.db").read_bytes() == before


def test_without_hard_links_the_file_of_a_faster_process_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower(_whole: Path, file: Path) -> None:
        file.write_text("of the faster")
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", slower)
    (tmp_path / "whole").write_text("of the slower")
    _put_in_place(tmp_path / "whole", tmp_path / "mlflow.db")
    assert (tmp_path / "mlflow.db").read_text() == "of the faster"


ENDS_EARLY = """
import sys, tempfile, time
from pathlib import Path
from tests.tracking.recorded import open_tracker
tracker = open_tracker(f"sqlite:///{sys.argv[1]}/runs/mlflow.db", Path(sys.argv[1]) / "spool", "a")
while not list(Path(tempfile.gettempdir()).glob("*/made.db")):
    time.sleep(0.01)
assert not tracker.finish("FINISHED", 0)
"""


@pytest.mark.slow
def test_a_process_that_ends_while_tables_are_made_blames_no_database(tmp_path: Path) -> None:
    """The end removes the temporary file under the thread, which sqlite calls readonly."""
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", ENDS_EARLY, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "has not received 2 entries" in ended.stderr
    assert "readonly" not in ended.stderr and "unreachable" not in ended.stderr
