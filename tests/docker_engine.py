"""Session fixtures: a real Docker engine, a base image that comes from no registry, and the image
that our Dockerfile makes of it.

They need root, Debian's packages docker.io and mmdebstrap, and Debian's Python (3.11 on bookworm)
to be this one's: the image is built from two packages of the lock, and jobs get this environment's
site-packages as a mount, so that a build takes seconds and not six gigabytes.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands import ROOT

DOCKER, DOCKERD = "/usr/bin/docker", "/usr/sbin/dockerd"
BASE, IMAGE, REVISION = "localhost/debian-python:bookworm", "localhost/segadapt:test", "0123abcd"
SUITE, PYTHON = "bookworm", (3, 11)
FEW = ("qoi", "xxhash")
"""What is really installed from the lock, hashes and all."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
START_S = 30.0
ROOM_BYTES = 6 * 10**9
"""Memory that has to be free before the engine's images (1 GB) are put there."""


class DockerEngine(NamedTuple):
    """A running engine; nothing but its own folder knows of it."""

    uri: str
    folder: Path

    def docker(self, *arguments: object, code: int = 0) -> str:
        """What a docker command says; it has to end with `code`."""
        ended = subprocess.run(
            [DOCKER, "-H", self.uri, *map(str, arguments)],
            env=os.environ | {"DOCKER_BUILDKIT": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert ended.returncode == code, ended.stdout
        return ended.stdout.strip()


def lacking() -> str | None:
    """Why no engine can be started here."""
    if os.geteuid() != 0:
        return "a Docker engine of the tests' own needs root"
    missing = [path for path in (DOCKER, DOCKERD, "/usr/bin/mmdebstrap") if not Path(path).exists()]
    if missing:
        return f"{', '.join(missing)}: apt-get install docker.io mmdebstrap"
    if sys.version_info[:2] != PYTHON:
        return f"Debian {SUITE}'s Python is {PYTHON}, this one is {sys.version_info[:2]}"
    return None


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """A running engine without networks of its own: containers use the machine's."""
    reason = lacking()
    if reason is not None:
        pytest.skip(reason)
    with running_engine(tmp_path_factory.mktemp("docker")) as engine:
        yield engine


@contextmanager
def running_engine(folder: Path) -> Iterator[DockerEngine]:
    """An engine with its files in `folder`, its images in memory where there is much (a disk takes
    half a minute to remove them); they, its mounts and its processes are gone after the block.
    Raises `RuntimeError` with the end of its log where it does not come up."""
    engine = DockerEngine(f"unix://{folder}/docker.sock", folder)
    data = Path(tempfile.mkdtemp(prefix="segadapt-docker-", dir=roomy(folder)))
    command = [DOCKERD, "-H", engine.uri, "--bridge=none", "--iptables=false", "--ip6tables=false"]
    command += [f"--data-root={data}", f"--exec-root={folder}/exec"]
    command += [f"--pidfile={folder}/pid", "--storage-driver=overlay2"]
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_up(engine, process)
        yield engine
    finally:
        _remove_containers(engine)
        process.terminate()
        process.wait(60)
        subprocess.run(["umount", f"{folder}/exec/netns/default"], stderr=subprocess.DEVNULL)
        shutil.rmtree(data, ignore_errors=True)


def roomy(folder: Path) -> Path:
    """The memory's file system where it has room for images, else `folder`."""
    memory = Path("/dev/shm")
    free = shutil.disk_usage(memory).free if memory.is_dir() else 0
    return memory if min(free, available_memory()) > ROOM_BYTES else folder


def available_memory() -> int:
    """Bytes that programs can still have."""
    (kilobytes,) = re.findall(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    return 1024 * int(kilobytes)


def _wait_until_up(engine: DockerEngine, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while subprocess.run([DOCKER, "-H", engine.uri, "info"], capture_output=True).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            log = (engine.folder / "dockerd.log").read_text(errors="replace")
            raise RuntimeError(f"dockerd does not come up:\n{log[-2000:]}")
        time.sleep(0.1)


def _remove_containers(engine: DockerEngine) -> None:
    listed = subprocess.run([DOCKER, "-H", engine.uri, "ps", "-aq"], capture_output=True, text=True)
    if ids := listed.stdout.split():
        subprocess.run([DOCKER, "-H", engine.uri, "rm", "-f", *ids], capture_output=True)


@pytest.fixture(scope="session")
def base_image(docker_engine: DockerEngine) -> str:
    """Debian with Python, made of Debian's own packages."""
    folder, tar = docker_engine.folder, docker_engine.folder / "base.tar"
    pip_conf = folder / "pip.conf"
    index = os.environ.get("PIP_INDEX_URL")
    lines = ["[global]", f"cert = {CERTIFICATES}", *([f"index-url = {index}"] if index else [])]
    pip_conf.write_text("\n".join(lines) + "\n")
    command = ["/usr/bin/mmdebstrap", "--mode=root", "--variant=minbase", "--quiet"]
    command += ["--include=ca-certificates,python3,python3-venv", "--dpkgopt=force-unsafe-io"]
    # whoever answers for the package index here may be known to this machine alone
    command += [f"--customize-hook=copy-in {CERTIFICATES} {CERTIFICATES.parent}"]
    command += [f"--customize-hook=copy-in {pip_conf} /etc", SUITE, str(tar), *mirror()]
    environment = os.environ | {"TMPDIR": str(roomy(folder))}
    made = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    docker_engine.docker("import", "-c", f"ENV PATH={path}", tar, BASE)
    tar.unlink()
    return BASE


def mirror() -> list[str]:
    """The server of this machine's own Debian packages; none where mmdebstrap has to know one."""
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("debian*")]
    text = "\n".join(path.read_text() for path in sources if path.exists())
    found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s+(\S*debian/?)\s", text, re.MULTILINE)
    return [found[1]] if found else []


@pytest.fixture(scope="session")
def job_image(docker_engine: DockerEngine, base_image: str) -> str:
    """The image that the project's Dockerfile makes, with few packages."""
    context = docker_engine.folder / "context"
    context.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("adapt", "storage", "job_specs"):
        shutil.copytree(ROOT / name, context / name, ignore=unwanted)
    for name in ("Dockerfile", ".dockerignore", "entrypoint.py", "requirements-dev.txt"):
        shutil.copy(ROOT / name, context / name)
    entries = lock_entries((ROOT / "requirements.lock").read_text())
    (context / "requirements.lock").write_text("".join(entries[name] for name in FEW))
    arguments = {"BASE_IMAGE": base_image, "REVISION": REVISION}
    flags = [word for item in arguments.items() for word in ("--build-arg", "=".join(item))]
    docker_engine.docker("build", "-q", "--network=host", *flags, "-t", IMAGE, context)
    return IMAGE


def lock_entries(lock: str) -> dict[str, str]:
    """The lines of each package of requirements.lock, by name; the last where one has several."""
    found = re.findall(r"^(([a-z0-9-]+)==.*\n(?:    --hash=.*\n?)+)", lock, re.MULTILINE)
    return {name: lines for lines, name in found}


def site_packages() -> str:
    """The folder with this environment's packages."""
    return sysconfig.get_path("purelib")
