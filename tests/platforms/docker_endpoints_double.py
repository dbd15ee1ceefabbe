"""A Docker engine that keeps containers of endpoints: strict about what it is asked to create, over
the socket of `docker_double`."""

import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.platforms.docker_double import _EngineHandler, _running, _UnixServer

BODY = {
    "Image", "Cmd", "Env", "Labels", "User", "StopSignal", "StopTimeout", "Healthcheck",
    "ExposedPorts", "HostConfig",
}  # fmt: skip
HOST = {
    "Init", "ReadonlyRootfs", "Tmpfs", "CapDrop", "SecurityOpt", "ShmSize", "Mounts", "NetworkMode",
    "Memory", "MemorySwap", "DeviceRequests", "RestartPolicy", "PortBindings",
}  # fmt: skip
HEALTH = {"Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"}


class EndpointEngine:
    """Its containers by name, and what was asked of it; `health` is what a new one becomes."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.health, self.refusal, self.away = ["starting", "healthy"], "", 0
        self.state: dict[str, Any] = {"Status": "running", "ExitCode": 0, "OOMKilled": False}

    def create(self, name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        assert body.keys() <= BODY and body["HostConfig"].keys() <= HOST, body
        assert body["Healthcheck"].keys() <= HEALTH
        if name in self.containers:
            message = f'Conflict. The container name "/{name}" is already in use by container "1f".'
            return 409, {"message": message}
        self.containers[name] = {
            "Id": f"id-{name}",
            "Name": f"/{name}",
            "Created": f"2026-11-30T12:00:{len(self.containers):02d}Z",
            "State": {**self.state, "Status": "created"},
            "RestartCount": 0,
            "Config": {**body, "Tty": False},
            "HostConfig": body["HostConfig"],
        }
        return 201, {"Id": f"id-{name}", "Warnings": []}

    def start(self, container: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.refusal:
            return 500, {"message": self.refusal}
        container["State"] = {**self.state, "Health": {"Status": "starting", "Log": []}}
        return 204, {}

    def described(self, container: dict[str, Any]) -> dict[str, Any]:
        health = container["State"].get("Health")
        if health is not None and self.health:
            health["Status"] = self.health.pop(0)
        return container

    def find(self, name: str) -> dict[str, Any] | None:
        return self.containers.get(name.removeprefix("id-"))


class _Handler(_EngineHandler):
    engine: EndpointEngine  # type: ignore[assignment]

    def do_GET(self) -> None:
        path, query = self._parts()
        if path.endswith("/version"):
            self._say({"Version": "27.1.0", "ApiVersion": "1.45"})
        elif path.endswith("/_ping"):
            self._say("OK")
        elif path.endswith("/containers/json"):
            (label,) = json.loads(query["filters"])["label"]
            found = self.engine.containers.values()
            self._say([one for one in found if label in one["Config"]["Labels"]])
        elif path.endswith("/logs"):
            stamped = b"2026-11-30T12:00:00.0Z loading the model\n"
            self._chunked()
            self._chunk(struct.pack(">BxxxL", 1, len(stamped)) + stamped)
            self.wfile.write(b"0\r\n\r\n")
        else:
            self._of(path, self.engine.described)

    def do_POST(self) -> None:
        path, query = self._parts()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.engine.asked.append(re.sub(r"^/v[\d.]+", "POST ", path))
        if path.endswith("/containers/create"):
            self._answer(*self.engine.create(unquote(query["name"]), json.loads(body)))
            return
        found = self.engine.find(path.split("/")[-2])
        assert found is not None
        if path.endswith("/start"):
            self._answer(*self.engine.start(found))
        else:
            assert query == {"t": str(found["Config"]["StopTimeout"])}, query
            found["State"] = {**found["State"], "Status": "exited"}
            self._answer(204, {})

    def do_DELETE(self) -> None:
        path, query = self._parts()
        assert query["force"] in ("1", "True"), query
        self.engine.asked.append(re.sub(r"^/v[\d.]+", "DELETE ", path))
        found = self.engine.find(path.rpartition("/")[2])
        assert found is not None
        del self.engine.containers[found["Name"][1:]]
        self._answer(204, {})

    def _of(self, path: str, what: Any) -> None:
        name = path.split("/")[-2]
        found = self.engine.find(name)
        if found is None:
            self._answer(404, {"message": f"No such container: {name}"})
        else:
            self._answer(200, what(found))

    def _answer(self, status: int, what: object) -> None:
        said = b"" if status == 204 else json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


@contextmanager
def on_a_socket(engine: EndpointEngine, folder: Path) -> Iterator[str]:
    """The engine's URI."""
    handler = type("Handler", (_Handler,), {"engine": engine})
    with _running(_UnixServer(f"{folder}/docker.sock", handler)):
        yield f"unix://{folder}/docker.sock"
