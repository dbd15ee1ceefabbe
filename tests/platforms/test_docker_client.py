"""docker's client against an engine that breaks off, is slow, and is far away."""

import logging
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from threading import Event, Thread

import pytest

from adapt.errors import JobError
from adapt.platforms.docker import client as module
from adapt.platforms.docker.client import DockerClient, connect
from storage.errors import StoreUnavailable
from tests.platforms.docker_double import (
    EngineDouble,
    frame,
    on_a_socket,
    over_tls,
    ssh_command,
)
from tests.platforms.quick import quick_retries

PATIENCE_S = 10.0


@pytest.fixture
def engine() -> EngineDouble:
    return EngineDouble()


@pytest.fixture
def uri(engine: EngineDouble, tmp_path: Path) -> Iterator[str]:
    with on_a_socket(engine, tmp_path) as uri:
        yield uri
        engine.may_signal.set()
        engine.end()


@pytest.fixture
def client(uri: str, monkeypatch: pytest.MonkeyPatch) -> DockerClient:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    quick_retries(monkeypatch)
    return connect(uri, {})


def stopping(client: DockerClient) -> Thread:
    thread = Thread(target=client.stop, args=("tiny",), daemon=True)
    thread.start()
    return thread


def wait_for(event: Event) -> None:
    assert event.wait(PATIENCE_S)


def wait_for_looks(engine: EngineDouble, more: int) -> None:
    enough, pause = engine.looks + more, Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        if engine.looks >= enough:
            return
        pause.wait(0.01)
    raise AssertionError(engine.looks)


def test_a_stop_returns_when_the_engine_has_sent_the_signal(
    engine: EngineDouble, client: DockerClient
) -> None:
    engine.may_signal.clear()
    thread = stopping(client)
    wait_for(engine.asked)
    wait_for_looks(engine, 3)
    assert thread.is_alive(), "a busy engine has sent nothing yet"
    engine.may_signal.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive() and engine.kills and engine.state == "running"


@pytest.mark.slow
@pytest.mark.parametrize("version", ["23.0.0", "23.0.6", "24.0.0-rc.1", "24.0.2+dfsg1"])
def test_an_engine_that_kills_when_left_is_not_left(
    version: str, engine: EngineDouble, client: DockerClient, caplog: pytest.LogCaptureFixture
) -> None:
    engine.version, engine.state = version, "running"
    with caplog.at_level(logging.WARNING):
        thread = stopping(client)
        wait_for(engine.asked)
        thread.join(0.5)
        assert thread.is_alive() and not engine.left.is_set()
        engine.end()
        thread.join(PATIENCE_S)
    assert not thread.is_alive() and not engine.left.is_set()
    assert f"engine {version} kills a job whose stop is not waited for" in caplog.text


@pytest.mark.parametrize("version", ["20.10.24", "23.0.7", "24.0.3", "24.0.20", "27.1.0"])
def test_other_engines_are_left(version: str, engine: EngineDouble, client: DockerClient) -> None:
    engine.version = version
    client.stop("tiny")
    assert engine.state == "running" and engine.stops == 1


def test_a_second_stop_and_one_of_an_ended_job_do_nothing(
    engine: EngineDouble, client: DockerClient
) -> None:
    client.stop("tiny")
    client.stop("tiny")
    assert engine.stops == 1
    engine.end()
    engine.kills.clear()
    client.stop("tiny")
    assert engine.stops == 1


def test_a_stop_is_asked_again_after_a_signal_that_is_older_than_the_grace(
    engine: EngineDouble, client: DockerClient
) -> None:
    engine.kills.append(engine.now_s() - engine.grace_s - 10)
    client.stop("tiny")
    assert engine.stops == 1


@pytest.mark.parametrize("in_chunks", [True, False])
def test_following_outlasts_an_engine_that_comes_and_goes_without_a_line_lost_or_twice(
    in_chunks: bool, engine: EngineDouble, client: DockerClient
) -> None:
    engine.in_chunks = in_chunks
    texts = [(f"step {n}\n", n // 2) for n in range(40)]  # two of each time
    engine.frames = [frame(text, at_s) for text, at_s in texts]
    engine.frames += [frame("long", 20.1), frame("er\n", 20.2), frame("last", 20.3)]
    size = len(engine.frames[0][1])
    # after whole lines, inside a line, inside a frame's head, before anything
    engine.breaks = [7 * size, 9 * size + 20, 12 * size + 3, 0, 30 * size]
    lines = client.logs("tiny", follow=True)
    heard = [next(lines)]
    engine.away = 6
    heard += islice(lines, 100)
    assert heard == [text.strip() for text, _ in texts] + ["longer", "last"]
    seconds = [None if since is None else int(since) for since in engine.since]
    assert seconds[0] is None and seconds[-1] is not None, "only the end is read again"
    assert list(client.logs("tiny", follow=False)) == heard


def test_a_followed_job_whose_engine_stays_away_is_given_up(
    engine: EngineDouble, client: DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_retries(monkeypatch, deadline_s=0.05)
    engine.frames, engine.breaks = [frame("one\n"), frame("two\n", 1)], [50]
    lines = client.logs("tiny", follow=True)
    assert next(lines) == "one"
    engine.away = 10**6
    with pytest.raises(StoreUnavailable, match="is unreachable"):
        list(lines)


def test_what_the_engine_itself_says_of_a_log_is_shown(
    engine: EngineDouble, client: DockerClient
) -> None:
    said = b"Error grabbing logs: invalid character\n"
    head = bytes([2, 0, 0, 0]) + len(said).to_bytes(4, "big")
    engine.frames = [frame("one\n"), (frame("")[0], head + said)]
    engine.state = "exited"
    heard = list(client.logs("tiny", follow=True))
    assert heard == ["one", said.decode().strip()]


@pytest.mark.slow
def test_ssh_takes_the_ssh_command(
    engine: EngineDouble, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ssh_command(tmp_path, uri).items():
        monkeypatch.setenv(name, value)
    engine.frames = [frame("one\n"), frame("two\n", 1)]
    client = connect("ssh://me@gpu-machine:2222", {})
    assert client.status("tiny").state == "running"
    assert list(client.logs("tiny", follow=True)) == ["one", "two"]
    assert connect(None, {"DOCKER_HOST": "ssh://gpu-machine"}).status("tiny").state == "done"
    asked = set((tmp_path / "asked").read_text().splitlines())
    assert asked == {
        "-l me -p 2222 -- gpu-machine docker system dial-stdio",
        "-p 22 -- gpu-machine docker system dial-stdio",
    }


def test_ssh_stops_a_job(
    engine: EngineDouble, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ssh_command(tmp_path, uri).items():
        monkeypatch.setenv(name, value)
    connect("ssh://gpu-machine", {}).stop("tiny")
    assert engine.kills


def test_ssh_that_reaches_nothing_says_how_to_look(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ssh_command(tmp_path, f"{uri}.absent").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        StoreUnavailable, match="Fix: make `ssh me@machine docker info` work without"
    ):
        connect("ssh://me@machine", {})


def test_ssh_without_the_ssh_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match=r"ssh:// needs the command ssh .*openssh-client"):
        connect("ssh://me@machine", {})


def test_ssh_without_paramiko(monkeypatch: pytest.MonkeyPatch) -> None:
    import docker.api.client

    monkeypatch.delattr(docker.api.client, "SSHHTTPAdapter")
    said = (
        r"^ssh://me@machine: ssh:// needs paramiko .*Fix: pip install -r requirements-submit\.txt"
    )
    with pytest.raises(JobError, match=said):
        connect("ssh://me@machine", {})


def test_tcp_uses_the_docker_commands_certificates(
    engine: EngineDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with over_tls(engine, tmp_path) as uri:
        certificates = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
        assert connect(uri, certificates).status("tiny").state == "running"
        with pytest.raises(
            JobError, match=r"certificates are missing .*Fix: export DOCKER_TLS_VERIFY=1"
        ):
            connect(uri, certificates | {"DOCKER_CERT_PATH": f"{tmp_path}/absent"})
        other = tmp_path / "other"
        other.mkdir()
        with over_tls(engine, other), pytest.raises(JobError, match="trust each other's certif"):
            connect(uri, certificates | {"DOCKER_CERT_PATH": str(other)})
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", f"{other}/ca.pem")
        with pytest.raises(JobError, match="unset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE, which come"):
            connect(uri, certificates)


def test_what_an_engine_says_that_wants_tls_or_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import docker

    for said, meaning in (
        (
            "400 Client sent an HTTP request to an HTTPS server.",
            "this engine requires TLS .*Fix: export",
        ),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] certificate", "do not trust each other's"),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca", "do not trust each other's"),
        ("[SSL: SSLV3_ALERT_BAD_CERTIFICATE] bad certificate", "do not trust each other's"),
        (
            "[SSL: WRONG_VERSION_NUMBER] wrong version number",
            "this engine speaks no TLS .*Fix: unset",
        ),
    ):

        def refused(said: str = said, **_more: object) -> None:
            raise docker.errors.DockerException(f"Error while fetching server API version: {said}")

        monkeypatch.setattr(docker, "from_env", refused)
        with pytest.raises(JobError, match=meaning):
            connect("tcp://machine:2376", {})


def test_without_the_library_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(JobError, match=r"pip install -r requirements-submit\.txt"):
        connect(None, {})
