"""A real Slurm: jobs of `tiny` to their end, stopped, queued again, of two nodes, without memory;
and what the cluster lacks."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from adapt.platforms.platform import Finding, JobStatus, Request, Submission
from adapt.platforms.slurm import client as slurm_client
from adapt.platforms.slurm.client import SlurmClient
from adapt.platforms.slurm.profile import SlurmProfile
from adapt.spec.loading import parse_spec
from tests.commands import ROOT, call
from tests.conftest import tiny_values
from tests.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]  # it is started once

AT_LENGTH = pytest.mark.nightly

SLURM = PLATFORMS["slurm"]
PATIENCE_S = 120.0


class Stack:
    """A cluster, and jobs of `tiny` in this very environment."""

    def __init__(self, cluster: SlurmCluster, data_uri: str, folder: Path) -> None:
        self.cluster, self.data_uri, self.folder = cluster, data_uri, folder
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **cluster.environment}
        self.client: SlurmClient = SLURM.connect(self.profile(), self.environment)

    def profile(self, **changes: Any) -> SlurmProfile:
        values: dict[str, Any] = {
            "platform": "slurm",
            "runtime": "venv",
            "image": sys.prefix,
            "folder": str(self.folder / "logs"),
            "gpus": 0,
            "max_hours": 0.5,
            "grace_s": 60,
            "memory_gb": 2,
            "restarts": 1,
            "environment": {
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "SEGADAPT_SCRATCH_DIR": str(self.folder / "scratch"),
            },
        }
        return validate(SlurmProfile, values | changes)

    def spec(self, run: str, steps: int) -> dict[str, Any]:
        values = tiny_values(self.data_uri, str(self.folder / "runs"))
        values["train"]["steps"] = values["evaluate"]["every_steps"] = steps
        return {**values, "name": run}

    def request(self, run: str = "tiny", steps: int = 4, **changes: Any) -> Request:
        job = parse_spec(self.spec(run, steps), run)
        return SLURM.request(
            Submission(f"{run}-{uuid4().hex[:8]}", job), self.profile(**changes)
        )  # fmt: skip

    def program(self, code: str, **changes: Any) -> Request:
        """A job whose program is `python -c CODE`, in the script that jobs have."""
        request = self.request(**changes)
        path = self.folder / f"{request['name']}.py"
        path.write_text(code)
        script = request["script"].replace("-m adapt run", str(path))
        assert script != request["script"]
        return {**request, "script": script}

    def until(self, job: str, reached: Callable[[JobStatus], bool]) -> JobStatus:
        deadline_s = time.monotonic() + PATIENCE_S
        while not reached(status := self.client.status(job)):
            assert time.monotonic() < deadline_s, (status, self.log(job))
            time.sleep(0.1)
        return status

    def ended(self, job: str) -> JobStatus:
        return self.until(job, lambda status: status.state not in ("waiting", "running"))

    def log(self, job: str) -> list[str]:
        return list(self.client.logs(job, follow=False))

    def says(self, job: str, said: str) -> None:
        self.until(job, lambda _status: any(said in line for line in self.log(job)))


@pytest.fixture(scope="module")
def stack(
    slurm_cluster: SlurmCluster, tiny_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Stack:
    return Stack(slurm_cluster, tiny_uri, tmp_path_factory.mktemp("slurm"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(slurm_client, "POLL_S", 0.2)
    yield


WAITS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("up", flush=True)
time.sleep(100)
"""
AGAIN = """
import os, sys
print("secret", os.environ.get("MY_TOKEN"), "of", os.environ.get("SBATCH_PARTITION"), flush=True)
sys.exit(0 if os.environ.get("SLURM_RESTART_COUNT") else 75)
"""
HUNGRY = """
import time
held = bytearray(200_000_000)
time.sleep(60)
"""


def test_a_job_of_two_nodes_ends_with_0_and_its_log_is_followed(stack: Stack) -> None:
    """Both nodes are this machine: one rank each, which meet by Slurm's own facts."""
    job = stack.client.submit(stack.request("whole", nodes=2, memory_gb=3))
    lines = list(stack.client.logs(job, follow=True))
    status = stack.ended(job)
    assert (status.state, status.exit_code) == ("done", 0), lines
    assert any(line.startswith("done: whole, 4 steps") for line in lines), lines
    ends = [(stack.folder / f"logs/{job}.node{node}").read_text() for node in (0, 1)]
    assert ends == ["0\n", "0\n"], "a second one alone would be refused: the run is in use"
    assert stack.log(job) == lines
    assert stack.client.status(job) in list(stack.client.jobs())


def test_75_is_queued_again_and_then_ends_with_0(stack: Stack) -> None:
    """The program sees the secrets, and no option of the submitter's own session."""
    token = {"MY_TOKEN": "it's $HOME", "SBATCH_PARTITION": "closed"}
    client = SLURM.connect(stack.profile(), stack.environment | token)
    request = stack.program(AGAIN, secrets=["MY_TOKEN"])
    assert "it's" not in json.dumps(request)
    job = client.submit(request)
    status = stack.ended(job)
    assert status == JobStatus(job, "done", "restart 1", 0)
    said = [line for line in stack.log(job) if not line.startswith("slurmstepd")]
    assert [line for line in said if line != "Terminated"] == [
        "secret it's $HOME of None",
        "segadapt: queued again, restart 1 of 1",
        "secret it's $HOME of None",
    ]


def test_a_stopped_job_saves_and_is_not_queued_again(stack: Stack) -> None:
    job = stack.client.submit(stack.program(WAITS))
    stack.says(job, "up")
    stack.client.stop(job)
    status = stack.ended(job)
    assert (status.state, status.exit_code) == ("interrupted", 75)
    assert not any("queued again" in line for line in stack.log(job))
    stack.client.stop(job)
    assert stack.client.status(job) == status


def test_a_job_that_waits_is_taken_out_of_the_queue(stack: Stack) -> None:
    job = stack.client.submit(stack.program(WAITS, options={"begin": "now+1hour"}))
    status = stack.client.status(job)
    assert status == JobStatus(job, "waiting", "BeginTime: queued again, begins soon")
    assert stack.log(job) == []
    stack.client.stop(job)
    assert stack.ended(job) == JobStatus(job, "stopped", "")


def test_a_job_without_memory_is_told_so_with_the_fix(stack: Stack) -> None:
    job = stack.client.submit(stack.program(HUNGRY, memory_gb=0.1))
    status = stack.ended(job)
    assert status.state == "failed", stack.log(job)
    assert status.detail.startswith("out of memory. Fix: raise memory_gb of the profile"), status


def test_what_a_cluster_lacks_is_named(stack: Stack) -> None:
    def red(**changes: Any) -> dict[str, Finding]:
        profile = stack.profile(**changes)
        client = SLURM.connect(profile, stack.environment)
        found = client.check(stack.request(**changes))
        return {one.what: one for one in found if not one.ok}

    assert red() == {}
    assert red(gpus=1, gpu_type="a100") == {}
    lacks = red(partition="gpu")["partition"]
    assert (lacks.found, lacks.fix) == ("no partition gpu", "name one of: short, closed")
    assert red(partition="closed", max_hours=0.1)["partition"].found == "closed is down, 1 nodes"
    too_long = red(max_hours=5)["max_hours"]
    assert (too_long.found, too_long.fix[:17]) == ("5 h of 1", "set max_hours: 1;")
    gpus = red(gpus=2, gpu_type="h100")
    assert gpus["gpus"].found.startswith("2 of type h100; nodes of short have GRES gpu:a100:1")
    unfit = red(cpus=64)["sbatch --test-only"].found
    assert unfit.startswith("nodes: no node of the partition has so many CPUs")
    top = f"/{stack.folder.parts[1]}"  # of data and runs
    absent = red(runtime="apptainer", image="/no.sif", mounts=[{"source": top, "target": top}])
    assert absent.keys() == {"apptainer"}
    assert red(folder="/proc/x")["folder"].found == "/proc/x cannot be written"
    assert red(secrets=["NOT_THERE"])["secret NOT_THERE"].fix == "export NOT_THERE=..."


def test_what_sbatch_refuses_is_told_by_its_key(stack: Stack) -> None:
    for changes, said in (
        ({"partition": "gpu"}, "partition: the cluster has no such partition"),
        ({"gpus": 8}, "nodes: no node of the partition has so many CPUs"),
        ({"options": {"no-such": "1"}}, "options: sbatch has no such option"),
        ({"secrets": ["NOT_THERE"]}, "secrets: expected the variable NOT_THERE"),
    ):
        with pytest.raises(JobError) as caught:
            stack.client.submit(stack.request(**changes))
        assert str(caught.value).startswith(said)


def test_only_jobs_of_ours_are_touched(stack: Stack) -> None:
    wrap = ("sbatch", "--parsable", "--begin=now+1hour", "--output=/dev/null", "--wrap=true")
    other = stack.cluster.command(*wrap)
    for ask in (stack.client.status, stack.client.stop):
        with pytest.raises(JobError, match="JOB: expected a job of SegAdapt, got another"):
            ask(other)
    assert other not in [one.job for one in stack.client.jobs()]
    stack.cluster.command("scancel", other)
    with pytest.raises(JobError, match="JOB: the cluster knows no job 999999"):
        stack.client.status("999999")


@AT_LENGTH
def test_a_job_is_submitted_stopped_and_resumed_by_commands(stack: Stack) -> None:
    """At full length: trained, stopped by `stop`, submitted again, resumed to its end."""
    folder = stack.folder
    (folder / "job.yaml").write_text(yaml.safe_dump(stack.spec("by-commands", steps=40)))
    profile = stack.profile().model_dump(mode="json")
    (folder / "slurm.yaml").write_text(yaml.safe_dump(profile))

    def command(*words: str, code: int = 0) -> str:
        ended = call(*words, folder=folder, environment=stack.environment)
        assert ended.code == code, ended.err
        return ended.out

    sent = json.loads(command("submit", "job.yaml", "--to", "slurm.yaml", "--yes", "--json"))
    stack.says(sent["platform_job"], "step 2/")
    command("stop", sent["job"])
    assert stack.ended(sent["platform_job"]).exit_code == 75
    again = command("submit", "job.yaml", "--to", "slurm.yaml", "--yes", "--follow")
    assert "resumed at step" in again and "done: by-commands, 40 steps" in again
    assert [one["state"] for one in json.loads(command("jobs", "--json"))] == [
        "done",
        "interrupted",
    ]
