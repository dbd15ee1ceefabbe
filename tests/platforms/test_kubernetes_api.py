"""Requests to an API server: refusals, kubeconfigs, servers that are unreachable."""

import base64
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.errors import JobError
from adapt.platforms.kubernetes import connect
from storage.errors import StoreUnavailable
from tests.platforms.kubernetes_double import Cluster, ServerAnswer, write_kubeconfig
from tests.platforms.kubernetes_jobs import (
    Connect,
    asked,
)
from tests.platforms.test_kubernetes_manifests import profile

REFUSALS: list[tuple[ServerAnswer, str]] = [
    (
        ServerAnswer(401, "Unauthorized", "Unauthorized"),
        "credentials are refused.*Fix: log in again",
    ),
    (
        ServerAnswer(403, "Forbidden", 'jobs.batch is forbidden: User "ann" cannot create'),
        'jobs.batch is forbidden: User "ann" cannot create. Fix: get a role',
    ),
    (
        ServerAnswer(403, "Forbidden", 'jobs "a" is forbidden: exceeded quota: gpus, requested: 8'),
        "quota: .*exceeded quota: gpus, requested: 8. Fix: end other jobs, request a larger",
    ),
    (
        ServerAnswer(403, "Forbidden", 'admission webhook "w" denied the request: no label'),
        'the cluster\'s policy refuses: admission webhook "w" denied the request: no label',
    ),
    (
        ServerAnswer(404, "NotFound", "the server could not find the requested resource"),
        "kind: no matches for this kind in the cluster.*Fix: have .*choose `kind: indexed_job`",
    ),
    (
        ServerAnswer(409, "AlreadyExists", 'jobs "a" already exists'),
        'name: jobs "a" already exists. Fix: submit again, under another name',
    ),
    (
        ServerAnswer(400, "BadRequest", 'strict decoding error: unknown field "spec.x"'),
        'does not know a field: .*unknown field "spec.x". Fix: update what is installed there',
    ),
    (ServerAnswer(400, "BadRequest", "no JSON"), "the API server refuses: no JSON"),
    (ServerAnswer(413, "TooLarge", "too large"), "the API server refuses: too large"),
    (
        ServerAnswer(
            422,
            "Invalid",
            "Job is invalid",
            causes=[
                {"field": "metadata.name", "message": "must be no more than 63 characters"},
                {"field": "spec.parallelism", "message": "Invalid value"},
            ],
        ),
        "refuses:\nmetadata.name: must be no more than 63 characters\nspec.parallelism: Invalid",
    ),
    (ServerAnswer(422, "Invalid", "Job is invalid"), "the API server refuses:\nJob is invalid"),
]


@pytest.mark.parametrize(("refusal", "said"), REFUSALS, ids=[said[:30] for _, said in REFUSALS])
def test_what_a_server_refuses_has_a_cure(
    refusal: ServerAnswer, said: str, cluster: Cluster, at: Connect
) -> None:
    cluster.refusals.append(("POST .*/jobs", refusal))
    with pytest.raises(JobError, match=said):
        at().submit(asked())


def test_the_double_itself_refuses_in_these_words(
    cluster: Cluster, at: Connect, cluster_url: str, tmp_path: Path
) -> None:
    with pytest.raises(
        JobError, match=r'namespace: namespaces "none" not found\. Fix: create it .kubectl'
    ):
        at(namespace="none").submit(asked(namespace="none"))
    client = at()
    client.submit(asked())
    with pytest.raises(JobError, match=r'name: configmaps "tiny-1" already exists'):
        client.submit(asked())
    cluster.denied.add(("create", "configmaps"))
    with pytest.raises(JobError, match=r"configmaps is forbidden: User .*\. Fix: get a role"):
        client.submit(asked("tiny-2"))
    cluster.denied.clear()
    wrong = asked("tiny-2")
    wrong["items"][-1]["spec"]["nodess"] = 1
    with pytest.raises(
        JobError, match=r'unknown field "spec.nodess"\. Fix: update what is installed there'
    ):
        client.submit(wrong)
    long = asked("tiny-2")
    long["items"][-1]["metadata"]["name"] = "a" * 64
    with pytest.raises(JobError, match=r"metadata.name: Invalid value: .* no more than 63"):
        client.submit(long)
    del cluster.resources["kubeflow.org/v1"]
    with pytest.raises(JobError, match="kind: no matches for this kind"):
        at(kind="pytorchjob").submit(asked("tiny-2", kind="pytorchjob"))
    expired = str(write_kubeconfig(tmp_path / "expired", cluster_url, token="old"))
    with pytest.raises(
        JobError, match=r"http://127.*credentials are refused, or have expired \(Unauthorized\)"
    ):
        connect(profile(kubeconfig=expired), {}).status("tiny-1")


def test_a_job_that_is_not_there_is_named(at: Connect) -> None:
    with pytest.raises(JobError, match=r'jobs.batch "tiny-9" not found; it may have ended and'):
        at().status("tiny-9")
    with pytest.raises(JobError, match=r"JOB: expected a job of this cluster, got '../secrets'"):
        at().status("../secrets")


def test_no_kubeconfig_and_a_wrong_context_are_named(cluster_url: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    with pytest.raises(
        JobError, match=r"kubeconfig: .*nothing: .*Fix: fetch it from your provider"
    ):
        connect(profile(), {"KUBECONFIG": missing})
    config = str(write_kubeconfig(tmp_path / "config", cluster_url))
    with pytest.raises(JobError, match=r"kubeconfig: .*config: .*context.*kubectl config get-cont"):
        connect(profile(kubeconfig=config, context="prod"), {})
    (tmp_path / "broken").write_text("{")
    with pytest.raises(JobError, match=r"kubeconfig: .*broken"):
        connect(profile(kubeconfig=str(tmp_path / "broken")), {})


def not_base64(values: dict[str, Any]) -> None:
    values["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    values["clusters"][0]["cluster"]["certificate-authority-data"] = "LS0tL"  # cut off


def binary(values: dict[str, Any]) -> None:
    not_base64(values)
    text = base64.b64encode(b"{}").decode()
    values["clusters"][0]["cluster"]["certificate-authority-data"] = text
    values["users"][0]["user"] = {"client-certificate-data": ["no text"], "client-key-data": text}


SHAPES: list[tuple[Callable[[Any], Any], str]] = [
    (not_base64, "Error: Invalid base64-encoded string"),
    (binary, "TypeError: "),
    (lambda values: [values], "TypeError: "),
    (lambda values: values["users"].append({"user": {}}), "KeyError: 'name'"),
    (lambda values: values["contexts"].insert(0, {"name": "lab"}), "context"),
    (lambda values: values["clusters"][0]["cluster"].update(server=5), "AttributeError: "),
    (lambda values: "text", "TypeError: "),
    (lambda values: values.update({"current-context": 5}), "5"),
]


@pytest.mark.parametrize(("change", "said"), SHAPES)
def test_a_kubeconfig_of_another_shape_is_refused(
    change: Callable[[Any], Any], said: str, cluster_url: str, tmp_path: Path
) -> None:
    config = write_kubeconfig(tmp_path / "config", cluster_url)
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(change(values) or values))
    said = f"kubeconfig: .*config: .*{re.escape(said)}.*\\. Fix: fetch it from your provider"
    with pytest.raises(JobError, match=said):
        connect(profile(kubeconfig=str(config)), {})


def test_in_a_pod_its_own_account_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whose files are not here: the message is theirs."""
    inside = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBECONFIG": str(tmp_path / "nothing")}
    with pytest.raises(JobError, match=r"kubeconfig: .*[Ss]ervice"):
        connect(profile(), inside)


def test_a_server_that_is_away_or_not_trusted_is_named(
    absent_uri: str, cluster_url: str, tmp_path: Path
) -> None:
    config = str(write_kubeconfig(tmp_path / "config", absent_uri))
    with pytest.raises(
        StoreUnavailable,
        match=r"the API server is unreachable: .*Fix: start it, or connect through the VPN",
    ):
        connect(profile(kubeconfig=config), {}).status("tiny-1")
    config = str(write_kubeconfig(tmp_path / "tls", cluster_url.replace("http:", "https:")))
    with pytest.raises(JobError, match=r"no secure connection, .*Fix: fetch the kubeconfig anew"):
        connect(profile(kubeconfig=config), {}).status("tiny-1")


def test_a_server_with_trouble_is_asked_again_later(cluster: Cluster, at: Connect) -> None:
    client = at()
    cluster.unready += [429]
    with pytest.raises(StoreUnavailable, match=r"answers 429: not ready\. Fix: try again"):
        client.status("tiny-1")
    cluster.unready += [b'{"half": ']
    with pytest.raises(StoreUnavailable, match="/jobs/tiny-1: the answer broke off"):
        client.status("tiny-1")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(
        JobError, match=r"platform kubernetes: .*Fix: pip install -r requirements-submit.txt"
    ):
        connect(profile(), {})
