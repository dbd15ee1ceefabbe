"""docker's endpoints: the golden request, what profiles refuse, and a client beside an engine's
double. `test_docker_engine.py` deploys in a real one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from adapt.platforms.docker.endpoint_request import access, endpoint_request, reach
from adapt.platforms.docker.endpoints import DockerEndpoints, connect_endpoints, status_of
from adapt.platforms.docker.errors import refusal_of
from adapt.platforms.docker.profile import DockerProfile
from adapt.platforms.endpoint import Deployment
from tests.platforms.docker_endpoints_double import EndpointEngine, on_a_socket

GOLDEN = Path(__file__).parent / "golden" / "docker_endpoint.json"
STORED = Deployment("town", "s3://bucket/runs/town/step-00000500/weights.safetensors", "x")
FOLDER = Deployment("town", "/home/me/best", "best")


def profile(**changes: Any) -> DockerProfile:
    values = {"platform": "docker", "image": "registry.example:5000/team/segadapt:0.1.0"}
    return validate(DockerProfile, values | changes)


def body_of(deployment: Deployment, **changes: Any) -> dict[str, Any]:
    return endpoint_request(deployment, profile(**changes))["body"]  # type: ignore[no-any-return]


def test_the_request_is_the_golden_one() -> None:
    """Regenerate golden/docker_endpoint.json by hand: a person has to have read a request."""
    full = profile(
        gpus=1,
        memory_gb=8,
        mounts=[{"source": "segadapt-cache", "target": "/cache"}],
        environment={"AWS_ENDPOINT_URL_S3": "http://s3.lab:8333"},
        secrets=["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        serve={"port": 8081, "token": True, "arguments": ["--precision", "bf16"]},
        grace_s=60,
    )
    assert endpoint_request(STORED, full) == json.loads(GOLDEN.read_text())


def test_a_folder_of_this_machine_is_mounted_for_reading_and_needs_no_secrets() -> None:
    request = endpoint_request(FOLDER, profile(secrets=["AWS_SECRET_ACCESS_KEY"]))
    *_, mount = request["body"]["HostConfig"]["Mounts"]
    assert mount == {
        "Type": "bind", "Source": "/home/me/best", "Target": "/opt/ml/model", "ReadOnly": True
    }  # fmt: skip
    assert "SEGADAPT_MODEL=/opt/ml/model" in request["body"]["Env"] and request["secrets"] == []


def test_the_settings_of_the_model_s_store_come_along() -> None:
    given = ["SEGADAPT_SPEC_BASE64=spec", "SEGADAPT_OPTION_SPEC=env:SEGADAPT_SPEC_BASE64"]
    assert set(given) <= set(body_of(STORED._replace(spec="spec"))["Env"])
    for deployment in (STORED, FOLDER._replace(spec="spec")):
        assert not any("SPEC" in variable for variable in body_of(deployment)["Env"])


def test_of_a_file_the_file_alone_is_mounted() -> None:
    body = body_of(Deployment("town", "/home/me/all/w.safetensors", "w", is_file=True))
    *_, mount = body["HostConfig"]["Mounts"]
    assert (mount["Source"], mount["Target"]) == (
        "/home/me/all/w.safetensors",
        "/opt/ml/model/w.safetensors",
    )
    assert "SEGADAPT_MODEL=/opt/ml/model/w.safetensors" in body["Env"]


def test_a_path_below_a_mount_is_served_from_there() -> None:
    mounts = [{"source": "/data/runs", "target": "/runs"}]
    body = body_of(Deployment("town", "/runs/town", "/runs/town"), mounts=mounts)
    (mount,) = body["HostConfig"]["Mounts"]
    assert mount["Source"] == "/data/runs" and mount["ReadOnly"] is True
    assert "SEGADAPT_MODEL=/runs/town" in body["Env"]


def test_the_port_is_the_loopbacks_unless_the_profile_says_more() -> None:
    bound = body_of(FOLDER)["HostConfig"]["PortBindings"]
    assert bound == {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}
    own = body_of(FOLDER, network="host", serve={"port": 9000})
    assert own["Cmd"] == ["serve", "--host", "127.0.0.1", "--port", "9000"]
    assert "PortBindings" not in own["HostConfig"] and "ExposedPorts" not in own
    assert "127.0.0.1:9000/v2/health/ready" in own["Healthcheck"]["Test"][-1]
    elsewhere = body_of(FOLDER, network="host", serve={"host": "fd00::7"})
    assert "//[fd00::7]:8080/v2" in elsewhere["Healthcheck"]["Test"][-1]


def test_what_is_shown_before_yes_says_who_reaches_it() -> None:
    assert reach(FOLDER, profile()) == "the engine's own machine alone (127.0.0.1:8080)"
    open_to_all = profile(serve={"host": "0.0.0.0", "port": 80})
    assert reach(FOLDER, open_to_all) == (
        "every network of the engine's machine (0.0.0.0:80), by HTTP without TLS"
    )
    assert reach(FOLDER, profile(serve={"host": "10.0.0.7"})).startswith("its network (10.0.0.7")
    assert access(open_to_all) == "open: no token is asked for"
    assert access(profile(serve={"token": True})) == "the token in SEGADAPT_TOKEN"


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        ({"prot": 1}, "serve.prot: unknown key, got 'prot'; did you mean 'port'?"),
        ({"port": 0}, "serve.port: expected"),
        ({"host": "localhost"}, "serve.host: expected an IP address, got 'localhost'"),
        (
            {"arguments": ["--port=1"]},
            "serve.arguments: expected other options than --host, --port, --name and --token-file, "
            "got --port=1. Fix: use the keys of `serve`",
        ),
    ],
)
def test_mistakes_are_refused_by_their_key(serve: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError) as caught:
        profile(serve=serve)
    assert str(caught.value).startswith(said)


def described(status: str, restarts: int = 0, **state: Any) -> dict[str, Any]:
    return {
        "State": {"Status": status, "ExitCode": 0, "OOMKilled": False, **state},
        "RestartCount": restarts,
        "Config": {"Labels": {"segadapt.url": "http://127.0.0.1:8080"}},
    }


UNWELL = {"Status": "unhealthy", "Log": [{"Output": "Traceback\nHTTP Error 503\n"}]}


@pytest.mark.parametrize(
    ("attributes", "state", "detail"),
    [
        (described("created"), "starting", "created, not started"),
        (described("running"), "starting", "loading the model"),
        (described("running", Health={"Status": "starting"}), "starting", "loading the model"),
        (described("running", Health={"Status": "healthy"}), "ready", ""),
        (described("running", 2, Health={"Status": "healthy"}), "ready", ""),
        (described("running", Health=UNWELL), "failed", "unhealthy: HTTP Error 503"),
        (
            described("restarting", 3, ExitCode=2),
            "failed",
            "started again 3 times: ended with 2 (model or settings)",
        ),
        (
            described("running", 1, ExitCode=0, Health={"Status": "starting"}),
            "failed",
            "started again 1 times: ended with 0 (see docs/reliability.md)",
        ),
        (described("exited"), "stopped", "exited"),
        (described("exited", ExitCode=3), "failed", "ended with 3 (storage)"),
        (described("exited", ExitCode=137, OOMKilled=True), "failed", "out of memory (137)"),
        (described("exited", ExitCode=1, Error="no disk"), "failed", "no disk"),
    ],
)
def test_a_containers_description_says_how_the_endpoint_is(
    attributes: dict[str, Any], state: str, detail: str
) -> None:
    status = status_of("town", attributes)
    assert (status.endpoint, status.state, status.detail) == ("town", state, detail)
    assert status.url == "http://127.0.0.1:8080"


def test_a_port_in_use_is_said_by_its_key() -> None:
    refusal = refusal_of("Bind for 127.0.0.1:8080 failed: port is already allocated")
    assert refusal.key == "serve.port" and "--set serve.port=8081" in refusal.fix


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EndpointEngine]:
    engine = EndpointEngine()
    with on_a_socket(engine, tmp_path) as engine.uri:
        yield engine


@pytest.fixture
def client(engine: EndpointEngine) -> DockerEndpoints:
    return connect_endpoints(profile(engine_uri=engine.uri), {"SEGADAPT_TOKEN": "hunter2"})


def test_an_endpoint_is_made_watched_and_removed(
    engine: EndpointEngine, client: DockerEndpoints
) -> None:
    name = client.deploy(endpoint_request(FOLDER, profile(serve={"token": True})))
    assert "SEGADAPT_TOKEN=hunter2" in engine.containers[name]["Config"]["Env"]
    assert [client.status(name).state for _ in range(3)] == ["starting", "ready", "ready"]
    assert [(one.endpoint, one.state) for one in client.endpoints()] == [("town", "ready")]
    assert list(client.logs(name, follow=False)) == ["loading the model"]
    client.undeploy(name)
    assert engine.containers == {}
    assert [one.rpartition("/")[2] for one in engine.asked[-2:]] == ["stop", "id-town"]


def test_a_second_endpoint_of_a_name_is_refused(
    engine: EndpointEngine, client: DockerEndpoints
) -> None:
    client.deploy(endpoint_request(FOLDER, profile()))
    with pytest.raises(JobError, match=r"name: expected a free name, got 'town'.*undeploy town"):
        client.deploy(endpoint_request(FOLDER, profile()))
    assert len(engine.containers) == 1


def test_what_the_engine_refuses_leaves_no_container(
    engine: EndpointEngine, client: DockerEndpoints
) -> None:
    engine.refusal = "Bind for 127.0.0.1:8080 failed: port is already allocated"
    with pytest.raises(JobError, match=r"serve\.port: the port is in use"):
        client.deploy(endpoint_request(FOLDER, profile()))
    assert engine.containers == {}


def test_a_token_that_is_not_set_is_asked_for(engine: EndpointEngine) -> None:
    client = connect_endpoints(profile(engine_uri=engine.uri), {})
    with pytest.raises(JobError, match="expected the variable SEGADAPT_TOKEN in this environment"):
        client.deploy(endpoint_request(FOLDER, profile(serve={"token": True})))


def test_only_endpoints_of_ours_are_touched(
    engine: EndpointEngine, client: DockerEndpoints
) -> None:
    client.deploy(endpoint_request(FOLDER, profile()))
    engine.containers["other"] = {**engine.containers.pop("town"), "Name": "/other"}
    engine.containers["other"]["Config"] = {"Labels": {"segadapt.job": "x"}}
    for ask in (client.status, client.undeploy):
        with pytest.raises(JobError, match="NAME: expected an endpoint of this engine, got anot"):
            ask("other")
        with pytest.raises(JobError, match=r"got none, 'absent'.*endpoints --to PROFILE"):
            ask("absent")
    assert "other" in engine.containers


def test_the_row_serves() -> None:
    serving = PLATFORMS["docker"].serving
    assert serving is not None and serving.takes_paths
    assert serving.replicas(profile()) == (1, 1)
