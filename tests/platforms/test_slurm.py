"""slurm: the script, what profiles refuse, and what Slurm's own words come to.

`test_slurm_cluster.py` asks a real cluster; the words here are one's (22.05) or of its manual.
"""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from adapt.platforms.platform import JobStatus, Request, Submission
from adapt.platforms.slurm.checks import _gpus_in, minutes_of
from adapt.platforms.slurm.job_status import STATES, facts_of, of_accounting, of_controller
from adapt.platforms.slurm.profile import SlurmProfile
from adapt.platforms.slurm.refusals import refusal_of
from adapt.platforms.slurm.shell import Shell
from adapt.spec.loading import parse_spec
from storage.errors import StoreUnavailable
from tests.conftest import tiny_values
from tests.platforms.predict_samples import LINKED, SET

GOLDEN = Path(__file__).parent / "golden"
SLURM = PLATFORMS["slurm"]

ONE_NODE = {
    "partition": "gpu",
    "account": "town",
    "qos": "normal",
    "gpus": 4,
    "gpu_type": "a100",
    "cpus": 32,
    "memory_gb": 128,
    "max_hours": 12,
    "restarts": 3,
    "setup": ["module load apptainer"],
    "mounts": [
        {"source": "/shared/data", "target": "/data", "read_only": True},
        {"source": "/shared/runs", "target": "/runs"},
    ],
    "options": {"constraint": "nvlink", "exclusive": None},
    "environment": {"MLFLOW_TRACKING_URI": "http://mlflow:5000/a b"},
    "secrets": ["AWS_SECRET_ACCESS_KEY"],
}
GOLDENS: dict[str, dict[str, Any]] = {
    "slurm_apptainer": ONE_NODE,
    "slurm_pyxis": {
        "runtime": "pyxis",
        "image": "registry.example#team/segadapt:0.1.0",
        "nodes": 2,
        "gpus": 8,
        "gpus_by": "gpus-per-node",
        "cpus": 64,
        "mounts": ONE_NODE["mounts"],
    },
    "slurm_venv": {"runtime": "venv", "image": "/shared/venv", "nodes": 2, "gpus": 0},
}


def profile(**changes: Any) -> SlurmProfile:
    values = {"platform": "slurm", "image": "/shared/segadapt.sif", "folder": "/shared/logs"}
    return validate(SlurmProfile, values | changes)


def request(uri: str = "s3://bucket/tiny", **changes: Any) -> Request:
    job = parse_spec(tiny_values(uri, "s3://bucket/runs"), "tiny")
    return SLURM.request(Submission("tiny-261127-120000", job), profile(**changes))


def spec_of(script: str) -> str:
    (line,) = (one for one in script.splitlines() if "SEGADAPT_SPEC_BASE64=" in one)
    return line.partition("=")[2]


@pytest.mark.parametrize("name", GOLDENS)
def test_the_script_is_the_golden_one(name: str) -> None:
    """Regenerate golden/slurm_*.sh by hand: a person has to have read a script."""
    made = request(**GOLDENS[name])
    assert {key: made[key] for key in ("name", "folder", "secrets")} == {
        "name": "tiny-261127-120000",
        "folder": "/shared/logs",
        "secrets": GOLDENS[name].get("secrets", []),
    }
    script = made["script"]
    assert script.replace(spec_of(script), "SPEC") == (GOLDEN / f"{name}.sh").read_text()


@pytest.mark.parametrize("name", GOLDENS)
def test_bash_reads_the_script(name: str, tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    path.write_text(request(**GOLDENS[name])["script"])
    read = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {"time": "5"}}, r"options: expected options that no key .*max_hours"),
        ({"options": {"array": "0-7"}}, r"got array\. Fix: submit each run of a sweep by itself"),
        ({"options": {"--mem": "5"}}, "options: expected long options without dashes"),
        ({"options": {"comment": "x"}}, "got comment. Fix: remove it"),
        ({"options": {"constraint": "a b"}}, "constraint: expected a value without spaces"),
        ({"partition": "two words"}, "partition: expected one word"),
        ({"folder": "logs"}, "folder: expected an absolute path"),
        ({"login": "-oProxyCommand=x"}, "login: expected USER@HOST"),
        ({"runtime": "venv", "mounts": ONE_NODE["mounts"], "image": "/v"}, "mounts: expected none"),
        ({"runtime": "venv", "image": "segadapt:1"}, "image: expected the absolute path of a virt"),
        ({"max_hours": 0.02}, "max_hours: expected more than grace_s"),
        ({"setup": ["#SBATCH --qos=x"]}, "setup: expected single lines"),
        ({"secrets": ["A"], "environment": {"A": "b"}}, "secrets: expected names that are not in"),
    ],
)
def test_what_a_profile_refuses(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        profile(**changes)


def test_paths_are_those_of_mounts_and_without_a_container_the_nodes_own() -> None:
    with pytest.raises(JobError, match=r"source.uri: expected .*a folder of the profile's mounts"):
        request("/data/tiny")
    request("/data/tiny", mounts=ONE_NODE["mounts"])
    request("/anywhere", runtime="venv", image="/v")
    with pytest.raises(JobError, match=r"source.uri: expected"):
        request("anywhere", runtime="venv", image="/v")
    bound = profile(mounts=ONE_NODE["mounts"])
    assert bound.outside("/data/a") == "the nodes' /shared/data/a"
    assert bound.here("/runs/a") == "/shared/runs/a"
    assert profile(mounts=ONE_NODE["mounts"], login="me@far").here("/runs/a") is None


def test_a_slice_is_a_process_of_one_node_and_one_gpu() -> None:
    with pytest.raises(JobError, match="nodes: expected 1, since a slice is one process, got 2"):
        SLURM.predict(SET, profile(nodes=2))
    with pytest.raises(JobError, match="gpus: expected 0 or 1"):
        SLURM.predict(SET, profile(gpus=2))
    local = LINKED._replace(inputs=("/data/a",), out="/runs/b")
    SLURM.predict(local, profile(mounts=ONE_NODE["mounts"]))
    with pytest.raises(JobError, match=r"--out: expected .* a path below /runs"):
        SLURM.predict(local._replace(out="/data/b"), profile(mounts=ONE_NODE["mounts"]))
    with pytest.raises(JobError, match="--spec: expected at most 131050 characters"):
        SLURM.predict(SET._replace(spec="x" * 140_000), profile())


def test_the_price_counts_every_start() -> None:
    assert profile(max_hours=10, restarts=2).longest_hours() == 30
    assert not SLURM.restarts(profile(restarts=0)) and SLURM.restarts(profile())
    assert profile(gpu_type="v100").gpu_model() == "v100"


def test_every_state_of_slurm_has_one_of_ours() -> None:
    """Job states of the manual of squeue."""
    manual = """
    BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY
    PENDING PREEMPTED RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED
    SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED SUSPENDED TIMEOUT
    """
    assert STATES.keys() == set(manual.split())


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("PENDING Reason=Resources ExitCode=0:0", ("waiting", "Resources", None)),
        ("PENDING Reason=BeginTime Restarts=2 ExitCode=0:0",
         ("waiting", "BeginTime: queued again, begins soon, restart 2", None)),
        ("PENDING Reason=QOSMaxGRESPerUser ExitCode=0:0",
         ("waiting", "QOSMaxGRESPerUser: a limit of the quality of service. Fix: wait, or another "
          "qos", None)),
        ("RUNNING Reason=None ExitCode=0:0", ("running", "", None)),
        ("COMPLETING Reason=None Restarts=1 ExitCode=0:0", ("running", "completing, restart 1",
                                                           None)),
        ("COMPLETED Reason=None ExitCode=0:0", ("done", "", 0)),
        ("FAILED Reason=NonZeroExitCode ExitCode=75:0",
         ("interrupted", "saved; submit it again to resume", 75)),
        ("FAILED Reason=NonZeroExitCode ExitCode=2:0",
         ("failed", "job spec; see the end of its log", 2)),
        ("FAILED Reason=RaisedSignal:15 ExitCode=0:15",
         ("stopped", "stopped before it began", 143)),
        ("FAILED Reason=NonZeroExitCode ExitCode=77:0",
         ("failed", "see docs/reliability.md; see the end of its log", 77)),
        ("CANCELLED Reason=None ExitCode=0:15", ("stopped", "", None)),
        ("NODE_FAIL Reason=NodeDown ExitCode=1:0",
         ("interrupted", "a node failed. Fix: submit it again to resume", None)),
    ],
)  # fmt: skip
def test_what_the_controller_says(said: str, status: tuple[str, str, int | None]) -> None:
    line = f"JobId=7 JobName=a UserId=me(1) JobState={said} Comment=segadapt  StdErr=/a.log"
    assert of_controller(facts_of(line)) == JobStatus("7", *status)  # type: ignore[arg-type]
    assert facts_of(line)["Comment"] == "segadapt"


def test_what_accounting_says() -> None:
    assert of_accounting("7", "COMPLETED|0:0") == JobStatus("7", "done", "", 0)
    assert of_accounting("7", "CANCELLED by 1000|0:0").state == "stopped"
    assert of_accounting("7", "TIMEOUT|0:0").detail.startswith("not saved within grace_s")
    memory = of_accounting("7", "OUT_OF_MEMORY|0:125")
    assert (memory.state, memory.exit_code) == ("failed", 253)
    assert of_accounting("7", "FAILED|0:9").detail.startswith("killed: out of memory")


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("sbatch: error: invalid partition specified: gpuu\nsbatch: error: Batch job submission "
         "failed: Invalid partition name specified", "partition"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition "
         "combination specified", "account"),
        ("sbatch: error: Invalid generic resource (gres) specification", "gpus"),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or "
         "exceeds some limit)", "max_hours"),
        ("sbatch: error: Memory specification can not be satisfied", "memory_gb"),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "qos"),
        ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job "
         "submit limit, user's size and/or time limits)", "account"),
        ("sbatch: error: something new", "slurm"),
    ],
)  # fmt: skip
def test_what_sbatch_refuses(said: str, key: str) -> None:
    refusal = refusal_of(said)
    assert refusal.key == key and refusal.fix
    assert said.rpartition("error: ")[2] in refusal.found


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("UNLIMITED", None), ("01:00:00", 60), ("7-00:00:00", 10_080), ("30", 30), ("00:30", 0.5)],
)
def test_limits_of_time(limit: str, minutes: float | None) -> None:
    assert minutes_of(limit) == minutes


def test_gpus_in_generic_resources() -> None:
    gres = "gpu:a100:4(S:0-1),gpu:t4:2,nvme:1"
    assert (_gpus_in(gres, None), _gpus_in(gres, "t4"), _gpus_in("(null)", None)) == (6, 2, 0)
    assert _gpus_in("gpu:4", None) == 4


def tools(folder: Path, **programs: str) -> dict[str, str]:
    """An environment whose PATH has these programs of sh before the system's."""
    for name, text in programs.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_commands_run_over_ssh_on_the_login_node(tmp_path: Path) -> None:
    """The program and its secrets are on standard input, not on a command line."""
    environment = tools(tmp_path, ssh=f'echo "$@" > {tmp_path}/words; exec sh -s')
    answer = Shell("me@login", environment).run("echo hello; echo secret >&2; exit 3")
    assert (answer.code, answer.text, answer.errors) == (3, "hello\n", "secret\n")
    words = (tmp_path / "words").read_text().split()
    assert words[:2] == ["-o", "BatchMode=yes"] and words[-3:] == ["me@login", "sh", "-s"]


def test_what_is_unreachable_or_missing_is_told(tmp_path: Path) -> None:
    denied = tools(tmp_path, ssh="echo 'me@login: Permission denied (publickey).' >&2; exit 255")
    with pytest.raises(StoreUnavailable, match=r"me@login: unreachable \[.*Permission denied.*ssh"):
        Shell("me@login", denied).run("sinfo")
    down = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2"
    with pytest.raises(
        StoreUnavailable, match=r"on this machine: unreachable .*see whether `sinfo"
    ):
        Shell(None, tools(tmp_path, squeue=f"{down}; exit 1")).run("squeue")
    with pytest.raises(JobError, match="slurm: expected its commands on this machine, got none"):
        Shell(None, {"PATH": "/usr/bin:/bin"}).run("a-command-of-slurm")
    with pytest.raises(JobError, match="login: expected the command ssh on this machine"):
        Shell("me@login", {"PATH": str(tmp_path / "none")}).run("true")


def test_a_job_that_the_controller_forgot_is_told_by_its_own_file(tmp_path: Path) -> None:
    said = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    client = SLURM.connect(profile(folder=str(tmp_path)), tools(tmp_path, scontrol=said))
    (tmp_path / "7.end").write_text("75\n")
    assert client.status("7") == JobStatus("7", "interrupted", "saved; submit it again to resume",
                                           75)  # fmt: skip
    with pytest.raises(JobError, match="the cluster knows no job 8"):
        client.status("8")
    with pytest.raises(JobError, match="JOB: expected the number of a Slurm job, got 'tiny-1; ls'"):
        client.status("tiny-1; ls")


def test_the_log_is_asked_for_the_cause_once_the_job_has_ended(tmp_path: Path) -> None:
    """A job may be killed while its status is read."""
    killed = "echo JobId=7 JobState=FAILED ExitCode=0:9 Comment=segadapt"
    said = f"echo slurmstepd: error: Job 7 exceeded memory limit >> {tmp_path}/7.log; {killed}"
    client = SLURM.connect(profile(folder=str(tmp_path)), tools(tmp_path, scontrol=said))
    assert client.status("7").detail.startswith("out of memory. Fix: raise memory_gb")


def test_a_log_is_read_from_where_it_was_left(tmp_path: Path) -> None:
    said = "echo JobId=7 JobState=RUNNING Comment=segadapt"
    client = SLURM.connect(profile(folder=str(tmp_path)), tools(tmp_path, scontrol=said))
    path = tmp_path / "7.log"
    path.write_text("one\nhalf")
    from adapt.platforms.slurm.logs import JobLog

    log = JobLog(client._shell, str(path))
    assert list(log.new_lines(is_last=False)) == ["one"]
    with path.open("a") as file:
        file.write(" line\nlast")
    assert list(log.new_lines(is_last=True)) == ["half line", "last"]
    assert list(client.logs("7", follow=False)) == ["one", "half line", "last"]


@pytest.mark.parametrize(
    ("codes", "srun", "ends"), [((75, 2), 75, 2), ((75, 0), 75, 75), ((0, 0), 0, 0), ((), 137, 137)]
)
def test_a_nodes_failure_is_not_hidden_by_75_of_others(
    codes: tuple[int, ...], srun: int, ends: int, tmp_path: Path
) -> None:
    """srun ends with the highest code, so one node's mistake would be queued again for ever."""
    script = request(folder=str(tmp_path), nodes=2, gpus=0, restarts=0)["script"]
    left = "; ".join(f"echo {code} > {tmp_path}/9.node{node}" for node, code in enumerate(codes))
    environment = tools(tmp_path, srun=f"{left or ':'}; exit {srun}") | {"SLURM_JOB_ID": "9"}
    ended = subprocess.run(["bash"], input=script, text=True, env=environment)
    assert ended.returncode == ends and (tmp_path / "9.end").read_text() == f"{ends}\n"
