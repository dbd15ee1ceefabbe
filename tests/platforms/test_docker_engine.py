"""docker, for real: our Dockerfile's image in an engine of the tests' own, jobs as uid 1000 with a
read-only root against real SeaweedFS and MLflow."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from mlflow import MlflowClient

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.places import find_place
from adapt.platforms import PLATFORMS
from adapt.platforms.docker.client import DockerClient
from adapt.platforms.docker.profile import DockerProfile
from adapt.platforms.local_stack import S3Server
from adapt.platforms.platform import JobStatus, Request, Submission
from adapt.spec.loading import parse_spec
from adapt.trainer.download import download_best
from tests.commands import Ended, call
from tests.conftest import pack_tiny, tiny_values
from tests.docker_engine import REVISION, DockerEngine, site_packages
from tests.servers import BUCKET, stores_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engine")]  # it is started once

AT_LENGTH = pytest.mark.nightly  # CI builds the image, looks inside, and runs one job in it

DOCKER = PLATFORMS["docker"]
PATIENCE_S = 120.0
SITE = "/usr/local/lib/python3.11/dist-packages"
"""Where Debian's Python, and so the image's, finds what the base brings."""
LOCKED_DOWN = ("--network=host", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL")


class Stack:
    """An engine with our image, the servers, and jobs of `tiny` that use both."""

    def __init__(
        self, engine: DockerEngine, image: str, s3: S3Server, mlflow_uri: str, data_uri: str
    ) -> None:
        self.engine, self.image, self.s3 = engine, image, s3
        self.mlflow_uri, self.data_uri = mlflow_uri, data_uri
        self.environment = s3.environment()
        self.client: DockerClient = DOCKER.connect(self.profile(), self.environment)

    def profile(self, **changes: Any) -> DockerProfile:
        variables = {
            **{name: value for name, value in self.environment.items() if "KEY" not in name},
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "OMP_NUM_THREADS": "1",
        }
        site = {"source": site_packages(), "target": SITE, "read_only": True}
        values: dict[str, Any] = {
            "platform": "docker",
            "image": self.image,
            "engine_uri": self.engine.uri,
            "gpus": 0,
            "network": "host",
            "memory_gb": 3,
            "mounts": [site, *changes.pop("more_mounts", [])],
            "environment": variables,
            "secrets": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
            "grace_s": 120,
        }
        return validate(DockerProfile, values | changes)

    def spec(self, run: str, steps: int = 6) -> dict[str, Any]:
        values = tiny_values(self.data_uri, f"s3://{BUCKET}/runs")
        values["model"]["encoder"] = "mobilenetv3_small_050"
        values["train"]["steps"] = values["evaluate"]["every_steps"] = steps
        return {**values, "name": run}

    def request(self, run: str = "tiny", steps: int = 6, **changes: Any) -> Request:
        job = parse_spec(self.spec(run, steps), run)
        name = f"{run}-{uuid4().hex[:8]}"
        return DOCKER.request(Submission(name, job), self.profile(**changes))

    def run(self, *arguments: object, code: int = 0) -> str:
        """What a command of the image says."""
        site = f"--volume={site_packages()}:{SITE}:ro"
        flags = ("--rm", *LOCKED_DOWN, site)
        return self.engine.docker("run", *flags, self.image, *arguments, code=code)

    def until(self, job: str, reached: Callable[[JobStatus], bool]) -> JobStatus:
        deadline = time.monotonic() + PATIENCE_S
        while not reached(status := self.client.status(job)):
            assert time.monotonic() < deadline, status
            time.sleep(0.2)
        return status

    def ended(self, job: str) -> JobStatus:
        return self.until(job, lambda status: status.state not in ("waiting", "running"))


@pytest.fixture(scope="module")
def stack(
    docker_engine: DockerEngine,
    job_image: str,
    s3_server: S3Server,
    mlflow_uri: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Stack:
    uri = f"s3://{BUCKET}/tiny-{uuid4().hex[:8]}"
    pack_tiny(tmp_path_factory.mktemp("raw"), stores_of(s3_server).open(uri))
    return Stack(docker_engine, job_image, s3_server, mlflow_uri, uri)


@pytest.fixture
def sleeper(stack: Stack) -> Iterator[Callable[..., Request]]:
    """Requests of containers that only wait, as `python -c CODE`."""

    def request(code: str, **changes: Any) -> Request:
        made: Request = stack.request(**changes)
        made["body"] |= {"Entrypoint": ["python", "-c", code], "Cmd": []}
        return made

    yield request


def test_the_image_is_what_platforms_ask_for(stack: Stack) -> None:
    (image,) = json.loads(stack.engine.docker("image", "inspect", stack.image))
    config = image["Config"]
    assert config["User"] == "1000:100" and config["StopSignal"] == "SIGTERM"
    assert config["Labels"]["org.opencontainers.image.revision"] == REVISION
    assert config["Healthcheck"]["Test"][-1].endswith("python -m adapt.launch.health")
    assert not [pair for pair in config["Env"] if "PIP" in pair or "INSTALL" in pair]


def test_the_image_holds_no_compiler_no_installer_and_nothing_to_write_to(stack: Stack) -> None:
    look = """
        id
        command -v gcc cc g++ make pip pip3
        ls -d /opt/installer /opt/venv/bin/pip* /tmp/* /opt/segadapt/tests /opt/segadapt/.git
        find /opt /usr -writable ! -type l
        python -c 'import qoi, xxhash; print(qoi.__file__)'
        ls -d /opt/segadapt/adapt/launch/__pycache__/health.*.pyc
        stat -c '%u:%g' /cache /home/ma-user/work
        python -c 'import sys; print(sys.path)'
    """
    entry = (*LOCKED_DOWN, "--entrypoint=sh", stack.image, "-c", f"({look}) 2>/dev/null")
    who, *rest = stack.engine.docker("run", "--rm", *entry).splitlines()
    assert who == "uid=1000(ma-user) gid=100(ma-group) groups=100(ma-group)"
    qoi, health, *owners, path = rest
    assert qoi.startswith("/opt/venv/lib/") and health.endswith(".pyc")
    assert owners == ["1000:100", "1000:100"]
    assert "'/opt/torch'" in path, "torch's layer"


@AT_LENGTH
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 0, "Train segmentation networks"),
        (("train",), 2, "SPEC: expected a job spec, got none, nor from the platform (docker)"),
        (("run", "/specs/absent.yaml"), 2, "SPEC: expected a YAML file"),
    ],
)
def test_the_image_takes_every_command(
    arguments: tuple[str, ...], code: int, said: str, stack: Stack
) -> None:
    assert said in stack.run(*arguments, code=code)


def test_a_job_runs_to_its_end_and_its_best_checkpoint_is_fetched(
    stack: Stack, tmp_path: Path
) -> None:
    request = stack.request("whole")
    found = list(stack.client.check(request))
    assert all(finding.ok for finding in found), found
    assert {"docker engine", f"image {stack.image}", f"mount {SITE}", "/dev/shm"} <= {
        finding.what for finding in found
    }
    job = stack.client.submit(request)
    lines = list(stack.client.logs(job, follow=True))
    status = stack.ended(job)
    assert (status.state, status.exit_code) == ("done", 0), lines
    assert any(line.startswith("done: whole, 6 steps") for line in lines), lines
    assert list(stack.client.logs(job, follow=False)) == lines
    (run,) = MlflowClient(stack.mlflow_uri).search_runs(
        [e.experiment_id for e in MlflowClient(stack.mlflow_uri).search_experiments()],
        "attributes.run_name = 'whole'",
    )
    assert run.info.status == "FINISHED"
    place, stores = find_place(stack.environment), stores_of(stack.s3)
    best = download_best("whole", tmp_path, stack.mlflow_uri, place, stores=stores)
    assert best.run_name == "whole" and best.weights_path.stat().st_size > 10**6


@AT_LENGTH
def test_a_stopped_job_is_saved_and_goes_on_where_it_is_submitted_again(stack: Stack) -> None:
    steps, healthy = 20, "1 ranks make progress"
    health = ("--workdir=/opt/segadapt", "python", "-m", "adapt.launch.health")
    job = stack.client.submit(stack.request("stopped", steps))
    for line in stack.client.logs(job, follow=True):
        if line.startswith("step 2/"):
            assert stack.engine.docker("exec", health[0], job, *health[1:]) == healthy
            stack.client.stop(job)
            break
    status = stack.ended(job)
    assert (status.state, status.exit_code) == ("interrupted", 75)
    assert any("everything is saved" in line for line in stack.client.logs(job, follow=False))
    store = stores_of(stack.s3).open(f"s3://{BUCKET}/runs/stopped")
    assert store.exists("LATEST")
    again = stack.client.submit(stack.request("stopped", steps))
    lines = list(stack.client.logs(again, follow=True))
    assert stack.ended(again).exit_code == 0, lines
    assert any("resumed at step" in line for line in lines)
    assert any("done: stopped, 20 steps" in line for line in lines)
    assert [status.job for status in stack.client.jobs()][:2] == [again, job]


@AT_LENGTH
def test_a_job_without_memory_is_told_so_with_the_cure(stack: Stack) -> None:
    job = stack.client.submit(stack.request("poor", memory_gb=0.1, shm_gb=0.05))
    status = stack.ended(job)
    assert (status.state, status.exit_code) == ("failed", 137)
    assert status.detail.startswith("out of memory (0.1 GB). Fix: raise memory_gb of the profile")


SILENT = """
import pathlib, tempfile, time
from adapt.launch.rank_status import STATUS_PREFIX, WorkerStatus, write_supervisor
folder = pathlib.Path(tempfile.mkdtemp(prefix=STATUS_PREFIX))
write_supervisor(folder)
status = WorkerStatus(folder, 0)
status.expect_beats(4)
status.beat()
time.sleep(100)
"""


@AT_LENGTH
def test_the_engine_finds_a_job_unhealthy_whose_rank_hangs(
    stack: Stack, sleeper: Callable[..., Request]
) -> None:
    request = sleeper(SILENT)
    request["body"]["WorkingDir"] = "/opt/segadapt"
    request["body"]["Healthcheck"] = {"Interval": 10**9, "StartPeriod": 10**6, "Retries": 1}
    job = stack.client.submit(request)
    status = stack.until(job, lambda status: bool(status.detail))
    assert status.state == "running"
    assert status.detail.startswith("unhealthy: rank 0: no progress for 0."), status


@AT_LENGTH
def test_a_job_that_does_not_stop_is_killed_after_the_grace(
    stack: Stack, sleeper: Callable[..., Request]
) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(100)"
    job = stack.client.submit(sleeper(code, grace_s=2))
    assert next(iter(stack.client.logs(job, follow=True))) == "up"
    begun = time.monotonic()
    stack.client.stop(job)
    assert stack.client.status(job).state == "running"
    status = stack.ended(job)
    assert (status.state, status.exit_code) == ("failed", 137) and "grace" in status.detail
    assert time.monotonic() - begun >= 2


@AT_LENGTH
def test_a_stop_reaches_a_job_that_has_not_begun(
    stack: Stack, sleeper: Callable[..., Request]
) -> None:
    job = stack.client.submit(sleeper("import time; time.sleep(100)"))
    stack.client.stop(job)
    assert stack.ended(job) == JobStatus(job, "stopped", "stopped before it began", 143)


@AT_LENGTH
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": "localhost/absent:1"}, "image: the engine has no such image"),
        ({"gpus": 1}, "gpus: the engine has no GPU runtime"),
        (
            {"more_mounts": [{"source": "/not/there", "target": "/data"}]},
            "mounts: a folder is missing on the engine's machine",
        ),
    ],
)
def test_what_the_engine_refuses_leaves_no_container_and_check_finds_it_too(
    changes: dict[str, Any], said: str, stack: Stack
) -> None:
    before = stack.engine.docker("ps", "-aq")
    with pytest.raises(JobError) as caught:
        stack.client.submit(stack.request(**dict(changes)))
    assert str(caught.value).startswith(said)
    *_, last = stack.client.check(stack.request(**dict(changes)))
    assert not last.ok and last.fix and last.found.partition(" [")[0] in said
    assert stack.engine.docker("ps", "-aq") == before


@AT_LENGTH
def test_a_network_that_is_not_there(stack: Stack, sleeper: Callable[..., Request]) -> None:
    with pytest.raises(JobError, match="network: the engine has no such network"):
        stack.client.submit(sleeper("", network="absent"))


@AT_LENGTH
def test_a_folder_that_the_jobs_user_cannot_write_is_found(stack: Stack, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    mounts = [
        {"source": str(tmp_path), "target": "/runs"},
        {"source": f"cache-{uuid4().hex}", "target": "/cache"},
    ]
    found = {f.what: f for f in stack.client.check(stack.request(more_mounts=mounts))}
    assert not found["mount /runs"].ok
    assert found["mount /runs"].found == f"user 1000:100 cannot write to {tmp_path}"
    assert found["mount /cache"].ok, "a fresh volume belongs to the job's user"


@AT_LENGTH
def test_an_image_that_is_not_ours_is_found(
    stack: Stack, sleeper: Callable[..., Request], base_image: str
) -> None:
    *_, last = stack.client.check(sleeper("", image=base_image))
    assert not last.ok and "python" in last.found


@AT_LENGTH
def test_names_are_taken_once(stack: Stack, sleeper: Callable[..., Request]) -> None:
    request = sleeper("")
    stack.client.submit(request)
    with pytest.raises(JobError, match=r"name: there is a container of this name"):
        stack.client.submit(request)


@AT_LENGTH
def test_only_jobs_of_ours_are_touched(stack: Stack) -> None:
    other = stack.engine.docker("create", "--network=host", stack.image)
    for ask in (stack.client.status, stack.client.stop):
        with pytest.raises(JobError, match="JOB: expected a job of SegAdapt, got another"):
            ask(other)
    with pytest.raises(JobError, match="JOB: the engine has no such job"):
        stack.client.status("absent")


@AT_LENGTH
def test_a_job_is_submitted_followed_and_fetched_by_commands(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(stack.spec("by-commands", steps=3)))
    profile = stack.profile().model_dump(mode="json")
    (tmp_path / "docker.yaml").write_text(yaml.safe_dump(profile))

    def command(*words: str) -> Ended:
        return call(*words, folder=tmp_path, environment=stack.environment)

    followed = command("submit", "job.yaml", "--to", "docker.yaml", "--yes", "--follow")
    assert followed.code == 0 and "step 3/3" in followed.out, followed.err
    (job,) = json.loads(command("jobs", "--json").out)
    assert (job["state"], job["exit_code"]) == ("done", 0) and job["job"] in followed.err
    assert "step 3/3" in command("logs", job["job"]).out
    fetched = command("download-best", job["job"], "--out", "best", "--json")
    assert fetched.code == 0, fetched.err
    assert json.loads(fetched.out)["run_name"] == "by-commands"
    assert (tmp_path / "best/weights.safetensors").stat().st_size > 1e6
