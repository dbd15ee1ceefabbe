"""`segadapt serve` as a platform starts and stops it: signals, exit codes, the environment, the
token, and what is wrong before a request comes."""

import logging
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import adapt.serve
from adapt.config.strict_yaml import packed
from adapt.errors import JobError
from adapt.places import model_to_serve
from adapt.platforms.endpoint import Deployment
from adapt.platforms.local_stack import S3Server
from adapt.serve.server import Server
from adapt.serve.token import token_of
from adapt.spec.loading import parse_spec
from storage.stores import Stores
from tests.check.subjects import store_values
from tests.cli.conftest import refused as ended_with
from tests.commands import call
from tests.conftest import tiny_values
from tests.launch.rank_scripts import wait_until
from tests.serve.conftest import Pointwise, Process, running
from tests.serve.pictures import encoded
from tests.serve.test_limits import Held, held, post  # noqa: F401 - a fixture
from tests.serve.test_routes import PNG, refused

TOKEN = "a-token-of-16-signs"


def test_a_platform_s_server_is_ready_when_warm_and_ends_with_0(
    weights: Path, tmp_path: Path
) -> None:
    """As SageMaker starts it: `serve` alone, the model below /opt/ml/model."""
    folder = tmp_path / "opt" / "ml" / "model"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").symlink_to(weights)
    process = Process("--port", 0, folder=tmp_path, SEGADAPT_HOST="localhost")
    with httpx.Client(base_url=process.url, timeout=30) as client:
        assert client.get("/v2/health/live").status_code == 200
        process.ready()
        assert client.get("/ping").status_code == 200
        assert client.post("/invocations", content=encoded(), headers=PNG).status_code == 200
        assert process.end(signal.SIGTERM) == 0, process.lines
    assert process.says(f"serving {folder} on http://127.0.0.1:")
    log = [line for line in process.lines if "POST" in line]
    assert len(log) == 1 and " INFO 127.0.0.1 POST /invocations 200 " in log[0]
    assert not process.says("/ping") and process.says("stopped")


@pytest.mark.slow
def test_an_endpoint_reads_its_store_with_the_settings_that_were_deployed(
    weights: Path, s3_server: S3Server, s3_stores: Stores, s3_uri: str, tmp_path: Path
) -> None:
    """Which are a spec in a variable; the keys come from variables of their own."""
    s3_stores.open(s3_uri).put_file("weights.safetensors", weights)
    values = tiny_values("data", "runs")
    values["stores"] = {"s3": store_values(s3_server.endpoint_url)}
    spec = packed(parse_spec(values, "tiny").to_yaml())
    deployment = Deployment("town", f"{s3_uri}/weights.safetensors", "x", spec=spec)
    variables = deployment.store_settings() | {
        "SEGADAPT_MODEL": deployment.model,
        "TEST_ACCESS_KEY": s3_server.access_key,
        "TEST_SECRET_KEY": s3_server.secret_key,
    }
    process = Process("--port", 0, folder=tmp_path, **variables)
    answer = httpx.post(f"{process.ready()}/invocations", content=encoded(), headers=PNG)
    assert answer.status_code == 200 and process.end() == 0, process.lines


def test_ctrl_c_ends_with_one_line_and_130(weights: Path, tmp_path: Path) -> None:
    process = Process(weights, "--port", 0, folder=tmp_path)
    process.ready()
    assert process.end(signal.SIGINT) == 130
    assert process.lines[-1] == "Aborted.\n" and not process.says("Traceback")
    assert process.says("stopped")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stop_while_loading_does_not_wait_for_it(number: int, code: int, tmp_path: Path) -> None:
    """Which may be long, from a store that is slow."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        where = f"http://127.0.0.1:{port}/weights.safetensors"
        process = Process(where, "--port", 0, folder=tmp_path)
        assert httpx.get(f"{process.url}/ping", timeout=30).status_code == 503
        assert process.end(number) == code, process.lines
        assert not process.says("Traceback")


def test_a_stop_finishes_what_is_in_flight(held: Held) -> None:  # noqa: F811
    with running(lambda: held, queue=4) as (client, server), ThreadPoolExecutor(4) as pool:
        held.let.clear()
        first = [pool.submit(post, client) for _ in range(4)]
        wait_until(lambda: server.service.slots.total == 4, timeout_s=10)
        server.stop()
        wait_until(lambda: not accepts(server), timeout_s=10)
        held.let.set()
        assert [one.result().status_code for one in first] == [200] * 4


@pytest.mark.slow
def test_a_stop_waits_no_longer_than_the_grace(held: Held) -> None:  # noqa: F811
    with (
        running(lambda: held, grace_s=1.0) as (client, server),
        ThreadPoolExecutor(1) as pool,
    ):
        held.let.clear()
        first = pool.submit(post, client)
        wait_until(lambda: server.service.slots.total == 1, timeout_s=10)
        server.stop()
        refused(first.result(), 503, "the server stops")


def accepts(server: Server) -> bool:
    try:
        with socket.create_connection(server.listener.getsockname(), timeout=1):
            return True
    except OSError:
        return False


def test_what_is_no_model_ends_with_its_code(tmp_path: Path) -> None:
    process = Process(tmp_path / "absent", "--port", 0, folder=tmp_path)
    assert process.wait() == 2
    assert process.says("JobError ") and process.says("expected a file of weights or the folder")
    assert not process.says("Traceback")


def test_no_model_no_port_and_no_packages_are_refused(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = call("serve", folder=tmp_path)
    ended_with(ended, 2, "MODEL: expected a model to serve, got none, neither SEGADAPT_MODEL nor a")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = call("serve", weights, "--port", port, folder=tmp_path)
    ended_with(ended, 2, f"may listen on, got 127.0.0.1:{port} (", "give another --port")
    ended = call("serve", weights, "--host", "no.such.host.invalid", folder=tmp_path)
    ended_with(ended, 2, "host, port: expected an address")
    monkeypatch.setattr(adapt, "serve", adapt.serve)  # which importing it again replaces
    for name in [one for one in sys.modules if one.startswith("adapt.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    ended = call("serve", weights, folder=tmp_path)
    ended_with(
        ended, 2, "expected the packages of the extra `serve`, got no uvicorn", "segadapt[serve]"
    )


def test_the_model_is_named_by_the_environment(tmp_path: Path) -> None:
    root = {"SEGADAPT_ROOT": str(tmp_path)}
    (tmp_path / "opt/ml/model").mkdir(parents=True)
    assert model_to_serve(root) == str(tmp_path / "opt/ml/model")
    assert model_to_serve(root | {"SEGADAPT_MODEL": "s3://b/run"}) == "s3://b/run"


def test_weights_of_another_sha256_than_deploy_found_are_refused(
    weights: Path, tmp_path: Path
) -> None:
    process = Process(
        "--port",
        0,
        folder=tmp_path,
        SEGADAPT_MODEL=str(weights),
        SEGADAPT_MODEL_SHA256="00" * 32,
    )
    assert process.wait() == 4
    assert process.says("DataError ") and process.says("expected sha256 0000")


def test_options_come_from_variables_too(weights: Path, tmp_path: Path) -> None:
    named = {"SEGADAPT_OPTION_PORT": "70000"}
    ended = call("serve", weights, folder=tmp_path, environment=named)
    assert ended.code == 2 and "Invalid value for '--port'" in ended.err
    process = Process(
        weights, folder=tmp_path, SEGADAPT_OPTION_PORT="0", SEGADAPT_OPTION_NAME="town"
    )
    with httpx.Client(base_url=process.url, timeout=30) as client:
        process.ready()
        assert client.get("/v2/models/town").status_code == 200
        assert process.end(signal.SIGTERM) == 0, process.lines


def test_a_token_is_asked_for_except_by_probes() -> None:
    with running(Pointwise, token=TOKEN) as (client, _):
        for path in ("/", "/ping", "/health", "/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200
        right = {"authorization": f"Bearer {TOKEN}"}
        for headers, got in (
            ({}, "none"),
            ({"authorization": "Bearer"}, "none"),
            ({"authorization": f"Bearer {TOKEN}x"}, "another"),
            ({"authorization": f"Basic {TOKEN}"}, "another"),
            ({"authorization": "Bearer \xfc".encode("latin-1")}, "another"),
        ):
            for path in ("/metrics", "/v2", "/v2/models/segadapt", "/nowhere"):
                answer = client.get(path, headers=headers)  # type: ignore[arg-type]
                refused(answer, 401, f"authorization: expected this server's token, got {got}")
                assert answer.headers["www-authenticate"] == "Bearer"
            answer = client.post("/invocations", content=encoded(), headers=headers | PNG)  # type: ignore[operator]
            refused(answer, 401, "token")
        assert client.get("/metrics", headers=right).status_code == 200
        answer = client.post("/invocations", content=encoded(), headers=right | PNG)
        assert answer.status_code == 200


def test_tokens_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert token_of(None, {}) is None
    assert token_of(file, {"SEGADAPT_TOKEN": "other"}) == TOKEN
    assert token_of(None, {"SEGADAPT_TOKEN": f" {TOKEN}"}) == TOKEN
    for text, got in (
        ("", "none"),
        (" \n", "none"),
        ("two words", "another text"),
        ("ü", "another"),
    ):
        file.write_text(text)
        for place in ((file, {}), (None, {"SEGADAPT_TOKEN": text})):
            with pytest.raises(JobError, match=f"expected a token of ASCII .* got {got}") as raised:
                token_of(*place)
            assert text.strip() == "" or text not in str(raised.value), "a token is not shown"
    with pytest.raises(JobError, match="expected a file with a token, got none that can be read"):
        token_of(tmp_path / "absent", {})


def test_paths_cannot_forge_lines_of_the_log(caplog: Any) -> None:
    with running(Pointwise) as (client, _), caplog.at_level(logging.INFO, "adapt.serve"):
        client.get("/a%0A2026-01-01 INFO 127.0.0.1 GET /forged 200?token=secret")
        client.get("/" + "b" * 3000)
    lines = [one.getMessage() for one in caplog.records if "GET" in one.getMessage()]
    assert len(lines) == 2 and not any("\n" in one or "secret" in one for one in lines)
    assert "/a%0A2026-01-01%20INFO" in lines[0] and len(lines[1]) < 300
