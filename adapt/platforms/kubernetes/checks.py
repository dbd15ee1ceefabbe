"""What can be known before a job is sent: one finding a question to the API server.

What the user's role may not see is no fault: the finding says so and is well.
"""

from collections.abc import Iterator
from typing import Any

from adapt.platforms.kubernetes.api import Api
from adapt.platforms.kubernetes.kinds import KINDS, Kind, collection
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.kubernetes.refusals import Refused
from adapt.platforms.platform import Finding, Request
from storage.errors import StoreUnavailable


def findings(api: Api, profile: KubernetesProfile, request: Request) -> Iterator[Finding]:
    """All that is asked; the first that finds nobody there is the last."""
    kind = KINDS[profile.kind]
    try:
        version = api.get("/version")
        yield Finding("API server", True, f"{api.host}, {version.get('gitVersion')}")
        yield from _kind(api, kind)
        yield from _namespace(api, profile)
        yield from _rights(api, profile, kind)
        for what, path, cure in _named(profile):
            yield from _exists(api, what, path, cure)
        if profile.gpus:
            yield from _gpus(api, profile)
        yield from _dry_run(api, request)
    except StoreUnavailable as error:
        yield Finding("API server", False, str(error), exit_code=StoreUnavailable.exit_code)
    except Refused as error:
        yield Finding("API server", False, str(error))


def _kind(api: Api, kind: Kind) -> Iterator[Finding]:
    what = f"kind {kind.kind}"
    try:
        known = api.get(f"/apis/{kind.api_version}")["resources"]
    except Refused as error:
        if error.code != 404:
            raise
        known = []
    if any(one["name"] == kind.plural for one in known):
        yield Finding(what, True, kind.api_version)
    else:
        cure = f"it needs {kind.needs}; `kind: indexed_job` needs nothing installed"
        yield Finding(what, False, f"no matches for {kind.api_version} {kind.kind}", cure)


def _namespace(api: Api, profile: KubernetesProfile) -> Iterator[Finding]:
    name = profile.namespace
    cure = f"kubectl create namespace {name}, or name another `namespace`"
    yield from _exists(api, f"namespace {name}", f"/api/v1/namespaces/{name}", cure)


def _rights(api: Api, profile: KubernetesProfile, kind: Kind) -> Iterator[Finding]:
    for verb, group, resource, subresource in _needed(profile, kind):
        attributes = {
            "namespace": profile.namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            **({"subresource": subresource} if subresource else {}),
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        allowed = bool(answer["status"]["allowed"])
        name = "/".join(filter(None, (resource, subresource)))
        yield Finding(
            f"may {verb} {name}",
            allowed,
            "yes" if allowed else answer["status"].get("reason") or "no",
            "" if allowed else f"ask for a role in namespace {profile.namespace} that may",
        )


def _needed(profile: KubernetesProfile, kind: Kind) -> list[tuple[str, str, str, str]]:
    rights = [
        *((verb, kind.group, kind.plural, "") for verb in ("create", "get", "list", "patch")),
        *((verb, "", "configmaps", "") for verb in ("create", "patch")),
        ("list", "", "pods", ""),
        ("get", "", "pods", "log"),
    ]
    if profile.kind == "indexed_job" and profile.nodes > 1:
        rights += [(verb, "", "services", "") for verb in ("create", "patch")]
    if profile.kind == "volcano":
        rights.append(("create", "bus.volcano.sh", "commands", ""))
    return rights


def _named(profile: KubernetesProfile) -> Iterator[tuple[str, str, str]]:
    """What a profile names and the cluster should have: what, path, cure."""
    own = f"/api/v1/namespaces/{profile.namespace}"
    for name in dict.fromkeys(filter(None, [profile.secret, *profile.image_pull_secrets])):
        cure = f"kubectl -n {profile.namespace} create secret ... {name}, or name another"
        yield f"secret {name}", f"{own}/secrets/{name}", cure
    if profile.service_account:
        name = profile.service_account
        cure = "make it, or name another `service_account`"
        yield f"service account {name}", f"{own}/serviceaccounts/{name}", cure
    for name in dict.fromkeys(volume.claim for volume in profile.volumes if volume.claim):
        cure = "make the claim, or name another in `volumes`"
        yield f"claim {name}", f"{own}/persistentvolumeclaims/{name}", cure
    if profile.priority_class:
        name = profile.priority_class
        path = f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}"
        yield f"priority class {name}", path, "kubectl get priorityclasses lists them"
    if profile.kind == "trainjob":
        cure = "kubectl get clustertrainingruntimes,trainingruntimes lists them"
        yield f"runtime {profile.runtime}", _runtime(profile), cure
    if profile.kind == "volcano":
        path = f"/apis/scheduling.volcano.sh/v1beta1/queues/{profile.queue}"
        yield f"queue {profile.queue}", path, "kubectl get queues lists them"


def _runtime(profile: KubernetesProfile) -> str:
    group = "/apis/trainer.kubeflow.org/v1alpha1"
    if profile.runtime_kind == "ClusterTrainingRuntime":
        return f"{group}/clustertrainingruntimes/{profile.runtime}"
    return f"{group}/namespaces/{profile.namespace}/trainingruntimes/{profile.runtime}"


def _exists(api: Api, what: str, path: str, cure: str) -> Iterator[Finding]:
    found = _seen(api, path)
    if isinstance(found, Refused):
        there = found.code == 403
        said = "not visible with these credentials" if there else "there is none"
        yield Finding(what, there, said, "" if there else cure)
    else:
        yield Finding(what, True, "there")


def _seen(api: Api, path: str, **query: str) -> Any:
    try:
        return api.get(path, **query)
    except Refused as error:
        if error.code not in (403, 404):
            raise
        return error


def _gpus(api: Api, profile: KubernetesProfile) -> Iterator[Finding]:
    """Whether nodes have such GPUs at all; whether they are free, the scheduler knows."""
    what = f"{profile.gpus} x {profile.gpu_resource} a node"
    selector = ",".join(f"{key}={value}" for key, value in profile.node_selector.items())
    seen = _seen(api, "/api/v1/nodes", labelSelector=selector)
    if isinstance(seen, Refused):
        yield Finding(what, True, "not visible with these credentials")
        return
    counts = [
        int(node["status"].get("allocatable", {}).get(profile.gpu_resource, 0))
        for node in seen["items"]
    ]
    fit = sum(count >= profile.gpus for count in counts)
    cure = (
        "is the device plugin installed, and are gpus, gpu_resource, node_selector right? A "
        "cluster that adds nodes when they are asked for has none now"
    )
    yield Finding(what, fit > 0, f"{fit} of {len(counts)} nodes", "" if fit else cure)


def _dry_run(api: Api, request: Request) -> Iterator[Finding]:
    """The server's own judgement of every object: fields, names, policies, quota."""
    for manifest in request["items"]:
        what = f"dry run of {manifest['kind']}"
        try:
            api.create(collection(manifest), manifest, dry_run=True)
        except Refused as error:
            yield Finding(what, False, str(error), "see docs/platforms/kubernetes.md")
        else:
            yield Finding(what, True, "accepted")
