"""The MLflow server of a job."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from adapt.check.tracking import tracking_findings
from adapt.platforms.platform import Finding
from tests.check.subjects import assert_green, assert_red, subject
from tests.storage.web_server import Answer as WebAnswer
from tests.storage.web_server import WebServer


def mlflow_of(uri: str, folder: Path, **more: Any) -> list[Finding]:
    return list(tracking_findings(subject(folder, "packed", f"tracking.uri={uri}", **more)))


def test_an_embedded_database_needs_no_server(tmp_path: Path) -> None:
    here = list(tracking_findings(subject(tmp_path)))
    assert_green(here, "MLflow", "metrics go to a database file, sqlite:///")
    there = list(tracking_findings(subject(tmp_path, profile={})))
    assert_green(there, "MLflow", "lost with the machine unless tracking.uri names a server")


def test_a_server_that_refuses_connections(absent_uri: str, tmp_path: Path) -> None:
    cure = "start the server, or make it reachable from the job"
    assert_red(mlflow_of(absent_uri, tmp_path), "MLflow", 3, absent_uri, cure)


@pytest.mark.slow
def test_a_server_that_does_not_know_its_own_name(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def by_name(host: Any, *args: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host == "mlflow.example.org" else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", by_name)
    uri = mlflow_uri.replace("127.0.0.1", "mlflow.example.org")
    found = mlflow_of(uri, tmp_path)
    assert_red(
        found, "MLflow", 3, "Invalid Host header", "`mlflow server --allowed-hosts HOST:PORT`"
    )


def test_a_server_that_wants_a_login(web_server: WebServer, tmp_path: Path) -> None:
    web_server.login = "user:password"
    found = mlflow_of(web_server.url, tmp_path)
    assert_red(found, "MLflow", 3, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")


def test_an_address_where_no_mlflow_is(web_server: WebServer, tmp_path: Path) -> None:
    web_server.answers.append(WebAnswer(404, b"not here"))
    assert_red(mlflow_of(web_server.url, tmp_path), "MLflow", 3, web_server.url)


@pytest.mark.slow
def test_an_experiment_that_was_deleted(mlflow_uri: str, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=mlflow_uri)
    client.delete_experiment(client.create_experiment("was-deleted"))
    one = subject(
        tmp_path, "packed", f"tracking.uri={mlflow_uri}", "tracking.experiment=was-deleted"
    )
    message = "the experiment 'was-deleted' was deleted; `mlflow experiments restore` it"
    assert_red(tracking_findings(one), "MLflow", 2, message)


def test_mlflow_of_this_machine_is_not_the_platforms(tmp_path: Path) -> None:
    here = subject(tmp_path, "s3://b/d", profile={})
    place = replace(here.place, environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"})
    found = tracking_findings(replace(here, place=place))
    assert_green(found, "MLflow", "a database file", "lost with the machine")
