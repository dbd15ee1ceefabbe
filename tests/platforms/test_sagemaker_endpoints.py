"""SageMaker's endpoints: golden requests, what profiles refuse, and the client, as boto3 sends it,
against the strict double."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.errors import JobError
from adapt.platforms import PLATFORMS, deploy
from adapt.platforms.deploy import facts_of, prepare_endpoint
from adapt.platforms.endpoint import Deployment
from adapt.platforms.sagemaker import endpoints
from adapt.platforms.sagemaker.endpoint_request import (
    access,
    endpoint_request,
    on_machines,
    reach,
    url_of,
)
from adapt.platforms.sagemaker.endpoints import SageMakerEndpoints, status_of
from storage.errors import StoreUnavailable
from storage.stores import Stores
from tests.commands import ROOT, call
from tests.platforms.conftest import no_delay
from tests.platforms.quick import quick_retries
from tests.platforms.sagemaker_endpoints_double import (
    SageMakerEndpointsDouble,
    aws_endpoints_double,
)
from tests.platforms.sagemaker_jobs import KEYS, SERVICES, profile

GOLDEN = Path(__file__).parent / "golden" / "sagemaker_endpoint.json"
STORED = Deployment("town", "s3://my-bucket/runs/town/step-00000500/weights.safetensors", "x")
FULL = (
    "serve={instance_type: ml.g5.xlarge, replicas: 1, max_replicas: 4, price_per_hour: 1.41}",
    "vpc={subnets: [subnet-1], security_groups: [sg-1]}",
)


@pytest.fixture
def account(
    models_read_once: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SageMakerEndpointsDouble]:
    monkeypatch.setattr(endpoints, "POLL_S", 0.01)
    monkeypatch.setattr(deploy, "POLL_S", 0.01)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", no_delay)
    quick_retries(monkeypatch)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with aws_endpoints_double() as double:
        yield double


def asked(account: SageMakerEndpointsDouble, name: str = "town", *overrides: str) -> dict[str, Any]:
    deployment = STORED._replace(name=name)
    return endpoint_request(deployment, profile(account.url, *overrides))


def client(account: SageMakerEndpointsDouble, *overrides: str) -> SageMakerEndpoints:
    serving = PLATFORMS["sagemaker"].serving
    assert serving is not None
    connected = serving.connect(profile(account.url, *overrides), KEYS)
    assert isinstance(connected, SageMakerEndpoints)
    return connected


def ready(
    account: SageMakerEndpointsDouble, name: str = "town", *overrides: str
) -> SageMakerEndpoints:
    account.next_states = ["InService"]
    connected = client(account)
    connected.deploy(asked(account, name, *overrides))
    return connected


def test_the_request_is_the_golden_one() -> None:
    """Regenerate golden/sagemaker_endpoint.json by hand: a person has to have read a request."""
    request = endpoint_request(STORED, profile("http://127.0.0.1:1", *FULL))
    assert request == json.loads(GOLDEN.read_text())


def test_without_an_autoscaler_nothing_is_asked_of_its_service() -> None:
    request = endpoint_request(STORED, profile("http://127.0.0.1:1"))
    assert list(request) == ["CreateModel", "CreateEndpointConfig", "CreateEndpoint"]
    assert request["CreateEndpoint"]["Tags"][0] == {"Key": "segadapt", "Value": "endpoint"}
    (variant,) = request["CreateEndpointConfig"]["ProductionVariants"]
    assert variant["InstanceType"] == "ml.g5.2xlarge" and "VolumeSizeInGB" not in variant


def test_a_machine_without_disks_gets_the_volume_and_its_key() -> None:
    request = endpoint_request(
        STORED,
        profile(
            "http://127.0.0.1:1",
            "instance_type=ml.m5.xlarge",
            "volume_gb=60",
            "volume_kms_key=alias/town",
        ),
    )
    config = request["CreateEndpointConfig"]
    assert config["KmsKeyId"] == "alias/town"
    assert config["ProductionVariants"][0]["VolumeSizeInGB"] == 60
    variables = request["CreateModel"]["PrimaryContainer"]["Environment"]
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "void"


@pytest.mark.usefixtures("unpinned")
def test_what_is_shown_before_yes_is_of_the_endpoints_machines() -> None:
    shown = profile("http://127.0.0.1:1", "serve={instance_type: ml.g5.12xlarge, replicas: 2}")
    assert on_machines(shown).gpus == 4 and on_machines(shown).price_per_hour is None
    assert reach(STORED, shown) == (
        "who may call sagemaker:InvokeEndpoint in account 111122223333, us-east-1"
    )
    assert access(shown) == "requests are signed with AWS's keys"
    scaled = profile("http://127.0.0.1:1", *FULL)
    facts = facts_of(prepare_endpoint("https://host/weights.safetensors", scaled, Stores({})))
    assert facts["platform"] == "sagemaker, 1 to 4 x 1 GPU"
    assert facts["price"] == "1.41 to 5.64 USD an hour, until `undeploy`"


def test_the_price_of_spot_machines_is_not_that_of_an_endpoint() -> None:
    spot = profile("http://127.0.0.1:1", "serve={price_per_hour: null}")
    assert spot.spot and on_machines(spot).price_per_hour is None
    on_demand = profile("http://127.0.0.1:1", "spot=false", "max_wait_hours=null",
                        "serve={price_per_hour: null}")  # fmt: skip
    assert on_machines(on_demand).price_per_hour == 0.6


def test_the_address_of_china_has_its_own_end() -> None:
    assert url_of("town", "us-east-1") == (
        "https://runtime.sagemaker.us-east-1.amazonaws.com/endpoints/town/invocations"
    )
    assert url_of("town", "cn-north-1").startswith(
        "https://runtime.sagemaker.cn-north-1.amazonaws.com.cn/"
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("serve={replica: 2}", "serve.replica: unknown key, got 'replica'; did you mean"),
        (
            "serve={replicas: 3, max_replicas: 2}",
            "serve.max_replicas: expected at least replicas (3), got 2",
        ),
        (
            "serve={instance_type: ml.inf2.xlarge}",
            "serve.instance_type: expected NVIDIA GPUs or a CPU, got ml.inf2.xlarge",
        ),
    ],
)
def test_mistakes_are_refused_by_their_key(override: str, said: str) -> None:
    with pytest.raises(JobError) as caught:
        profile("http://127.0.0.1:1", override)
    assert said in str(caught.value)


def test_options_of_the_server_are_variables() -> None:
    words = "serve={arguments: [--precision, bf16, --max-body-mb=6]}"
    request = endpoint_request(STORED, profile("http://127.0.0.1:1", words))
    variables = request["CreateModel"]["PrimaryContainer"]["Environment"]
    assert variables["SEGADAPT_OPTION_PRECISION"] == "bf16"
    assert variables["SEGADAPT_OPTION_MAX_BODY_MB"] == "6"
    for wrong in ("[bf16]", "[--precision]", "[--precision, bf16, x]"):
        with pytest.raises(JobError, match=r"serve.arguments: expected options with a value each"):
            profile("http://127.0.0.1:1", f"serve={{arguments: {wrong}}}")


def test_what_aws_would_refuse_is_refused_by_the_profiles_key() -> None:
    misspelt = profile("http://127.0.0.1:1", "serve={instance_type: ml.g5.huge}")
    with pytest.raises(JobError, match=r"serve.instance_type: expected a name that AWS knows"):
        endpoint_request(STORED, misspelt)
    long = profile("http://127.0.0.1:1", f"environment.LONG={'x' * 1025}")
    with pytest.raises(JobError, match=r"environment.LONG: expected at most 1024 characters"):
        endpoint_request(STORED, long)


@pytest.mark.parametrize("model", ["/home/me/best", "obs://bucket/town/weights.safetensors"])
def test_a_model_that_the_role_does_not_reach_is_refused(model: str) -> None:
    with pytest.raises(JobError, match=r"MODEL: expected s3://BUCKET/.*, got '.*copy the check"):
        endpoint_request(Deployment("town", model, "x"), profile("http://127.0.0.1:1"))


def test_an_endpoint_is_made_watched_scaled_and_removed(account: SageMakerEndpointsDouble) -> None:
    connected, request = client(account), asked(account, "town", *FULL)
    assert connected.deploy(request) == "town"
    sent = {call.action: call.given for call in account.calls}
    assert sent == {key: request[key] for key in ("CreateModel", "CreateEndpointConfig",
                                                  "CreateEndpoint")}  # fmt: skip
    seen = [connected.status("town") for _ in range(3)]
    states = [("starting", "Creating"), ("starting", "Creating"), ("ready", "")]
    assert [(one.state, one.detail) for one in seen] == states
    assert seen[-1].url == url_of("town", "us-east-1")
    connected.complete(request)
    (resource,) = account.targets
    assert resource == "endpoint/town/variant/main" and resource in account.policies
    assert [one.endpoint for one in connected.endpoints()] == ["town"]
    connected.undeploy("town")
    assert account.targets == {} and account.policies == {}
    with pytest.raises(
        JobError, match=r"NAME: expected an endpoint of SegAdapt .*got none, 'town'"
    ):
        while True:
            connected.status("town")
    assert account.left() == {}


def test_an_endpoint_without_an_autoscaler_needs_no_rights_over_those(
    account: SageMakerEndpointsDouble,
) -> None:
    connected = ready(account)
    connected.undeploy("town")
    assert "DeregisterScalableTarget" not in account.actions()


@pytest.mark.parametrize("action", ["CreateEndpointConfig", "CreateEndpoint"])
def test_what_was_made_is_taken_back_where_the_rest_is_refused(
    account: SageMakerEndpointsDouble, action: str
) -> None:
    account.fails(action, "ResourceLimitExceeded", "ml.g5.2xlarge for endpoint usage is 0")
    with pytest.raises(JobError, match=r"town: the account's quota is used up .*endpoint usage"):
        client(account).deploy(asked(account))
    assert account.left() == {}


def test_a_second_endpoint_of_a_name_is_refused_and_the_first_stays(
    account: SageMakerEndpointsDouble,
) -> None:
    connected = ready(account)
    with pytest.raises(JobError, match=r"name: expected a free name in us-east-1, got 'town'"):
        connected.deploy(asked(account))
    assert connected.status("town").state == "ready"


def test_an_answer_that_was_lost_is_no_name_in_use(account: SageMakerEndpointsDouble) -> None:
    account.broken = {"CreateModel", "CreateEndpoint"}
    assert client(account).deploy(asked(account)) == "town"
    assert set(account.left()) == {"Model", "EndpointConfig", "Endpoint"}


def test_an_endpoint_that_is_still_made_cannot_be_removed_and_says_so(
    account: SageMakerEndpointsDouble,
) -> None:
    account.next_states = ["Creating"]
    connected = client(account)
    connected.deploy(asked(account))
    with pytest.raises(JobError, match="town: expected an endpoint that is ready or has failed"):
        connected.undeploy("town")
    assert set(account.left()) == {"Model", "EndpointConfig", "Endpoint"}


def test_a_removal_that_was_interrupted_is_finished(account: SageMakerEndpointsDouble) -> None:
    connected = ready(account)
    del account.things["Endpoint"]["town"]
    status = connected.status("town")
    assert (status.state, status.detail) == (
        "failed",
        "only its model and configuration exists: undeploy it",
    )
    connected.undeploy("town")
    assert account.left() == {}


def test_only_endpoints_of_ours_are_touched(account: SageMakerEndpointsDouble) -> None:
    connected = ready(account)
    account.things["Endpoint"]["town"]["Tags"] = [{"Key": "segadapt", "Value": "job"}]
    for ask in (connected.status, connected.undeploy, lambda name: connected.logs(name, False)):
        with pytest.raises(JobError, match=r"got another endpoint, 'town'.*endpoints --to PROFILE"):
            ask("town")
    assert list(connected.endpoints()) == []
    assert set(account.left()) == {"Model", "EndpointConfig", "Endpoint"}


def test_endpoints_are_listed_over_pages_the_newest_first(
    account: SageMakerEndpointsDouble,
) -> None:
    for name in ("a", "b", "c"):
        connected = ready(account, name)
    assert [one.endpoint for one in connected.endpoints()] == ["c", "b", "a"]


@pytest.mark.slow
def test_lines_of_several_machines_are_named_and_followed_until_it_is_gone(
    account: SageMakerEndpointsDouble,
) -> None:
    connected = ready(account, "town", "serve={replicas: 2}")
    assert list(connected.logs("town", follow=False)) == []  # no group yet
    account.streams["town:main/i-0a1"] = [(1, "loading"), (3, "ready")]
    account.streams["town:main/i-0b2"] = [(2, "loading")]
    account.streams["town-2:main/i-0c3"] = [(2, "another's")]
    lines = ["i-0a1 | loading", "i-0b2 | loading", "i-0a1 | ready"]
    assert list(connected.logs("town", follow=False)) == lines
    followed = connected.logs("town", follow=True)
    assert [next(followed) for _ in lines] == lines
    connected.undeploy("town")
    account.streams["town:main/i-0a1"].append((9, "stopped"))
    assert list(followed) == ["i-0a1 | stopped"]


def test_lines_of_one_machine_come_as_they_are(account: SageMakerEndpointsDouble) -> None:
    connected = ready(account)
    account.streams["town:main/i-0a1"] = [(1, "ready")]
    assert list(connected.logs("town", follow=False)) == ["ready"]


@pytest.mark.parametrize(
    ("status", "state", "detail"),
    [
        ("Creating", "starting", "Creating"),
        ("InService", "ready", "1 of 2 machines are ready"),
        ("Updating", "ready", "Updating; 1 of 2 machines are ready"),
        ("SystemUpdating", "ready", "SystemUpdating; 1 of 2 machines are ready"),
        ("RollingBack", "ready", "RollingBack; 1 of 2 machines are ready"),
        ("Failed", "failed", "Failed; no answer to /ping"),
        ("OutOfService", "failed", "OutOfService; no answer to /ping"),
        ("UpdateRollbackFailed", "failed", "UpdateRollbackFailed; no answer to /ping"),
        ("Deleting", "stopped", "Deleting"),
        ("Melting", "unknown", "Melting"),
    ],
)
def test_states_are_told_in_our_words(status: str, state: str, detail: str) -> None:
    answer = {"EndpointName": "town", "EndpointStatus": status}
    answer |= {"FailureReason": "no answer\nto /ping"} if state == "failed" else {}
    variants = [{"CurrentInstanceCount": 1, "DesiredInstanceCount": 2}]
    found = status_of({**answer, "ProductionVariants": variants}, "us-east-1")
    assert (found.state, found.detail) == (state, detail)


def test_an_outage_of_aws_is_unavailable(account: SageMakerEndpointsDouble) -> None:
    connected = ready(account)
    account.fails("DescribeEndpoint", "ThrottlingException", "Rate exceeded", times=9)
    with pytest.raises(StoreUnavailable, match="town: AWS is throttling requests"):
        connected.status("town")


def write_profile(account: SageMakerEndpointsDouble, folder: Path) -> None:
    shipped = yaml.safe_load((ROOT / "job_specs/platforms/sagemaker.yaml").read_text())
    addresses = {"endpoint_urls": dict.fromkeys(SERVICES, account.url)}
    (folder / "profile.yaml").write_text(yaml.safe_dump({**shipped, **addresses}))


@pytest.mark.slow
@pytest.mark.usefixtures("unpinned")
def test_the_commands_take_an_endpoint_from_its_model_to_its_end(
    account: SageMakerEndpointsDouble, tmp_path: Path
) -> None:
    write_profile(account, tmp_path)
    here = {**KEYS, "XDG_STATE_HOME": str(tmp_path)}
    words = ("deploy", "https://host/town/weights.safetensors", "--to", "profile.yaml",
             "--set", "serve.max_replicas=3")  # fmt: skip
    made = call(*words, "--yes", folder=tmp_path, environment=here)
    assert made.code == 0, made.err
    assert "town ready at https://runtime.sagemaker.us-east-1" in made.err
    assert list(account.policies) == ["endpoint/town/variant/main"]
    refused = call(*words, "--yes", "--no-wait", folder=tmp_path, environment=here)
    assert refused.code == 2
    assert "--no-wait: expected --wait, since its autoscaler can be made only when" in refused.err
    gone = call("undeploy", "town", "--yes", folder=tmp_path, environment=here)
    assert gone.code == 0 and account.targets == {}
