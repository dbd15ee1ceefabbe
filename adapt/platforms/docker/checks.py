"""Findings of `check` about a Docker engine: from its description, and from a short container with
the job's user, mounts, limits and GPUs."""

from collections.abc import Iterator, Mapping
from typing import Any

from adapt.platforms.docker.stop import is_hasty
from adapt.platforms.platform import Finding, Request

SHM_BYTES = 10**9
"""Shared memory that NCCL needs between the ranks of several GPUs."""

PROBE = """\
import glob, json, os, shutil, subprocess, sys
smi = shutil.which("nvidia-smi")
listed = subprocess.run([smi, "-L"], capture_output=True, text=True).stdout if smi else ""
shm = os.statvfs("/dev/shm")
print(json.dumps({
    "writable": {path: os.access(path, os.W_OK) for path in sys.argv[1:]},
    "shm_bytes": shm.f_frsize * shm.f_blocks,
    "gpus": listed.count("GPU ") or len(glob.glob("/dev/nvidia[0-9]*")),
}))
"""
"""Runs inside the image; its arguments are the mounts' targets."""


def findings_of_engine(info: Mapping[str, Any], request: Request) -> Iterator[Finding]:
    """The engine's version and memory against the limit that the request sets."""
    total, version = int(info["MemTotal"]), str(info["ServerVersion"])
    seen = f"{version}, {info['NCPU']} CPUs, {total / 10**9:.0f} GB"
    if is_hasty(version):
        seen += (
            "; this version kills a job unsaved when a stop is not waited for: wait until `stop` "
            "ends, or update the engine to 23.0.7, 24.0.3 or later"
        )
    yield Finding("docker engine", True, seen)
    limit = request["body"]["HostConfig"].get("Memory")
    if limit is None:
        return
    if not info["MemoryLimit"]:
        fix = "enable the memory cgroup of its machine (kernel: cgroup_enable=memory)"
        yield Finding("memory_gb", False, "the engine cannot limit memory", fix)
        return
    found = f"{limit / 10**9:g} GB of the machine's {total / 10**9:.0f}"
    yield Finding("memory_gb", limit <= total, found, "lower memory_gb of the profile")


def findings_of_probe(probe: Mapping[str, Any], body: Mapping[str, Any]) -> Iterator[Finding]:
    """The findings of the short container: each mount, /dev/shm, the GPUs."""
    config = body["HostConfig"]
    for mount in config["Mounts"]:
        yield _of_mount(mount, bool(probe["writable"][mount["Target"]]), body["User"])
    requests = config.get("DeviceRequests") or []
    gpus = sum(len(one.get("DeviceIDs", ())) or one["Count"] for one in requests)
    needed = SHM_BYTES if gpus > 1 else 0
    yield Finding(
        "/dev/shm",
        probe["shm_bytes"] >= needed,
        f"{probe['shm_bytes'] / 10**9:g} GB",
        "set shm_gb: 1 in the profile, which several GPUs need",
    )
    if gpus:
        fix = "lower gpus of the profile to what nvidia-smi lists on the engine's machine"
        yield Finding("gpus", probe["gpus"] >= gpus, f"{probe['gpus']} of {gpus}", fix)


def _of_mount(mount: Mapping[str, Any], writable: bool, user: str) -> Finding:
    what = f"mount {mount['Target']}"
    if mount["ReadOnly"]:
        return Finding(what, True, f"{mount['Source']}, read only")
    where = mount["Source"] if mount["Type"] == "bind" else "the volume's folder"
    found = "writable" if writable else f"user {user} cannot write to {mount['Source']}"
    fix = f"run sudo chown {user} {where} on the engine's machine, or set read_only: true"
    return Finding(what, writable, found, fix)
