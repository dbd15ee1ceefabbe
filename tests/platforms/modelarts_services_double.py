"""ModelArts' services (v2) beside its training jobs, as strict: unknown fields and wrong types by
the SDK's own model classes, limits by the descriptions of their fields. A service moves one state
on with each look at it."""

import re
from typing import Any
from uuid import uuid4

from tests.platforms.modelarts_double import (
    ROUTES,
    ModelArtsDouble,
    ModelArtsRefused,
    check_types,
    refused,
)

GROUP, STREAM = "0a" * 18, "1b" * 18
CREATED_MS = 1_795_000_000_000
FLAVORS = ("modelarts.vm.gpu.t4u8", "modelarts.vm.cpu.2u", "custom")
LIMITS = {
    "name": r"[A-Za-z0-9_\u4e00-\u9fff-]{1,64}",
    "version": r"[1-9]\d?\.\d{1,2}\.\d{1,2}",
    "description": r"[^<>]{0,512}",
    "type": "REAL_TIME|ASYNC_REAL_TIME",
    "deploy_type": "SINGLE|MULTI",
    "workload_type": "DEPLOYMENT|LWS",
    "workspace_id": "0|[0-9a-f]{32}",
    "lts_strategy": "POOL|AUTO_CREATE|DEFAULT",
}


class ServicesDouble(ModelArtsDouble):
    """`services` by id; `states` are those of services made from now on, the last one stays."""

    def __init__(self) -> None:
        super().__init__()
        self.services: dict[str, dict[str, Any]] = {}
        self.states, self.reason = ["DEPLOYING", "RUNNING"], ""
        self.happened: list[dict[str, Any]] = []
        self.printed: list[dict[str, Any]] = []
        self.most_lines = 5000

    def routes(self) -> dict[str, tuple[str, Any]]:
        return {**ROUTES, **SERVICES}

    def happens(self, kind: str, text: str) -> None:
        """An event of every service."""
        stamp = 1_796_000_000_000 + 1000 * len(self.happened)
        self.happened.append(
            {"id": f"e{len(self.happened)}", "event_type": kind, "event_info": text,
             "event_count": 1, "create_at": stamp, "update_at": stamp}
        )  # fmt: skip

    def prints(self, text: str, pod: str = "") -> None:
        """A line of a container; its number is its time in nanoseconds."""
        number = str(10**6 * CREATED_MS + 1000 * (len(self.printed) + 1))
        labels = {"podName": pod} if pod else {}
        self.printed.append({"content": f"{text}\n", "line_num": number, "labels": labels})

    def query(
        self, group: str, stream: str, *, query: dict[str, str], body: Any
    ) -> tuple[int, Any]:
        """The Log Tank Service's ListLogs."""
        _must((group, stream) == (GROUP, STREAM), "log_stream_id")
        known = {"start_time", "end_time", "labels", "keywords", "line_num", "is_desc",
                 "search_type", "limit", "highlight", "is_count"}  # fmt: skip
        _must(set(body) <= known, "the body")
        start, end = int(body["start_time"]), int(body["end_time"])
        _must(start < end and end - start <= 180 * 24 * 3600 * 1000, "start_time, end_time")
        _must(1 <= body["limit"] <= 5000 and body["search_type"] == "init", "limit, search_type")
        _must(isinstance(body["start_time"], str) and body["is_desc"] is False, "start_time")
        found = [one for one in self.printed if start <= int(one["line_num"]) // 10**6 <= end]
        return 200, {"count": len(found), "logs": found[: self.most_lines]}

    def make_service(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        check_types(body, "ServiceCreateRequest")
        check_service(body)
        if any(one["name"] == body["name"] for one in self.services.values()):
            raise refused(f"The service name {body['name']} already exists.", "3518")
        service = {**body, "id": str(uuid4()), "states": list(self.states)}
        self.services[service["id"]] = service
        return 200, {"id": service["id"], "name": body["name"], "status": "DEPLOYING"}

    def show_service(self, service: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        found = self._service(service)
        state = found["states"].pop(0) if len(found["states"]) > 1 else found["states"][0]
        if state == "DELETING":
            del self.services[service]
        stream = {"type": "STDOUT", "log_group_id": GROUP, "log_stream_id": STREAM}
        urls = [
            {"type": "CONSOLE", "urls": ["https://console/town"]},
            {"type": "INTERNAL", "urls": ["https://infer.internal/v1/infers/1"]},
        ]
        return 200, {
            "id": service,
            "name": found["name"],
            "status": state,
            "failure_reason": self.reason if state == "FAILED" else "",
            "version": {"log_configs": [stream]},
            "create_at": str(CREATED_MS),
            **({"predict_url": urls} if state == "RUNNING" else {}),
        }

    def list_services(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Names match as a part, as the API's do."""
        limit, at = int(query["limit"]), int(query["offset"])
        if not 1 <= limit <= 500 or at % limit or query["sort_key"] != "create_at":
            raise refused("offset must be a multiple of limit")
        found = list(reversed(self.services.values()))
        if "name" in query:
            found = [one for one in found if query["name"] in one["name"]]
        if "tags" in query:
            key, value = query["tags"].split("|")
            found = [one for one in found if {"key": key, "value": value} in one["tags"]]
        data = [
            {"id": one["id"], "name": one["name"], "status": one["states"][0], "tags": one["tags"]}
            for one in found
        ]
        return 200, {"total": len(data), "data": data[at : at + limit], "size": limit}

    def delete_services(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        check_types(body, "DeleteServicesRequest")
        for service in body["service_ids"]:
            self._service(service)["states"] = ["DELETING"]
        return 200, {"service_responses": []}

    def list_events(self, service: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        self._service(service)
        limit, at = int(query["limit"]), int(query["offset"])
        if at % limit or query["sort_dir"] != "ASC":
            raise refused("offset must be a multiple of limit")
        return 200, {"total": len(self.happened), "data": self.happened[at : at + limit]}

    def _service(self, service: str) -> dict[str, Any]:
        if service not in self.services:
            raise ModelArtsRefused(404, "ModelArts.3555", f"The service {service} does not exist.")
        return self.services[service]


SERVICES: dict[str, tuple[str, Any]] = {
    "services(?![^?])": ("POST", ServicesDouble.make_service),
    "services": ("GET", ServicesDouble.list_services),
    "services/delete": ("POST", ServicesDouble.delete_services),
    "services/([^/]+)": ("GET", ServicesDouble.show_service),
    "services/([^/]+)/events": ("GET", ServicesDouble.list_events),
    "groups/([^/]+)/streams/([^/]+)/content/query": ("POST", ServicesDouble.query),
}


def _must(fits: bool, what: str) -> None:
    if not fits:
        raise refused(f"{what} is not allowed")


def check_service(body: dict[str, Any]) -> None:
    """What the descriptions of the SDK's fields say of values."""
    for key, pattern in LIMITS.items():
        _must(re.fullmatch(pattern, body[key]) is not None, key)
    _must(len(body["group_configs"]) == 1, "group_configs")
    _must(len(body.get("tags", [])) <= 20 and len(body["log_configs"]) <= 3, "tags, log_configs")
    _must(0 <= body["deploy_timeout_minutes"] <= 300, "deploy_timeout_minutes")
    for log in body["log_configs"]:
        _must(log["type"] in ("STDOUT", "EVENT", "FILE") and log["status"] in ("ON", "OFF"), "log")
    (group,) = body["group_configs"]
    _must(1 <= group["count"] <= 128 and 0 <= group["weight"] <= 100, "count, weight")
    _must(group["framework"] in ("COMMON", "VLLM", "MINDIE"), "framework")
    _must(len(group["unit_configs"]) == 1, "unit_configs")
    check_unit(group["unit_configs"][0], "pool_id" in group)
    invoke, limit = (body["runtime_config"][key] for key in ("service_invoke", "service_limit"))
    _must(1 <= invoke["port"] <= 65535, "port")
    _must(invoke["protocol"] in ("HTTP", "HTTPS", "WSS", "WS"), "protocol")
    _must(invoke["auth_type"] in ("TOKEN", "API_KEY", "NONE"), "auth_type")
    _must(1 <= limit["request_size_limit"] <= 50, "request_size_limit")
    _must(1 <= limit["request_timeout"] <= 7200, "request_timeout")


def check_unit(unit: dict[str, Any], in_a_pool: bool) -> None:
    """A replica's container."""
    _must(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,14}[a-z0-9])?", unit["name"]) is not None, "name")
    _must(unit["flavor"] in FLAVORS, f"Flavor ({unit['flavor']})")
    _must((unit["flavor"] == "custom") == ("custom_spec" in unit), "custom_spec")
    own = unit.get("custom_spec")
    _must(own is None or (in_a_pool and own["cpu"] >= 0.01 and own["gpu"] >= 0), "custom_spec")
    _must(unit["image"]["source"] in ("SWR", "IMAGE"), "image.source")
    _must(unit["image"]["swr_path"].startswith("swr."), "image.swr_path")
    _must(unit["image"]["category"] in ("GPU", "CPU", "ASCEND"), "image.category")
    for file in unit["files"]:
        _must(file["source"].upper() in ("OBS", "OBSFS", "EFS", "LOCAL"), "files.source")
        mount = file["mount_path"]
        _must(re.fullmatch(r"(/[\w-]+)+/", mount) is not None and len(mount) <= 255, "mount_path")
        _must(re.fullmatch(r"obs://[^/]+/(.+/)?", file["address"]) is not None, "address")
    for key, value in unit["envs"].items():
        _must(re.fullmatch(r"[A-Za-z_.-][\w.-]{0,63}", key) is not None, f"envs.{key}")
        _must(not re.search("[<>]", value), f"envs.{key}")
    for probe in ("startup_health", "readiness_health", "liveness_health"):
        health = unit[probe]
        _must(health["check_method"] in ("HTTP", "EXEC"), probe)
        _must(re.fullmatch(r"/[\w/:-]*", health["url"]) is not None, probe)
        times = ("initial_delay_seconds", "timeout_seconds", "period_seconds", "failure_threshold")
        _must(all(health[one] >= 1 for one in times), probe)
    _must(1 <= unit["port"] <= 65535 and unit["recovery"] in ("Instance", "Role", "Pod"), "port")
    _must(all(1 <= one <= 60000 for one in unit["security_config"].values()), "security_config")
