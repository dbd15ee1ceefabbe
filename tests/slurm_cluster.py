"""A session fixture: a real Slurm of two nodes, both this machine, on loopback.

It needs root and Debian's packages slurmctld, slurmd, slurm-client and munge. The nodes are named
`localhost` and after this machine, so that jobs of two nodes find each other. Memory is limited by
polling (OverMemoryKill), since a container's cgroups may not be ours; there is no accounting, and
a requeued job waits for 5 seconds, the least, where Slurm's default is 120.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from adapt.platforms.local_stack import free_ports

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
START_S = 30.0
PARTITIONS = """\
PartitionName=short Nodes=ALL Default=YES MaxTime=60 State=UP
PartitionName=closed Nodes=localhost MaxTime=10 State=DOWN
"""


class SlurmCluster(NamedTuple):
    """A running cluster; `environment` is what its commands need."""

    folder: Path
    environment: dict[str, str]

    def command(self, *words: object) -> str:
        """What a command of Slurm says."""
        ended = subprocess.run(
            [*map(str, words)],
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout.strip()


def lacking() -> str | None:
    """Why no cluster can be started here."""
    if os.geteuid() != 0:
        return "a Slurm of the tests' own needs root"
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge"
    if socket.gethostname() in ("", "localhost"):
        return "this machine has no name of its own for a second node"
    return None


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A running cluster of two nodes."""
    reason = lacking()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster() as cluster:
        yield cluster


@contextmanager
def running_cluster() -> Iterator[SlurmCluster]:
    """A cluster with its files in a folder of its own, gone after the block. Raises `RuntimeError`
    with the end of the controller's log where it does not come up."""
    folder = Path(tempfile.mkdtemp(prefix="segadapt-slurm-"))  # munge refuses writable parents
    folder.chmod(0o755)
    conf = _write_configuration(folder)
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(_start(folder, "munged", *_munge_options(folder)))
        _until((folder / "munge.socket").exists, folder)
        started.append(_start(folder, "slurmctld", "-D", "-f", conf))
        for node in ("localhost", socket.gethostname()):
            started.append(_start(folder, "slurmd", "-D", "-N", node, "-f", conf))
        cluster = SlurmCluster(folder, {"SLURM_CONF": str(conf)})
        _until(lambda: _idle_nodes(cluster) == 2, folder)
        yield cluster
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, *command: object) -> "subprocess.Popen[bytes]":
    with (folder / "daemons.log").open("ab") as log:
        return subprocess.Popen(
            [*map(str, command)], stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip


def _munge_options(folder: Path) -> list[str]:
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    files["key-file"] = "key"
    options = [f"--{option}={folder}/munge.{name}" for option, name in files.items()]
    return ["--force", "--foreground", *options]


def _write_configuration(folder: Path) -> Path:
    (folder / "state").mkdir()
    name, ports = socket.gethostname(), free_ports(3)
    values = {
        "ClusterName": "segadapt",
        "SlurmctldHost": "localhost(127.0.0.1)",
        "SlurmctldPort": ports[0],
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        "AuthInfo": f"socket={folder}/munge.socket,cred_expire=5",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": f"{folder}/spool.%n",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": f"{folder}/slurmd.%n.pid",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        "JobAcctGatherParams": "OverMemoryKill",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "SchedulerParameters": "sched_interval=1,batch_sched_delay=0,bf_interval=1",
        "AccountingStorageType": "accounting_storage/none",
        "SlurmdParameters": "config_overrides",  # more CPUs than this machine may have
        "ReturnToService": 2,
        "KillWait": 10,
        "GresTypes": "gpu",
    }
    node = "CPUs=4 RealMemory=8000 NodeAddr=127.0.0.1"
    lines = [f"{key}={value}" for key, value in values.items()]
    lines.append(f"NodeName={name} {node} Port={ports[2]}")  # first: Slurm renames localhost
    lines.append(f"NodeName=localhost {node} Port={ports[1]} Gres=gpu:a100:1")
    conf = folder / "slurm.conf"
    conf.write_text("\n".join(lines) + f"\n{PARTITIONS}")
    (folder / "gres.conf").write_text("NodeName=localhost Name=gpu Type=a100 File=/dev/null\n")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    return conf


def _idle_nodes(cluster: SlurmCluster) -> int:
    listed = subprocess.run(
        ["sinfo", "-h", "-N", "-p", "short", "-o", "%T"],
        env=os.environ | cluster.environment,
        capture_output=True,
        text=True,
    )
    return listed.stdout.split().count("idle")


def _until(reached: Callable[[], bool], folder: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while not reached():
        if time.monotonic() > deadline_s:
            log = (folder / "daemons.log").read_text(errors="replace")
            raise RuntimeError(f"Slurm does not come up:\n{log[-2000:]}")
        time.sleep(0.1)
