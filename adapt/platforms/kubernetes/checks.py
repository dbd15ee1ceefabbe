"""Checks before a job is sent: one finding for each request to the API server.

An object that the user's role may not read is no failure: the finding reports that and is ok.
"""

from collections.abc import Iterator
from typing import Any

from adapt.errors import JobError
from adapt.platforms.gpus import check_gpus
from adapt.platforms.kubernetes import coscheduling, kueue
from adapt.platforms.kubernetes.api import ApiServer
from adapt.platforms.kubernetes.kinds import KINDS, Kind, Needed, collection
from adapt.platforms.kubernetes.profile import KubernetesProfile
from adapt.platforms.kubernetes.refusals import ServerRefused
from adapt.platforms.platform import Finding, Request
from storage.errors import StoreUnavailable

_DRIVER_LABELS = ("nvidia.com/cuda.driver-version.major", "nvidia.com/cuda.driver.major")


def findings(api: ApiServer, profile: KubernetesProfile, request: Request) -> Iterator[Finding]:
    """All checks; they end where the server is unreachable."""
    kind = KINDS[profile.kind]
    try:
        version = api.get("/version")
        yield Finding("API server", True, f"{api.host}, {version.get('gitVersion')}")
        yield from _kind(api, kind)
        if profile.coscheduling is not None:
            yield _pod_groups(api)
        yield from _namespace(api, profile)
        yield from _rights(api, profile, kind)
        for what, path, fix in _named(profile):
            yield from _exists(api, what, path, fix)
        for one in kueue.named(profile):
            yield _in_kueue(api, one)
        if profile.gpus:
            yield from _gpus(api, profile)
        yield from _dry_run(api, request)
    except StoreUnavailable as error:
        yield Finding("API server", False, error.problem, error.fix, StoreUnavailable.exit_code)
    except ServerRefused as error:
        yield Finding("API server", False, error.problem, error.fix)


def _kind(api: ApiServer, kind: Kind) -> Iterator[Finding]:
    fix = f"install {kind.needs}, or take `kind: indexed_job`, which needs nothing installed"
    yield _known(api, kind.api_version, kind.kind, kind.plural, fix)


def _pod_groups(api: ApiServer) -> Finding:
    version = f"{coscheduling.GROUP}/{coscheduling.VERSION}"
    fix = "install the scheduler plugins with Coscheduling, or remove `coscheduling`"
    return _known(api, version, "PodGroup", "podgroups", fix)


def _known(api: ApiServer, version: str, kind: str, plural: str, fix: str) -> Finding:
    """A kind of object that the cluster has, or its fix."""
    try:
        known = api.get(f"/apis/{version}")["resources"]
    except ServerRefused as error:
        if error.code != 404:
            raise
        known = []
    if any(one["name"] == plural for one in known):
        return Finding(f"kind {kind}", True, version)
    return Finding(f"kind {kind}", False, f"no matches for {version} {kind}", fix)


def _namespace(api: ApiServer, profile: KubernetesProfile) -> Iterator[Finding]:
    name = profile.namespace
    fix = f"run kubectl create namespace {name}, or name another `namespace`"
    yield from _exists(api, f"namespace {name}", f"/api/v1/namespaces/{name}", fix)


def _rights(api: ApiServer, profile: KubernetesProfile, kind: Kind) -> Iterator[Finding]:
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
            "" if allowed else f"get a role in namespace {profile.namespace} that may",
        )


def _needed(profile: KubernetesProfile, kind: Kind) -> list[tuple[str, str, str, str]]:
    rights = [
        *((verb, kind.group, kind.plural, "") for verb in ("create", "get", "list", "patch")),
        *((verb, "", "configmaps", "") for verb in ("create", "patch")),
        ("list", "", "pods", ""),
        ("get", "", "pods", "log"),
    ]
    if kind.service and profile.nodes > 1:
        rights += [(verb, "", "services", "") for verb in ("create", "patch")]
    if profile.coscheduling is not None:
        rights += [(verb, coscheduling.GROUP, "podgroups", "") for verb in ("create", "patch")]
    if profile.kueue is not None:
        group = kueue.VERSIONS[0].partition("/")[0]
        rights += [(verb, group, "workloads", "") for verb in ("list", "patch")]
    if kind.commands:
        rights.append(("create", kind.commands, "commands", ""))
    return rights


def _named(profile: KubernetesProfile) -> Iterator[Needed]:
    """The objects that a profile names and the cluster should have."""
    own = f"/api/v1/namespaces/{profile.namespace}"
    for name in dict.fromkeys(filter(None, [profile.secret, *profile.image_pull_secrets])):
        fix = f"run kubectl -n {profile.namespace} create secret ... {name}, or name another"
        yield Needed(f"secret {name}", f"{own}/secrets/{name}", fix)
    if profile.service_account:
        name = profile.service_account
        fix = "create it, or name another `service_account`"
        yield Needed(f"service account {name}", f"{own}/serviceaccounts/{name}", fix)
    for name in dict.fromkeys(volume.claim for volume in profile.volumes if volume.claim):
        fix = "create the claim, or name another in `volumes`"
        yield Needed(f"claim {name}", f"{own}/persistentvolumeclaims/{name}", fix)
    if profile.pods.cache_claim:
        name = profile.pods.cache_claim
        fix = "create the claim, or name another `pods.cache_claim`"
        yield Needed(f"claim {name}", f"{own}/persistentvolumeclaims/{name}", fix)
    if profile.pods.runtime_class:
        name = profile.pods.runtime_class
        fix = "name one that kubectl get runtimeclasses lists"
        yield Needed(f"runtime class {name}", f"/apis/node.k8s.io/v1/runtimeclasses/{name}", fix)
    if profile.priority_class:
        name = profile.priority_class
        path = f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}"
        fix = "name one that kubectl get priorityclasses lists"
        yield Needed(f"priority class {name}", path, fix)
    yield from KINDS[profile.kind].needed(profile)


def _exists(api: ApiServer, what: str, path: str, fix: str) -> Iterator[Finding]:
    found = _read(api, path)
    if isinstance(found, ServerRefused):
        there = found.code == 403
        answer = "not visible with these credentials" if there else "there is none"
        yield Finding(what, there, answer, "" if there else fix)
    else:
        yield Finding(what, True, "there")


def _in_kueue(api: ApiServer, named: kueue.Named) -> Finding:
    """An object of any version of Kueue's API."""
    found = [_read(api, path) for path in named.paths]
    refused = [one for one in found if isinstance(one, ServerRefused)]
    if len(refused) < len(found):
        return Finding(named.what, True, "there")
    if any(one.code == 403 for one in refused):
        return Finding(named.what, True, "not visible with these credentials")
    return Finding(named.what, False, "there is none", named.fix)


def _read(api: ApiServer, path: str, **query: str) -> Any:
    try:
        return api.get(path, **query)
    except ServerRefused as error:
        if error.code not in (403, 404):
            raise
        return error


def _gpus(api: ApiServer, profile: KubernetesProfile) -> Iterator[Finding]:
    """Return whether nodes have such GPUs at all; only the scheduler knows whether they are
    free."""
    what = f"{profile.gpus} x {profile.gpu_resource} a node"
    selector = ",".join(f"{key}={value}" for key, value in profile.node_selector.items())
    found = _read(api, "/api/v1/nodes", labelSelector=selector)
    if isinstance(found, ServerRefused):
        yield Finding(what, True, "not visible with these credentials")
        return
    nodes = found["items"]
    fit = [node for node in nodes if _count(node, profile.gpu_resource) >= profile.gpus]
    fix = (
        "install the device plugin, or correct gpus, gpu_resource, node_selector; a cluster that "
        "adds nodes on demand may have none now"
    )
    yield Finding(what, bool(fit), f"{len(fit)} of {len(nodes)} nodes", "" if fit else fix)
    old = [error for node in fit if (error := _unfit(node, profile)) is not None]
    if old:
        some = f"{len(fit) - len(old)} of {len(fit)} nodes fit the image; others: "
        all_old = len(old) == len(fit)
        fix = f"{old[0].fix}; or choose others by node_selector"
        yield Finding("GPUs of the nodes", not all_old, some + old[0].problem, fix)


def _count(node: Any, resource: str) -> int:
    return int(node["status"].get("allocatable", {}).get(resource, 0))


def _unfit(node: Any, profile: KubernetesProfile) -> JobError | None:
    """Why the image cannot run on a node's GPUs, as far as NVIDIA's feature discovery labels it."""
    labels = node["metadata"].get("labels") or {}
    driver = next((labels[name] for name in _DRIVER_LABELS if name in labels), "")
    try:
        version = int(driver) if driver.isdigit() else None
        check_gpus(profile, labels.get("nvidia.com/gpu.product"), version)
    except JobError as error:
        return error
    return None


def _dry_run(api: ApiServer, request: Request) -> Iterator[Finding]:
    """The server's own check of every object: fields, names, policies, quota."""
    for manifest in request["items"]:
        what = f"dry run of {manifest['kind']}"
        try:
            api.create(collection(manifest), manifest, dry_run=True)
        except ServerRefused as error:
            fix = error.fix or "see docs/platforms/kubernetes.md"
            yield Finding(what, False, error.problem, fix)
        else:
            yield Finding(what, True, "accepted")
