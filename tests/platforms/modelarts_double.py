"""A strict double of ModelArts' API of training jobs (v2), over HTTP on loopback.

It verifies the signature of each request with the known secret (the published rules of
SDK-HMAC-SHA256, written anew here), refuses unknown fields and wrong types by the SDK's own model
classes and the limits of the API's reference, and moves a job one phase on with each look at it.
"""

import hashlib
import hmac
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from uuid import uuid4

from huaweicloudsdkmodelarts import v1

ACCESS_KEY, SECRET_KEY, PROJECT = "AKDOUBLE", "secret of the double", "0123456789abcdef" * 2
TOKEN = "a token that has not expired"
FLAVORS = [
    {
        "flavor_id": name,
        "flavor_name": name,
        "flavor_type": "GPU" if gpus else "CPU",
        "max_num": nodes,
        "flavor_info": {"max_num": nodes, **({"gpu": {"unit_num": gpus}} if gpus else {})},
    }
    for name, gpus, nodes in (
        ("modelarts.p3.large.public", 1, 4),
        ("modelarts.p3.8xlarge.public", 8, 1),
        ("modelarts.vm.cpu.8u", 0, 1),
    )
]
POOL = "pool-1a2b3c"
BEYOND_THE_SDK = {("Output", "prefetch_to_local"): "bool"}
"""What the API takes although the SDK's classes lack it."""


class ModelArtsRefused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error_code": code, "error_msg": message}


def refused(message: str, code: str = "2788") -> ModelArtsRefused:
    """A refusal with a code of the vendor's table (appendix Error Codes); 2788 is InvalidParam."""
    return ModelArtsRefused(400, f"ModelArts.{code}", message)


class JobDouble:
    """A training job; `phases` are those still to come, the last one stays."""

    def __init__(self, body: dict[str, Any], phases: list[str], exit_codes: list[int]) -> None:
        self.body, self.id = body, str(uuid4())
        self.phases, self.exit_codes = list(phases), exit_codes
        self.logs = {f"worker-{n}": b"" for n in range(len(exit_codes))}
        self.starts, self.cleared = 1, False

    def look(self) -> dict[str, Any]:
        """The job as the API describes it, one phase further than at the last look."""
        phase = self.phases.pop(0) if len(self.phases) > 1 else self.phases[0]
        status: dict[str, Any] = {"phase": phase, "secondary_phase": "Running", "duration": 1}
        if phase not in ("Creating", "Pending"):
            status["tasks"] = list(self.logs)
            status["running_records"] = [{"start_at": n} for n in range(self.starts)]
        if phase in ("Completed", "Failed", "Terminated"):
            codes = zip(self.logs, self.exit_codes, strict=True)
            status["task_statuses"] = [
                {"task": task, "exit_code": code, "message": ""} for task, code in codes
            ]
        metadata = {**self.body["metadata"], "id": self.id, "create_time": 1}
        algorithm = {**self.body["algorithm"], "environments": []}
        return {"kind": "job", "metadata": metadata, "status": status, "algorithm": algorithm}


class ModelArtsDouble:
    """The server's state. `phases` and `exit_codes` are those of the jobs made from now on;
    `failures` are (status, body) that answer the next requests instead; `shown_bytes` is what a
    preview holds at most."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobDouble] = {}
        self.failures: list[tuple[int, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.phases = ["Creating", "Pending", "Running"]
        self.exit_codes = [0]
        self.shown_bytes = 5_000_000
        self.delay_s = 0.0
        self.url = ""

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """A verified request -> status and body."""
        start = f"/v2/{PROJECT}/"
        if not path.startswith(start):
            raise ModelArtsRefused(
                404, "APIGW.0101", "The API does not exist or has not been published"
            )
        for pattern, (verb, handle) in self.routes().items():
            found = re.fullmatch(pattern, path.removeprefix(start))
            if found and verb == method:
                return handle(self, *map(unquote, found.groups()), query=query, body=body)
        raise ModelArtsRefused(404, "APIGW.0101", f"The API does not exist: {method} {path}")

    def routes(self) -> dict[str, tuple[str, Any]]:
        """What is answered, by the path below the project."""
        return ROUTES

    def create(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        check_types(body, "Job")
        check_job(body)
        if any(job.body["metadata"]["name"] == body["metadata"]["name"] for job in self._busy()):
            raise refused(f"Duplicate training job (name {body['metadata']['name']}).", "2751")
        taken = {folder for job in self._busy() for folder in output_folders(job.body)}
        if taken & output_folders(body):
            raise refused("Training output path is used by another job.")
        job = JobDouble(body, self.phases, self.exit_codes)
        self.jobs[job.id] = job
        return 201, {**job.look(), "status": {"phase": "Creating"}}

    def _busy(self) -> list[JobDouble]:
        ended = ("Completed", "Failed", "Terminated", "Abnormal")
        return [job for job in self.jobs.values() if job.phases[0] not in ended]

    def show(self, job: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        return 200, self._job(job).look()

    def act(self, job: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        check_types(body, "JobActionType")
        if body["action_type"] != "terminate":
            raise refused(f"Unsupported action type:{body['action_type']}", "2812")
        found = self._job(job)
        if found not in self._busy():
            raise refused("The job cannot be terminated in this phase.")
        found.phases = ["Terminating", "Terminated"]
        return 202, found.look()

    def search(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        check_types(body, "JobSearches")
        if not 1 <= body["limit"] <= 50 or body["offset"] < 0:
            raise refused("The parameter(limit, offset) exceeds the upper limit 50.", "2816")
        found = list(reversed(self.jobs.values()))
        for one in body["filters"]:
            found = [job for job in found if fits(job, one)]
        page = found[body["offset"] * body["limit"] :][: body["limit"]]
        return 200, {"total": len(found), "count": len(page), "items": [job.look() for job in page]}

    def preview(self, job: str, task: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        found, logs = self._job(job), self._job(job).logs
        if found.phases[0] in ("Creating", "Pending"):
            return 204, ""  # 2776, NotReadyToFetchLog, whose status has no body
        if found.cleared:
            raise refused("the log file has been cleared", "2819")
        if not logs[task]:
            raise refused("the log file is not generated", "2818")
        shown = logs[task][-self.shown_bytes :]
        sizes = {"current_size": len(shown), "full_size": len(logs[task])}
        return 200, {"content": shown.decode(errors="replace"), **sizes}

    def flavors(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        return 200, {"total_count": len(FLAVORS), "flavors": FLAVORS}

    def names(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        names = [job.body["metadata"]["name"] for job in self.jobs.values()]
        return 200, {"is_duplicate": query["job_name"] in names}

    def pool(self, pool: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if pool != POOL:
            raise ModelArtsRefused(404, "ModelArts.50015001", f"The pool {pool} does not exist.")
        return 200, {"kind": "Pool", "metadata": {"name": pool}}

    def _job(self, job: str) -> JobDouble:
        if job not in self.jobs:
            raise refused(f"Training job (ID: {job}) not found.", "2775")
        return self.jobs[job]


ROUTES: dict[str, tuple[str, Any]] = {
    "training-jobs": ("POST", ModelArtsDouble.create),
    "training-jobs/([^/]+)": ("GET", ModelArtsDouble.show),
    "training-jobs/([^/]+)/actions": ("POST", ModelArtsDouble.act),
    "training-jobs/([^/]+)/tasks/([^/]+)/logs/preview": ("GET", ModelArtsDouble.preview),
    "training-job-searches": ("POST", ModelArtsDouble.search),
    "training-job-flavors": ("GET", ModelArtsDouble.flavors),
    "training-job-names": ("GET", ModelArtsDouble.names),
    "pools/([^/]+)": ("GET", ModelArtsDouble.pool),
}


def fits(job: JobDouble, one: dict[str, Any]) -> bool:
    """Return whether a filter of a search holds."""
    values, name = one["value"], job.body["metadata"]["name"]
    if (one["key"], one["operator"]) == ("name", "like"):
        return any(value in name for value in values)
    if (one["key"], one["operator"]) == ("phase", "in"):
        return job.phases[0] in values
    raise refused(f"Unsupported condition key ({one['key']})", "2807")


def output_folders(body: dict[str, Any]) -> set[str]:
    outputs = body["algorithm"].get("outputs", [])
    return {output["remote"]["obs"]["obs_url"] for output in outputs}


def check_types(value: Any, kind: str, path: str = "body") -> None:
    """Compare with a model class of the SDK, field by field; refuse what it does not know."""
    plain = {"str": str, "int": int, "bool": bool, "float": float}
    if kind in plain:
        if type(value) is not plain[kind]:
            raise refused(f"{path}: expected {kind}, got {value!r}")
    elif kind.startswith("list["):
        if not isinstance(value, list):
            raise refused(f"{path}: expected a list")
        for number, one in enumerate(value):
            check_types(one, kind[5:-1], f"{path}[{number}]")
    elif kind.startswith("dict("):
        for key, one in value.items():
            check_types(one, kind[5:-1].split(", ")[1], f"{path}.{key}")
    else:
        known = getattr(v1, kind)
        for key, one in value.items():
            extra = BEYOND_THE_SDK.get((kind, key))
            if key not in known.attribute_map.values() and extra is None:
                raise refused(f"{path}: unknown field {key}")
            check_types(one, extra or known.openapi_types[key], f"{path}.{key}")


LIMITS = {
    ("kind",): r"job",
    ("metadata", "name"): r"[A-Za-z0-9_-]{1,64}",
    ("metadata", "description"): r".{0,256}",
    ("metadata", "workspace_id"): r"0|[0-9a-f]{32}",
    ("algorithm", "engine", "image_url"): r"[^/].*/.+:.+",
    ("algorithm", "command"): r"[^\n]+",
}


def check_job(body: dict[str, Any]) -> None:
    """What the API's reference says of values."""
    for keys, pattern in LIMITS.items():
        value: Any = body
        for key in keys:
            value = value[key]
        if re.fullmatch(pattern, value) is None:
            raise refused(f"{'.'.join(keys)}: {value!r} is not allowed")
    variables = body["algorithm"]["environments"]
    if len(variables) > 100:
        raise refused("environments: more than 100")
    for key, value in variables.items():
        if not re.fullmatch(r"[A-Za-z_]\w{0,8191}", key) or len(value) > 4096 or "$" in value:
            raise refused(f"environments: {key} is not allowed")
    channels = [*body["algorithm"].get("inputs", []), *body["algorithm"].get("outputs", [])]
    for channel in channels:
        url = channel["remote"]["obs"]["obs_url"]
        if channel["access_method"] not in ("env", "parameter") or not re.fullmatch(
            r"/[a-z0-9.-]{3,63}/([^/]+/)*", url
        ):
            message = "input and output channel information is not standardized."
            raise refused(message, "2753")
    retries = body["metadata"].get("annotations", {}).get("fault-tolerance/job-retry-num", "1")
    if not 1 <= int(retries) <= 128:
        raise refused("job-retry-num is out of range")
    check_spec(body["spec"])


def check_spec(spec: dict[str, Any]) -> None:
    resource = spec["resource"]
    flavor, nodes = resource.get("flavor_id"), resource["node_count"]
    if "pool_id" in resource:
        if resource["pool_id"] != POOL:
            raise refused(f"The resource pool {resource['pool_id']} does not exist.")
        if flavor is not None and not flavor.startswith("modelarts.pool.visual."):
            raise refused(f"Flavor ({flavor}) not found.", "2781")
    elif flavor not in [one["flavor_id"] for one in FLAVORS]:
        raise refused(f"Flavor ({flavor}) not found.", "2781")
    if nodes > 8:
        raise refused("Exceed quota limit of resource(nodes).", "2815")
    stop = spec.get("auto_stop", {"time_unit": "HOURS", "duration": 1})
    if stop["time_unit"] != "HOURS" or stop["duration"] < 1:
        raise refused(f"auto_stop {stop} is not allowed")
    policy = spec.get("schedule_policy", {})
    if "priority" in policy and ("pool_id" not in resource or not 1 <= policy["priority"] <= 3):
        raise refused("priority is for dedicated pools")
    for volume in spec.get("volumes", []):
        if len(volume) != 1:
            raise refused(f"volume {volume} is not allowed")


def check_signature(method: str, target: str, headers: Any, content: bytes) -> None:
    """Verify Authorization, as API Gateway does."""
    wrong = ModelArtsRefused(401, "APIGW.0301", "Incorrect IAM authentication information: ")
    given = re.fullmatch(
        r"SDK-HMAC-SHA256 Access=(\w+), SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
        headers.get("Authorization", ""),
    )
    if given is None:
        raise ModelArtsRefused(401, "APIGW.0301", f"{wrong}x-auth-token not found")
    access_key, signed, signature = given.groups()
    names = signed.split(";")
    if not {"host", "x-sdk-date", "x-project-id"} <= set(names) or names != sorted(names):
        raise ModelArtsRefused(401, "APIGW.0301", f"{wrong}signed headers {signed}")
    if headers["X-Project-Id"] != PROJECT:
        raise ModelArtsRefused(403, "APIGW.0302", "The IAM user is not allowed to access the API")
    date = headers["X-Sdk-Date"]
    sent = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs(datetime.now(UTC) - sent) > timedelta(minutes=15):
        raise ModelArtsRefused(401, "APIGW.0301", f"{wrong}request time is too far")
    parts = urlsplit(target)
    path = "/".join(quote(unquote(part), safe="~") for part in parts.path.split("/"))
    pairs = sorted(parse_qsl(parts.query, keep_blank_values=True))
    lines = [
        method,
        path if path.endswith("/") else f"{path}/",
        "&".join(f"{quote(key, safe='~')}={quote(value, safe='~')}" for key, value in pairs),
        *(f"{name}:{headers[name].strip()}" for name in names),
        "",
        signed,
        hashlib.sha256(content).hexdigest(),
    ]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    text = f"SDK-HMAC-SHA256\n{date}\n{digest}"
    expected = hmac.new(SECRET_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()
    if access_key != ACCESS_KEY or not hmac.compare_digest(expected, signature):
        raise ModelArtsRefused(401, "APIGW.0301", f"{wrong}verify aksk signature fail")
    if headers.get("X-Security-Token", TOKEN) != TOKEN:
        raise ModelArtsRefused(401, "APIGW.0301", f"{wrong}token expires, expires_at:2026-01-01")


@contextmanager
def modelarts_double(account: ModelArtsDouble | None = None) -> Iterator[ModelArtsDouble]:
    """A server of its own thread while the block lasts."""
    double = account or ModelArtsDouble()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve("GET")

        def do_POST(self) -> None:
            self._serve("POST")

        def _serve(self, method: str) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            double.requests.append((method, parts.path))
            threading.Event().wait(double.delay_s)
            try:
                check_signature(method, self.path, self.headers, content)
                if double.failures:
                    status, answer = double.failures.pop(0)
                else:
                    body = json.loads(content) if content else None
                    query = dict(parse_qsl(parts.query))
                    status, answer = double.answer(method, parts.path, query, body)
            except ModelArtsRefused as error:
                status, answer = error.status, error.body
            text = answer if isinstance(answer, str) else json.dumps(answer)
            self.send_response(status)
            self.send_header("Content-Type", "application/json;charset=UTF-8")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        double.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield double
        server.shutdown()
        thread.join()
