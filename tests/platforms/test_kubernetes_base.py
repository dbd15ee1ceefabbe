"""The kustomize base of a namespace: its manifests, and rights that are those of the client."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from adapt.platforms import kubernetes
from adapt.platforms.kubernetes.checks import _needed
from adapt.platforms.kubernetes.endpoint_pod import COMPONENT
from adapt.platforms.kubernetes.kinds import _PLURALS, KINDS
from tests.platforms.kubernetes_jobs import asked
from tests.platforms.kubernetes_schemas import VERSIONS, faults, pod_templates
from tests.platforms.test_kubernetes_manifests import profile

BASE = Path(kubernetes.__file__).parent / "base"


def read(name: str) -> Any:
    return yaml.safe_load((BASE / name).read_text())


FILES: list[str] = read("kustomization.yaml")["resources"]


def rights() -> set[tuple[str, str, str]]:
    return {
        (verb, group, resource)
        for rule in read("role.yaml")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("name", FILES)
def test_every_version_takes_each_manifest(name: str) -> None:
    for version in (VERSIONS[0], VERSIONS[-1]):
        assert faults(read(name), version) == []
        assert kubernetes_validate.validate(read(name), version, strict=True)
    assert {f"{one.stem}.yaml" for one in BASE.iterdir()} == {*FILES, "kustomization.yaml"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_role_may_do_what_check_asks_for(kind: str) -> None:
    changes: dict[str, Any] = {"kind": kind, "nodes": 2}
    if kind not in ("trainjob", "volcano"):
        changes["coscheduling"] = {}
    if kind != "volcano":
        changes["kueue"] = {"queue": "gpus"}
    needed = {
        (verb, group, "/".join(filter(None, (resource, part))))
        for verb, group, resource, part in _needed(profile(**changes), KINDS[kind])  # type: ignore[index]
    }
    assert needed <= rights()


def test_the_role_may_do_no_more() -> None:
    """What is made can be taken back; the rest is what is read, and how jobs are stopped."""
    made = {(version.rpartition("/")[0], plural) for (version, _), plural in _PLURALS.items()}
    read_only = {("", "pods"), ("", "events"), ("", "pods/log"), ("kueue.x-k8s.io", "workloads")}
    granted = {(group, resource) for _, group, resource in rights()}
    assert granted == made | read_only
    verbs = {verb for verb, _, _ in rights()}
    assert verbs == {"create", "get", "list", "patch", "delete"}
    assert not {verb for verb, *what in rights() if tuple(what) in read_only} - {
        "get",
        "list",
        "patch",
    }


def test_the_binding_names_the_account_and_the_role() -> None:
    binding, account = read("role_binding.yaml"), read("service_account.yaml")
    (subject,) = binding["subjects"]
    assert subject["name"] == account["metadata"]["name"]
    assert subject["namespace"] == read("kustomization.yaml")["namespace"]
    assert binding["roleRef"]["name"] == read("role.yaml")["metadata"]["name"]


def test_the_network_policy_is_for_the_pods_of_jobs() -> None:
    spec = read("network_policy.yaml")["spec"]
    (term,) = spec["podSelector"]["matchExpressions"]
    assert term == {"key": COMPONENT, "operator": "DoesNotExist"}
    for kind in KINDS:
        job = asked(kind=kind)["items"][-1]
        if kind != "trainjob":
            labels = next(pod_templates(job))["metadata"]["labels"]
            assert spec["podSelector"]["matchLabels"].items() <= labels.items()
            assert COMPONENT not in labels
