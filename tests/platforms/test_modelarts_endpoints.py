"""ModelArts' real-time services: the golden request, what profiles refuse, and the client, its real
SDK against the strict double of the service."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from adapt.platforms.deploy import facts_of, prepare_endpoint
from adapt.platforms.endpoint import Deployment
from adapt.platforms.modelarts import endpoints, service_logs
from adapt.platforms.modelarts.endpoint_request import access, endpoint_request, reach
from adapt.platforms.modelarts.endpoints import ModelArtsEndpoints, status_of
from adapt.platforms.modelarts.service_logs import ServiceLog
from storage.config import StoreConfig
from storage.errors import StoreUnavailable
from storage.stores import Stores
from tests.commands import call
from tests.platforms.modelarts_double import POOL, modelarts_double
from tests.platforms.modelarts_jobs import KEYS
from tests.platforms.modelarts_samples import LARGE, SMALL, profile_of
from tests.platforms.modelarts_services_double import ServicesDouble
from tests.platforms.quick import QUICK, quick_retries

pytestmark = pytest.mark.usefixtures("no_proxy")

GOLDEN = Path(__file__).parent / "golden" / "modelarts_endpoint.json"
STORED = Deployment("town", "obs://towns/runs/town/step-00000500/weights.safetensors", "x")
FLAVOR = {"flavor": "modelarts.vm.gpu.t4u8"}
POOLED = {
    "cpu": 4, "memory_gb": 16, "gpus": 1, "replicas": 2, "auth": "api_key", "internet": True,
    "price_per_hour": 2, "arguments": ["--precision", "bf16"],
}  # fmt: skip


def asked(values: dict[str, Any] = SMALL, **changes: Any) -> dict[str, Any]:
    return endpoint_request(STORED, profile_of(values, **{"serve": FLAVOR, **changes}))


def unit_of(request: dict[str, Any]) -> dict[str, Any]:
    return request["group_configs"][0]["unit_configs"][0]  # type: ignore[no-any-return]


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServicesDouble]:
    monkeypatch.setattr(endpoints, "POLL_S", 0.001)
    quick_retries(monkeypatch)
    account = ServicesDouble()
    with modelarts_double(account):
        yield account


def client(project: ServicesDouble, **changes: Any) -> ModelArtsEndpoints:
    serving = PLATFORMS["modelarts"].serving
    assert serving is not None
    values = {"endpoint": project.url, "serve": {"log_endpoint": project.url}, **changes}
    made = serving.connect(profile_of(**values), KEYS)
    assert isinstance(made, ModelArtsEndpoints)
    made.api.retry = QUICK
    return made


def test_the_request_is_the_golden_one() -> None:
    """Regenerate golden/modelarts_endpoint.json by hand: a person has to have read a request."""
    request = asked(LARGE, serve=POOLED)
    assert request == json.loads(GOLDEN.read_text())


def test_both_kinds_of_machine_are_taken(project: ServicesDouble) -> None:
    small = asked(gpus=0, serve={"flavor": "modelarts.vm.cpu.2u"})
    assert unit_of(small)["envs"]["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert unit_of(small)["image"] == {
        "source": "SWR",
        "swr_path": "swr.cn-north-4.myhuaweicloud.com/town/segadapt:0.1.0",
        "category": "CPU",
    }
    client(project).deploy(small)
    large = asked(LARGE, serve=POOLED)
    assert unit_of(large)["custom_spec"] == {"cpu": 4.0, "memory": 16000, "gpu": 1.0}
    assert large["group_configs"][0]["pool_id"] == POOL
    client(project).deploy({**large, "name": "other"})


def test_the_folder_of_the_weights_is_mounted_and_their_file_is_served() -> None:
    unit = unit_of(asked())
    (mount,) = unit["files"]
    assert mount["address"] == "obs://towns/runs/town/step-00000500/"
    assert unit["envs"]["SEGADAPT_MODEL"] == "/opt/ml/model/weights.safetensors"


@pytest.mark.parametrize(
    "model", ["s3://towns/w.safetensors", "/home/me/best", "obs://towns/w.safetensors"]
)
def test_a_model_that_cannot_be_mounted_is_refused(model: str) -> None:
    with pytest.raises(JobError, match=r"MODEL: expected obs://BUCKET/FOLDER.*copy the checkpoint"):
        endpoint_request(Deployment("town", model, "x"), profile_of(serve=FLAVOR))


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        ({}, "serve.flavor: missing, expected a flavor of inference, or with pool_id serve.cpu"),
        ({"cpu": 4, "memory_gb": 8}, "serve.flavor: missing"),
        ({"cpu": 4}, "serve.memory_gb: missing, expected one beside cpu"),
        ({"memory_gb": 4}, "serve.cpu: missing, expected one beside memory_gb"),
        ({**FLAVOR, "cpu": 4, "memory_gb": 8}, "serve.cpu: expected none beside flavor, got 4"),
        ({"flavour": "x"}, "serve.flavour: unknown key, got 'flavour'; did you mean 'flavor'?"),
        ({"replicas": 129}, "serve.replicas: expected"),
        ({"auth": "password"}, "serve.auth: expected"),
    ],
)
def test_mistakes_are_refused_by_their_key(serve: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError) as caught:
        asked(serve=serve)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"X" * 65: "1"}, "expected a name of at most 64 characters, got 65"),
        ({"MARK": "<b>"}, "environment.MARK: expected no < and >, which ModelArts refuses"),
    ],
)
def test_variables_that_modelarts_refuses(environment: dict[str, str], said: str) -> None:
    with pytest.raises(JobError, match=said):
        asked(environment=environment)


def test_what_is_shown_before_yes() -> None:
    profile = profile_of(LARGE, serve=POOLED, cuda=13)
    assert reach(STORED, profile) == "the internet, through ModelArts' gateway in eu-west-101"
    assert access(profile) == "an API key that you bind to the service in the console"
    plain = profile_of(serve=FLAVOR)
    assert "connected to ModelArts in cn-north-4" in reach(STORED, plain)
    assert access(plain) == "an IAM token of the project in X-Auth-Token"
    assert access(profile_of(serve={**FLAVOR, "auth": "none"})).startswith("open")
    plan = prepare_endpoint("obs://towns/town/weights.safetensors", profile, _NoStore(OBS))
    facts = facts_of(plan)
    assert facts["platform"] == "modelarts, 2 x 1 GPU"
    assert facts["price"] == "4.00 USD an hour, until `undeploy`"


OBS = {"obs": StoreConfig(endpoint_url="https://obs.cn-north-4.myhuaweicloud.com")}


def test_a_model_in_obs_needs_the_settings_of_its_store() -> None:
    with pytest.raises(JobError, match=r"MODEL: expected stores\.obs\.endpoint_url.*--spec SPEC"):
        prepare_endpoint("obs://towns/town", profile_of(serve=FLAVOR), Stores({}))


class _NoStore(Stores):
    def open(self, uri: str) -> Any:
        class Empty:
            def get(self, _key: str) -> bytes:
                return b"{}"

        return Empty()


def test_an_endpoint_is_made_watched_and_removed(project: ServicesDouble) -> None:
    connected = client(project)
    assert connected.deploy(asked()) == "town"
    first, then = connected.status("town"), connected.status("town")
    assert (first.state, first.detail, first.url) == ("starting", "DEPLOYING", "")
    assert (then.state, then.detail) == ("ready", "")
    assert then.url == "https://infer.internal/v1/infers/1"
    assert [one.endpoint for one in connected.endpoints()] == ["town"]
    connected.undeploy("town")
    assert connected.status("town").state == "stopped"
    with pytest.raises(JobError, match=r"NAME: expected an endpoint of SegAdapt.*none, 'town'"):
        connected.status("town")


def test_a_second_endpoint_of_a_name_is_refused_and_namesakes_are_not(
    project: ServicesDouble,
) -> None:
    connected = client(project)
    connected.deploy({**asked(), "name": "town-2"})
    connected.deploy(asked())
    with pytest.raises(JobError, match=r"name: expected a free name in cn-north-4, got 'town'"):
        connected.deploy(asked())


def test_an_unconfirmed_creation_is_told_and_not_repeated(project: ServicesDouble) -> None:
    connected = client(project)
    project.failures = [(200, {"total": 0, "data": []}), (502, {"error_code": "x"})]
    with pytest.raises(StoreUnavailable, match="town: its creation is not confirmed"):
        connected.deploy(asked())
    assert [method for method, _ in project.requests] == ["GET", "POST"]


def test_only_services_with_our_tag_are_touched(project: ServicesDouble) -> None:
    connected = client(project)
    connected.deploy({**asked(), "tags": [{"key": "team", "value": "roads"}]})
    for ask in (connected.status, connected.undeploy, lambda n: list(connected.logs(n, False))):
        with pytest.raises(JobError, match=r"got another service, 'town'.*endpoints --to PROFILE"):
            ask("town")
    assert list(connected.endpoints()) == []


def test_more_services_and_events_than_a_page_has(project: ServicesDouble) -> None:
    connected = client(project)
    for number in range(51):
        connected.deploy({**asked(), "name": f"town-{number}"})
        project.happens("NORMAL", f"event {number}")
    assert len(list(connected.endpoints())) == 51
    assert len(list(connected.logs("town-7", follow=False))) == 51


def test_events_and_lines_of_the_containers_are_followed(project: ServicesDouble) -> None:
    connected = client(project)
    connected.deploy(asked())
    project.happens("NORMAL", "pulled the image")
    project.prints("loading", "town-1")
    first = ["2026-11-30T00:53:20Z NORMAL pulled the image", "[town-1] loading"]
    assert list(connected.logs("town", follow=False)) == first
    lines = connected.logs("town", follow=True)
    assert [next(lines), next(lines)] == first
    project.happened[0]["event_count"] = 2
    assert next(lines) == first[0], "it happened again"
    project.prints("ready")
    assert next(lines) == "ready"
    connected.undeploy("town")
    project.prints("stopped")
    assert list(lines) == ["stopped"]


def test_more_lines_than_an_answer_has(
    project: ServicesDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_logs, "MOST_LINES", 3)
    project.most_lines = 3
    connected = client(project)
    connected.deploy(asked())
    for number in range(8):
        project.prints(str(number))
        number_ns = int(project.printed[-1]["line_num"]) + 10**6 * number
        project.printed[-1]["line_num"] = str(number_ns)
    assert list(connected.logs("town", follow=False)) == [str(number) for number in range(8)]


def test_lines_that_cannot_be_read_are_told_once(project: ServicesDouble) -> None:
    connected = client(project)
    connected.deploy(asked())
    project.happens("NORMAL", "pulled the image")
    denied = (403, {"error_code": "LTS.0416", "error_msg": "no rights on the stream"})
    log = ServiceLog(connected.api, next(iter(project.services)))
    answers: list[Any] = [None, None, denied]
    project.failures = Answers(answers)
    first = list(log.new_lines(False))
    assert first[0].endswith("pulled the image")
    assert "Log Tank Service, group 0a0a" in first[1] and "no rights on the stream" in first[1]
    project.failures = Answers([None, None, denied])
    assert list(log.new_lines(True)) == []


class Answers(list[Any]):
    """The next answers of the double; None is its own."""

    def __bool__(self) -> bool:
        own = bool(len(self)) and self[0] is None
        if own:
            self.pop(0)
        return bool(len(self)) and not own


@pytest.mark.parametrize(
    ("status", "state", "detail"),
    [
        ("INIT", "starting", "INIT"),
        ("UPGRADING", "ready", "UPGRADING"),
        ("CONCERNING", "ready", "CONCERNING; one replica\nis broken"),
        ("FAILED", "failed", "FAILED; one replica\nis broken"),
        ("ERROR", "failed", "ERROR; one replica\nis broken"),
        ("STOPPED", "stopped", "STOPPED"),
        ("STOPPING", "stopped", "STOPPING"),
        ("MELTING", "unknown", "MELTING"),
    ],
)
def test_states_are_told_in_our_words(status: str, state: str, detail: str) -> None:
    _, _, reason = detail.partition("; ")
    found = status_of({"name": "town", "status": status, "failure_reason": reason})
    assert (found.state, found.detail) == (state, detail.replace("\n", " "))


def test_the_double_refuses_what_the_service_would(project: ServicesDouble) -> None:
    connected = client(project)
    unknown = {**asked(), "replicas": 2}
    with pytest.raises(JobError, match="unknown field replicas"):
        connected.deploy(unknown)
    wrong = asked()
    unit_of(wrong)["files"][0]["mount_path"] = "/opt/ml/model"
    with pytest.raises(JobError, match="mount_path is not allowed"):
        connected.deploy(wrong)


def test_the_commands_take_an_endpoint_to_its_end(project: ServicesDouble, tmp_path: Path) -> None:
    connected = client(project)
    connected.deploy(asked())
    project.services[next(iter(project.services))]["states"] = ["RUNNING"]
    values = {**SMALL, "endpoint": project.url, "serve": FLAVOR}
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(values))
    here = {**KEYS, "XDG_STATE_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    to = ("--to", "profile.yaml")
    shown = call("endpoints", "status", "town", *to, folder=tmp_path, environment=here)
    assert shown.out.startswith("town ready at https://infer.internal"), shown.err
    gone = call("undeploy", "town", *to, "--yes", folder=tmp_path, environment=here)
    assert gone.code == 0 and "town: removed" in gone.err
