"""Refusals and outages of ModelArts, each with its fix."""

import socket
import sys
from typing import Any

import pytest

from adapt.errors import JobError
from adapt.platforms.modelarts import connect
from adapt.platforms.modelarts.api import ModelArtsApi, endpoint_of
from adapt.platforms.modelarts.client import ModelArtsClient
from storage.errors import StoreUnavailable
from tests.platforms.modelarts_double import ModelArtsDouble
from tests.platforms.modelarts_jobs import KEYS, body_of, connected
from tests.platforms.modelarts_samples import profile_of
from tests.platforms.quick import QUICK

pytestmark = pytest.mark.usefixtures("no_proxy")
REFUSED = [
    (401, "APIGW.0301", "Incorrect IAM authentication information: verify aksk signature fail",
     "HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK: the keys are refused"),
    (403, "APIGW.0301", "Incorrect IAM authentication information: aksk signature fail",
     "HUAWEICLOUD_SDK_AK, HUAWEICLOUD_SDK_SK: the keys are refused"),
    (401, "APIGW.0301", "Incorrect IAM authentication information: token expires, expires_at: x",
     "HUAWEICLOUD_SDK_SECURITY_TOKEN: the temporary keys have expired or are incomplete"),
    (401, "APIGW.0301", "Incorrect IAM authentication information: decrypt token fail",
     "HUAWEICLOUD_SDK_SECURITY_TOKEN: the temporary keys have expired or are incomplete"),
    (401, "APIGW.0307", "The token must be updated.",
     "HUAWEICLOUD_SDK_SECURITY_TOKEN: the temporary keys have expired or are incomplete"),
    (403, "ModelArts.0002", "No permission", "HUAWEICLOUD_SDK_AK: this user may not train"),
    (404, "APIGW.0101", "The API does not exist or has not been published in the environment.",
     "Fix: name the endpoint of ModelArts in region 'cn-north-4'"),
    (400, "ModelArts.2763", "The selected flavor is invalid.", "flavor_id: not one of this region"),
    (400, "ModelArts.2781", "FlavorNotFound", "flavor_id: not one of this region or pool"),
    (400, "ModelArts.2840", "Engine or resource policy specified cannot be supported on this one.",
     "flavor_id: not one of this region or pool"),
    (400, "ModelArts.2793", "The number of flavor instances (9) exceeds the maximum (4).",
     "nodes: more than this flavor has machines for"),
    (400, "ModelArts.2753", "InputsOutputsMessageError", "ModelArts does not take these channels"),
    (400, "ModelArts.2791", "Invalid obs path: /a, reason: b.", "a folder in OBS is missing, is"),
    (400, "ModelArts.1003", "The user account is abnormal (expired or frozen)", "account: frozen,"),
    (400, "ModelArts.2837", "The account has been restricted.", "account: frozen, expired, or"),
    (400, "ModelArts.2838", "Policy doesn't allow (x) to be performed", "rights: this user"),
    (400, "ModelArts.0210", "Invalid project ID.", "project_id: not a project of this account"),
    (400, "ModelArts.2810", "Custom query failure", "image: not in SWR of this region, or the"),
    (400, "ModelArts.2845", "SWR image size exceeded (40GB > 30GB).", "image: larger than"),
    (400, "ModelArts.0420", "Failed to query it.", "agency: ModelArts has no agency of yours yet"),
    (400, "ModelArts.0102", "It does not exist.", "workspace_id: not a workspace that you may"),
    (400, "ModelArts.0116", "The expected nodes exceeds the limit.",
     "quota: a quota of the account is used"),
    (400, "ModelArts.0118", "QuotaInsufficient", "quota: a quota of the account is used"),
    (400, "ModelArts.2815", "Exceed limit of resource(GPU).", "quota: a quota of the account"),
    (400, "ModelArts.9", "Training job quota exceeded", "quota: a quota of the account is used"),
    (400, "ModelArts.0103", "Repeated.", "Fix: submit again, which makes a new name"),
    (400, "ModelArts.2751", "DuplicateTrainingJobName", "a job has that name already"),
    (400, "ModelArts.9", "The training job name already exists.", "a job has that name already"),
    (400, "ModelArts.2788", "Training output path is used by another job.",
     "Fix: wait for it, stop it, or name another folder"),
    (400, "ModelArts.2788", "The resource pool p does not exist.", "pool_id: not a pool of this"),
    (400, "ModelArts.9", "Image a/b:1 not found", "image: not in SWR of this region, or the"),
    (400, "ModelArts.9", "Failed to get agency", "agency: ModelArts has no agency of yours yet"),
    (400, "ModelArts.9", "The OBS path is not accessible", "a folder in OBS is missing, is"),
    (400, "ModelArts.0104", "Invalid workspace ID.", "workspace_id: not a workspace that you may"),
    (400, "ModelArts.9", "So be it.", "ModelArts refuses the request (ModelArts.9: So be it.)"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "message", "said"), REFUSED)
def test_a_refusal_is_explained(
    modelarts: ModelArtsDouble, status: int, code: str, message: str, said: str
) -> None:
    modelarts.failures = [(status, {"error_code": code, "error_msg": message})]
    with pytest.raises(JobError) as caught:
        connected(modelarts).submit(body_of())
    assert said in str(caught.value) and f"{code}: {message}" in str(caught.value)


def test_refusals_of_the_doubles_own(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    """The same messages, from what really is wrong."""
    modelarts_client.submit(body_of())
    for body, said in (
        (body_of(), "a job has that name already"),
        (body_of("other"), "outputs: another job writes to that folder"),
        (body_of("other", outputs={"model": "obs://towns/m"}, flavor_id="p9",
                 volumes=[{"kind": "obs", "source": "/towns", "path": "/mnt"}],
                 secrets=["OBS_ACCESS_KEY", "OBS_SECRET_KEY"]), "secrets: expected variable"),
    ):  # fmt: skip
        with pytest.raises(JobError, match=said):
            modelarts_client.submit(body)
    free = {"outputs": {"checkpoints": "obs://towns/other"}}
    with pytest.raises(JobError, match="flavor_id: not one of this region or pool"):
        modelarts_client.submit(body_of("other", **free, flavor_id="modelarts.p9"))
    cpus = {"flavor_id": None, "gpus": 0, "pool_id": "pool-x"}
    with pytest.raises(JobError, match="pool_id: not a pool of this project and region"):
        modelarts_client.submit(body_of("other", **free, **cpus))


def test_throttled_calls_are_repeated(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    busy = (429, {"error_code": "APIGW.0308", "error_msg": "The throttling threshold is reached"})
    modelarts.failures = [busy] * 4
    job = modelarts_client.submit(body_of())
    modelarts.failures = [busy] * 4
    assert modelarts_client.status(job).job == job
    modelarts.failures = [busy] * 5
    with pytest.raises(StoreUnavailable, match=r"too many requests .*Fix: wait a minute"):
        modelarts_client.status(job)
    assert not modelarts.failures


def test_an_outage_is_waited_out_by_what_only_reads(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    job = modelarts_client.submit(body_of())
    out = (503, "<html>Service Unavailable</html>")
    modelarts.failures = [out] * 4
    assert modelarts_client.status(job).state == "waiting"
    modelarts.failures = [out]
    with pytest.raises(
        StoreUnavailable,
        match=r"^job segadapt-tiny-1: its creation is not confirmed: .* is out of order "
        r"\(503: <html>.*check",
    ):
        modelarts_client.submit(body_of())
    assert not modelarts.failures and len(modelarts.jobs) == 1


def test_an_answer_that_is_no_json_is_told(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    modelarts.failures = [(200, "<html>welcome</html>")] * 5
    with pytest.raises(
        StoreUnavailable, match=r"the answer is no JSON\. Fix: remove the proxy between"
    ):
        modelarts_client.status("job")


def test_nobody_answers(modelarts_client: ModelArtsClient, absent_uri: str) -> None:
    there = connect(profile_of(endpoint=absent_uri), KEYS)
    there.api.retry = QUICK
    with pytest.raises(
        StoreUnavailable, match=f"{absent_uri} is unreachable .*Fix: try again later"
    ):
        there.status("job")


def test_an_answer_that_does_not_come(modelarts: ModelArtsDouble) -> None:
    modelarts.delay_s = 0.3
    api = ModelArtsApi(profile_of(endpoint=modelarts.url), KEYS, timeouts_s=(1.0, 0.05))
    with pytest.raises(StoreUnavailable, match=r"is unreachable .*timed out"):
        api.create(body_of())


def test_a_region_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("NO_PROXY", "*")
    client = connect(profile_of(region="cn-north-77"), KEYS)
    with pytest.raises(
        JobError, match=r"region: expected a region that .*no host https://modelarts.cn-north-77."
    ):
        client.status("job")


def test_an_endpoint_without_tls(modelarts: ModelArtsDouble) -> None:
    client = connected(modelarts, endpoint=modelarts.url.replace("http:", "https:"))
    with pytest.raises(JobError, match="shows no certificate that this machine trusts"):
        client.status("job")


def test_the_endpoint_is_that_of_the_region() -> None:
    """The SDK's own table has another domain for ap-southeast-1."""
    assert endpoint_of(profile_of(region="ap-southeast-1")) == (
        "https://modelarts.ap-southeast-1.myhuaweicloud.com"
    )
    assert endpoint_of(profile_of(region="eu-west-101")) == (
        "https://modelarts.eu-west-101.myhuaweicloud.eu"
    )
    assert endpoint_of(profile_of(endpoint="http://other:1")) == "http://other:1"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("HUAWEICLOUD_SDK_AK", "access_key_env: expected variable HUAWEICLOUD_SDK_AK, got none"),
        ("HUAWEICLOUD_SDK_SK", "secret_key_env: expected variable HUAWEICLOUD_SDK_SK, got none"),
        ("HUAWEICLOUD_SDK_PROJECT_ID", "project_id_env: expected variable HUAWEICLOUD_SDK_PROJECT"),
    ],
)
def test_a_missing_variable_is_named(missing: str, said: str) -> None:
    keys = {name: value for name, value in KEYS.items() if name != missing}
    with pytest.raises(JobError, match=said):
        connect(profile_of(project_id=None), keys)


def test_a_missing_sdk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huaweicloudsdkmodelarts", None)
    with pytest.raises(JobError, match=r"pip install -r requirements-submit\.txt"):
        connect(profile_of(), KEYS)
