"""An API server on the loopback that keeps objects and refuses what the real one refuses, in its
words: 400, 401, 403, 404, 409, 415, 422. Pods and their ends are the tests' own doing."""

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.platforms.kubernetes_schemas import faults

TOKEN = "good-token"
CORE = ("configmaps", "services", "pods", "events", "secrets", "persistentvolumeclaims",
        "serviceaccounts")  # fmt: skip
RESOURCES = {
    "v1": (*CORE, "namespaces", "nodes"),
    "batch/v1": ("jobs",),
    "apps/v1": ("deployments",),
    "autoscaling/v2": ("horizontalpodautoscalers",),
    "serving.kserve.io/v1beta1": ("inferenceservices",),
    "scheduling.k8s.io/v1": ("priorityclasses",),
    "authorization.k8s.io/v1": ("selfsubjectaccessreviews",),
    "trainer.kubeflow.org/v1alpha1": ("trainjobs", "trainingruntimes", "clustertrainingruntimes"),
    "jobset.x-k8s.io/v1alpha2": ("jobsets",),
    "kubeflow.org/v1": ("pytorchjobs",),
    "batch.volcano.sh/v1alpha1": ("jobs",),
    "bus.volcano.sh/v1alpha1": ("commands",),
    "scheduling.volcano.sh/v1beta1": ("queues",),
    "kueue.x-k8s.io/v1beta1": ("localqueues", "workloads", "workloadpriorityclasses"),
    "scheduling.x-k8s.io/v1alpha1": ("podgroups",),
    "node.k8s.io/v1": ("runtimeclasses",),
}
PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<version>[^/]+/[^/]+))(?:/namespaces/(?P<namespace>[^/]+)"
    r"(?=/))?(?:/(?P<resource>[^/]+))?(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?$"
)


class ServerAnswer(Exception):
    """A `Status`, as the server says what it refuses."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                     "reason": reason, "message": message, "details": details}  # fmt: skip


class Log:
    """What a pod writes: lines with their time; `breaks` are the counts at which a reader is cut
    off once. `late_head` sends the answer's head with the first line, as kubelets do."""

    def __init__(self, *breaks: int) -> None:
        self.late_head = False
        self.lines: list[str] = []
        self.ended = False
        self.breaks = list(breaks)

    def write(self, *texts: str) -> None:
        for text in texts:
            stamp = f"2026-11-27T10:00:00.{len(self.lines):09d}Z"
            self.lines.append(f"{stamp} {text}\n")


class Cluster:
    """The server's state; tests change it as controllers and kubelets would.

    `refusals` are answers to what matches their pattern, `denied` are verbs and resources that the
    user's role leaves out, `unready` are codes or bodies that the next requests get instead.
    What matches one of `hang_ups` is done, and the connection closed without an answer.
    """

    def __init__(self) -> None:
        self.resources = deepcopy(RESOURCES)
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = defaultdict(dict)
        self.logs: dict[str, Log] = {}
        self.denied: set[tuple[str, str]] = set()
        self.refusals: list[tuple[str, ServerAnswer]] = []
        self.unready: list[int | bytes] = []
        self.hang_ups: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.sent: list[dict[str, Any]] = []
        self._count = 0
        self.put("v1", "", "namespaces", {"metadata": {"name": "lab"}})
        node = {"metadata": {"name": "a", "labels": {"pool": "gpu"}},
                "status": {"allocatable": {"nvidia.com/gpu": "8"}}}  # fmt: skip
        self.put("v1", "", "nodes", node)

    def put(self, version: str, namespace: str, resource: str, thing: dict[str, Any]) -> Any:
        """Keep an object, with what the server adds."""
        self._count += 1
        place = thing["metadata"]
        place.setdefault("uid", f"uid-{self._count}")
        place.setdefault("creationTimestamp", f"2026-11-27T10:{self._count // 60:02d}:"
                                              f"{self._count % 60:02d}Z")  # fmt: skip
        if namespace:
            place["namespace"] = namespace
        self.objects[version, namespace, resource][place["name"]] = thing
        return thing

    def add_pod(self, name: str, labels: dict[str, str], **status: Any) -> Any:
        """A pod of a job, `phase: Running` unless said otherwise."""
        pod = {"metadata": {"name": name, "labels": labels},
               "status": {"phase": "Running", **status}}  # fmt: skip
        self.logs.setdefault(name, Log())
        return self.put("v1", "lab", "pods", pod)

    def end_pod(self, name: str, code: int, message: str = "", **more: Any) -> None:
        """A container ends with an exit code and a termination message."""
        reason = more.pop("reason", "Completed" if code == 0 else "Error")
        ended = {"exitCode": code, "reason": reason, "message": message,
                 "finishedAt": f"2026-11-27T11:00:{self._count:02d}Z"}  # fmt: skip
        self._count += 1
        pod = self.objects["v1", "lab", "pods"][name]
        containers = [{"name": "main", "state": {"terminated": ended}}]
        phase = "Failed" if code else "Succeeded"
        pod["status"] = {"phase": phase, **more, "containerStatuses": containers}
        self.logs[name].ended = True

    def job(self, version: str, resource: str, name: str) -> Any:
        """A job's object."""
        return self.objects[version, "lab", resource][name]


def _not_found(resource: str, group: str, name: str) -> ServerAnswer:
    full = f"{resource}.{group}" if group else resource
    return ServerAnswer(404, "NotFound", f'{full} "{name}" not found', name=name, kind=resource)


class _ClusterHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_: Any) -> None: ...

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        self.body = json.loads(self.rfile.read(length)) if length else {}
        self.cluster.asked.append((self.command, self.path))
        if self.cluster.unready:
            instead = self.cluster.unready.pop(0)
            if isinstance(instead, bytes):
                return self._say(200, instead)
            return self._say(instead, {"kind": "Status", "message": "not ready", "code": instead})
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise ServerAnswer(401, "Unauthorized", "Unauthorized")
            answer = self._route(url.path)
        except ServerAnswer as refused:
            return self._say(refused.code, refused.body)
        if any(re.search(one, f"{self.command} {url.path}") for one in self.cluster.hang_ups):
            self.close_connection = True
            return None
        return None if answer is None else self._say(200, answer)

    do_GET = do_POST = do_PATCH = do_DELETE = _handle

    def _say(self, code: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _route(self, path: str) -> Any:
        if path == "/version":
            return {"gitVersion": "v1.37.0"}
        match = PATH.fullmatch(path)
        assert match, path
        version = match["core"] or match["version"]
        group = version.rpartition("/")[0]
        known = self.cluster.resources.get(version)
        resource, name, namespace = match["resource"], match["name"], match["namespace"] or ""
        if known is None or (resource and resource not in known):
            raise ServerAnswer(404, "NotFound", "the server could not find the requested resource")
        if resource is None:
            return {"kind": "APIResourceList", "resources": [{"name": one} for one in known]}
        if resource == "selfsubjectaccessreviews":
            return self._review()
        self._allow(group, resource, match["sub"], name)
        place = (version, namespace, resource)
        things = self.cluster.objects[place]
        for pattern, answer in self.cluster.refusals:
            if re.search(pattern, f"{self.command} {path}"):
                raise answer
        if self.command == "POST":
            return self._create(place, self.body)
        if name is None:
            return {"kind": "List", "items": [one for one in things.values() if self._picks(one)]}
        if name not in things:
            raise _not_found(resource, group, name)
        if match["sub"] == "log":
            return self._log(name)
        if self.command == "PATCH":
            return self._patch(things[name])
        if self.command == "DELETE":
            self._remove(things.pop(name)["metadata"]["uid"])
            return {"kind": "Status", "status": "Success"}
        return things[name]

    def _allow(self, group: str, resource: str, sub: str | None, name: str | None) -> None:
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(self.command)
        verb = verb or ("get" if name else "list")
        full = f"{resource}/{sub}" if sub else resource
        if (verb, full) in self.cluster.denied:
            message = (f'{full} is forbidden: User "ann" cannot {verb} resource "{full}" in API '
                       f'group "{group}" in the namespace "lab"')  # fmt: skip
            raise ServerAnswer(403, "Forbidden", message, kind=resource)

    def _review(self) -> Any:
        self._refuse_faults(self.body)
        asked = self.body["spec"]["resourceAttributes"]
        full = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        allowed = (asked["verb"], full) not in self.cluster.denied
        return {**self.body, "status": {"allowed": allowed}}

    def _picks(self, thing: Any) -> bool:
        labels = thing["metadata"].get("labels") or {}
        for one in filter(None, self.query.get("labelSelector", "").split(",")):
            key, equals, value = one.partition("=")
            if key not in labels or (equals and labels[key] != value):
                return False
        field, _, value = self.query.get("fieldSelector", "").partition("=")
        return not field or thing.get(field) == value

    def _refuse_faults(self, thing: Any) -> None:
        found = faults(thing)
        unknown = [fault.field for fault in found if fault.unknown]
        if unknown:
            fields = ", ".join(f'unknown field "{field}"' for field in unknown)
            raise ServerAnswer(400, "BadRequest", f"strict decoding error: {fields}")
        if found:
            causes = [{"field": fault.field, "message": fault.message} for fault in found]
            raise ServerAnswer(422, "Invalid", f"{thing['kind']} is invalid", causes=causes)

    def _create(self, place: tuple[str, str, str], thing: Any) -> Any:
        version, namespace, resource = place
        assert self.headers["Content-Type"] == "application/json"
        assert self.query["fieldValidation"] == "Strict" and thing["apiVersion"] == version
        if namespace not in self.cluster.objects["v1", "", "namespaces"]:
            raise _not_found("namespaces", "", namespace)
        self._refuse_faults(thing)
        self.cluster.sent.append(deepcopy(thing))
        name = thing["metadata"].get("name") or f"{thing['metadata']['generateName']}x1"
        if name in self.cluster.objects[place]:
            message = f'{resource} "{name}" already exists'
            raise ServerAnswer(409, "AlreadyExists", message, name=name, kind=resource)
        thing["metadata"]["name"] = name
        if self.query.get("dryRun") == "All":
            return thing
        return self.cluster.put(version, namespace, resource, thing)

    def _patch(self, thing: Any) -> Any:
        if self.headers["Content-Type"] != "application/merge-patch+json":
            raise ServerAnswer(415, "UnsupportedMediaType", "the body of the request was unknown")
        changed = _merged(thing, self.body)
        stripped = {key: value for key, value in changed.items() if key != "status"}
        self._refuse_faults(stripped)
        thing.clear()
        thing.update(changed)
        return thing

    def _remove(self, uid: str) -> None:
        for things in self.cluster.objects.values():
            for name in [*things]:
                owners = things[name]["metadata"].get("ownerReferences") or []
                if any(owner["uid"] == uid for owner in owners):
                    del things[name]

    def _log(self, name: str) -> None:
        log, follow = self.cluster.logs[name], self.query.get("follow") == "true"
        assert self.query["container"] and self.query["timestamps"] == "true"
        while log.late_head and not (log.lines or log.ended):
            time.sleep(0.02)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        while True:
            ended = log.ended or not follow
            for line in log.lines[sent:]:
                if log.breaks and sent == log.breaks[0]:
                    log.breaks.pop(0)
                    self.close_connection = True
                    return
                data = line.encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                sent += 1
            if ended:
                self.wfile.write(b"0\r\n\r\n")
                return
            time.sleep(0.02)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """The URL of a server of this cluster."""
    handler = type("Handler", (_ClusterHandler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_kubeconfig(path: Path, url: str, token: str = TOKEN) -> Path:
    """A kubeconfig with one context, `lab`."""
    values = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": url}}],
        "users": [{"name": "ann", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "ann"}}],
    }
    path.write_text(yaml.safe_dump(values))
    return path
