"""The tiny job inside ModelArts' environment: its variables, channels, folders, user and hosts.

What is not there is what ModelArts does around it: OBS folders are copied in and out by hand.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from adapt.errors import JobError
from adapt.places import find_place
from adapt.platforms.local_stack import free_ports
from adapt.platforms.modelarts import request
from adapt.platforms.platform import Request, Submission
from adapt.spec.loading import parse_spec
from tests.commands import FORGOTTEN, ROOT, finish
from tests.conftest import tiny_values
from tests.platforms.modelarts_samples import profile_of
from tests.processes import Process

UID, GID = 1000, 100


@pytest.fixture
def node(tiny_uri: str) -> Iterator[Path]:
    """A container's file system below a folder that everybody reaches: /cache, the home of
    ma-user, and the inputs, which ma-user only reads."""
    root = Path(tempfile.mkdtemp(prefix="segadapt-modelarts-"))
    root.chmod(0o755)
    home = root / "home/ma-user/modelarts"
    for folder in ("cache", "home/ma-user/modelarts/log", "mnt/runs"):
        (root / folder).mkdir(parents=True)
    for name in ("checkpoints", "model"):
        (home / "outputs" / f"{name}_0").mkdir(parents=True)
    if os.geteuid() == 0:
        for path in (root, *root.rglob("*")):
            os.chown(path, UID, GID)
    for name in ("source", "target", "validation"):
        shutil.copytree(tiny_uri, home / "inputs" / f"{name}_0")
    yield root
    shutil.rmtree(root)


def tiny_request(runs_uri: str, mounted: Path | None = None, nodes: int = 1) -> Request:
    """The request for the tiny job, its checkpoints in the channel or on a volume."""
    values = tiny_values("obs://towns/tiny", runs_uri)
    values["optim"] = {"schedule_steps": 900}  # so that a run may end sooner than it began with
    outputs = {"model": "obs://towns/models"}
    volumes = [{"kind": "obs", "source": "/towns", "path": str(mounted)}] if mounted else []
    if not mounted:
        outputs["checkpoints"] = "obs://towns/runs"
    profile = profile_of(nodes=nodes, outputs=outputs, volumes=volumes)
    return request(Submission("tiny-1", parse_spec(values, "tiny")), profile)


def variables(asked: Request, root: Path, node: int = 0, hosts: int = 1) -> dict[str, str]:
    """What ModelArts sets in the container of a node."""
    home = root / "home/ma-user/modelarts"
    names = [f"ma-job-1-worker-{number}.ma-job-1" for number in range(hosts)]
    if hosts > 1:
        names[0] = "127.0.0.1"  # all of these hosts are this machine
    channels = {
        one["name"]: str(home / kind / f"{one['name']}_0")
        for kind in ("inputs", "outputs")
        for one in asked["algorithm"].get(kind, [])
    }
    return {
        "MA_HOME": str(root / "home/ma-user"),
        "MA_JOB_DIR": str(home / "user-job-dir"),
        "MA_MOUNT_PATH": str(home),
        "MA_LOG_DIR": str(home / "log"),
        "MA_SCRIPT_INTERPRETER": "",
        "MA_CURRENT_IP": "192.168.23.38",
        "MA_NUM_GPUS": "0",
        "MA_TASK_NAME": "worker",
        "MA_NUM_HOSTS": str(hosts),
        "MA_CURRENT_INSTANCE_NAME": f"modelarts-job-1-worker-{node}",
        "MA_VJ_NAME": "ma-job-1",
        "MA_SCHEDULE_CNT": "1",
        "MA_PROC_START_CNT": "1",
        "VC_TASK_INDEX": str(node),
        "VC_WORKER_NUM": str(hosts),
        "VC_WORKER_HOSTS": ",".join(names),
        "S3_ENDPOINT": "https://obs.cn-north-4.example.com",
        "S3_VERIFY_SSL": "0",
        "NCCL_SOCKET_IFNAME": "bond0,eth0",
        **asked["algorithm"]["environments"],
        **channels,
    }


def start(
    asked: Request, root: Path, *appended: str, node: int = 0, hosts: int = 1, port: int = 0
) -> "subprocess.Popen[str]":
    """The request's command, as ma-user, with ModelArts' variables and nothing else."""
    words = asked["algorithm"]["command"].split()
    assert words[:2] == ["python", "/opt/segadapt/entrypoint.py"]
    process = {"PATH": os.environ["PATH"], "HOME": str(root / "home/ma-user"), "USER": "ma-user"}
    process |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": "/tmp"}
    process |= {"SEGADAPT_ROOT": str(root)} | ({"PET_MASTER_PORT": str(port)} if port else {})
    assert not process.keys() & set(FORGOTTEN)
    return Process(
        [*as_ma_user(), sys.executable, str(ROOT / "entrypoint.py"), *words[2:], *appended],
        cwd=root / "home/ma-user",
        env=process | variables(asked, root, node, hosts),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def as_ma_user() -> Sequence[str]:
    """Where root runs the tests: uid 1000, gid 100, no other rights than to read, since the
    interpreter may lie in a folder of root's."""
    if os.geteuid() != 0:
        return ()
    rights = "-all,+dac_read_search"
    user = ("setpriv", "--reuid", str(UID), "--regid", str(GID), "--clear-groups")
    return (*user, "--inh-caps", rights, "--ambient-caps", rights)


def check_delivered(root: Path, runs: Path, steps: int) -> None:
    """The last checkpoint is there, the best weights are delivered, the cache was used, and all is
    ma-user's."""
    last = f"step-{steps:08d}"
    assert (runs / "tiny" / last / "weights.safetensors").exists()
    delivered = root / "home/ma-user/modelarts/outputs/model_0"
    weights = next(delivered.rglob("weights.safetensors"))
    assert load_file(weights)
    assert (root / "cache/segadapt").is_dir()
    if os.geteuid() == 0:
        for path in (weights, runs / "tiny" / last, root / "cache/segadapt"):
            assert (path.stat().st_uid, path.stat().st_gid) == (UID, GID)


@pytest.mark.slow
def test_the_job_of_the_request_is_stopped_and_goes_on_to_its_end_by_channels_alone(
    node: Path,
) -> None:
    """No key, no URI of a store: the agency brings the data and takes the results. 75 makes
    ModelArts start the job again in a new container, with its checkpoints downloaded."""
    asked = tiny_request("obs://towns/runs")
    runs = node / "home/ma-user/modelarts/outputs/checkpoints_0"
    stopped = start(asked, node, "--train.steps=900", "--evaluate.every_steps=900")
    assert stopped.stderr is not None
    for line in stopped.stderr:
        if "step 2/" in line:
            stopped.send_signal(signal.SIGTERM)
            break
    ended = finish(stopped, timeout_s=400)
    assert ended.code == 75 and "everything is saved" in ended.err, ended.err
    step = _step(runs)
    shutil.rmtree(node / "cache/segadapt")
    more = (f"--train.steps={step + 2}", "--evaluate.every_steps=900")
    ended = finish(start(asked, node, *more), timeout_s=400)
    assert ended.code == 0 and f"resumed at step {step} of {step + 2}" in ended.err, ended.err
    check_delivered(node, runs, step + 2)


@pytest.mark.slow
def test_two_hosts_with_appended_arguments_run_to_the_end(node: Path) -> None:
    runs, home = node / "mnt/runs", node / "home/ma-user/modelarts"
    asked = tiny_request(str(runs), mounted=runs, nodes=2)
    del asked["algorithm"]["inputs"]  # by arguments, as without access_method env
    (port,) = free_ports(1)
    names = ("source", "target", "validation")
    appended = [f"--{name}={home / 'inputs' / f'{name}_0'}" for name in names]
    appended += ["--train.steps=4"]
    second, first = (
        start(asked, node, *appended, node=number, hosts=2, port=port) for number in (1, 0)
    )
    ended = finish(first, timeout_s=400), finish(second, timeout_s=400)
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
    assert "step 4/4" in ended[0].err and "step 4/4" not in ended[1].err
    check_delivered(node, runs, 4)


def _step(runs: Path) -> int:
    newest = max((runs / "tiny").glob("step-*"))
    return int(newest.name.removeprefix("step-"))


def test_the_job_has_one_name_on_all_nodes_and_after_restarts(tmp_path: Path) -> None:
    found = variables(tiny_request("obs://towns/runs"), tmp_path)
    del found["SEGADAPT_JOB"]
    again = found | {"MA_SCHEDULE_CNT": "2", "MA_CURRENT_INSTANCE_NAME": "modelarts-job-1-worker-1"}
    assert find_place(found, tmp_path).job == find_place(again, tmp_path).job == "ma-job-1"
    del found["MA_VJ_NAME"], again["MA_VJ_NAME"]
    assert find_place(found, tmp_path).job == find_place(again, tmp_path).job == "modelarts-job-1"


def test_a_spec_may_come_as_a_channel(tmp_path: Path) -> None:
    marks = {"MA_JOB_DIR": "/job", "spec": str(tmp_path)}
    (tmp_path / "tiny.yaml").touch()
    assert find_place(marks, tmp_path).spec == str(tmp_path / "tiny.yaml")
    (tmp_path / "more.yml").touch()
    with pytest.raises(JobError, match=r"one job spec in the channel spec, got more\.yml, tiny"):
        find_place(marks, tmp_path)
    with pytest.raises(JobError, match="expected one job spec in the channel spec, got none"):
        find_place(marks | {"spec": str(tmp_path / "no")}, tmp_path)


@pytest.mark.parametrize(
    ("node", "hosts", "said"), [("2", "a,b", "got 2 and 2"), ("0", "a", "got 0 and 1")]
)
def test_an_environment_that_contradicts_itself_is_refused(
    tmp_path: Path, node: str, hosts: str, said: str
) -> None:
    found = {"MA_JOB_DIR": "/", "MA_NUM_HOSTS": "2", "VC_TASK_INDEX": node}
    with pytest.raises(JobError, match=f"expected a node below 2 and 2 hosts, .*{said}"):
        find_place(found | {"VC_WORKER_HOSTS": hosts}, tmp_path)


def test_a_port_that_is_taken_on_the_nodes_can_be_changed(tmp_path: Path) -> None:
    marks = {"MA_JOB_DIR": "/job"}
    assert find_place(marks, tmp_path).master_port == 29500
    assert find_place(marks | {"PET_MASTER_PORT": "1234"}, tmp_path).master_port == 1234
