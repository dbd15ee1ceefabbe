"""`run`: faults, signals, platforms."""

import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapt.config.strict_yaml import packed
from adapt.spec.job_spec import JobSpec
from adapt.trainer.outcome import Outcome
from storage.retry import outages_waited_for
from tests.cli.conftest import SECONDS, refused, write_spec
from tests.commands import ROOT, call, finish, start, start_python
from tests.conftest import tiny_values


def test_a_truncated_shard(tiny_uri: str, spec: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", tiny_uri, copy], check=True)
    for shard in (copy / "train").glob("shard-*.tar"):
        shard.write_bytes(shard.read_bytes()[:-1000])
    ended = call("run", spec, "--set", f"source.uri={copy}", folder=tmp_path)
    refused(ended, 3, "truncated or damaged shard", "shard-0000")


def s3_settings(endpoint_url: str) -> tuple[str, ...]:
    keys = "access_key_env: TEST_ACCESS, secret_key_env: TEST_SECRET, region: us-east-1"
    return ("--set", f"stores.s3={{endpoint_url: '{endpoint_url}', addressing: path, {keys}}}")


def test_buckets_and_keys_that_do_not_fit(spec: Path, tmp_path: Path, s3_server: Any) -> None:
    stores = s3_settings(s3_server.endpoint_url)
    keys = {"TEST_ACCESS": s3_server.access_key, "TEST_SECRET": s3_server.secret_key}
    started_s = time.monotonic()
    for key in ("source.uri", "checkpoint.uri"):
        uri = ("--set", f"{key}=s3://no-such-bucket/x")
        ended = call("run", spec, *stores, *uri, folder=tmp_path, environment=keys)
        refused(ended, 3, "no-such-bucket")
        wrong = keys | {"TEST_SECRET": "wrong"}
        uri = ("--set", f"{key}=s3://tests/x")
        ended = call("run", spec, *stores, *uri, folder=tmp_path, environment=wrong)
        refused(ended, 3, "s3://tests/x", "TEST_SECRET")
    assert time.monotonic() - started_s < 4 * SECONDS


def test_a_store_that_does_not_answer_is_waited_for(
    absent_uri: str, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = partial(outages_waited_for, longest_s=2.0)
    monkeypatch.setattr("adapt.trainer.opening.outages_waited_for", shorter)
    keys = {"TEST_ACCESS": "a", "TEST_SECRET": "b"}
    uri = ("--set", "source.uri=s3://bucket/x")
    started_s = time.monotonic()
    ended = call("run", spec, *s3_settings(absent_uri), *uri, folder=tmp_path, environment=keys)
    refused(ended, 3, "s3://bucket/x", absent_uri)
    assert ended.err.count("retrying for up to 2 s") == 1
    assert 0.3 < time.monotonic() - started_s < 2 * SECONDS


def test_checkpoints_that_cannot_be_written(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    started_s = time.monotonic()
    ended = call("run", spec, folder=tmp_path)
    refused(ended, 3, f"expected folders as parts of the path, got a file ({tmp_path}/runs)")
    assert time.monotonic() - started_s < SECONDS


@pytest.mark.slow
def test_a_full_disk(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path / "runs"]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("needs the right to mount a small disk")
    try:
        ended = call(
            "run", spec, "--set", f"tracking.uri=sqlite:///{tmp_path}/m.db", folder=tmp_path
        )
        refused(ended, 3, "the disk is full", "step-00000003")
        left = list((tmp_path / "runs").rglob("*"))
        assert not [path for path in left if path.name in ("manifest.json", "LATEST", "BEST.json")]
    finally:
        subprocess.run(["umount", tmp_path / "runs"], check=True)


@pytest.mark.slow
def test_mlflow_that_does_not_answer_costs_no_job(
    absent_uri: str, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt.tracking.delivery._FAILING_WAIT_S", 1.0)
    ended = call("run", spec, "--set", f"tracking.uri={absent_uri}", folder=tmp_path)
    assert ended.code == 0 and "done: tiny, 6 steps" in ended.err
    (spool,) = (tmp_path / "scratch" / "tracking").glob("*.jsonl")
    assert "is unreachable" in ended.err
    assert "they are buffered in" in ended.err and str(spool) in ended.err


LONG = ("--set", "train.steps=12", "--set", "evaluate.every_steps=100")


@pytest.fixture(scope="module")
def calm(tiny_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adversarial run of 12 steps that nobody disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    ended = call("run", write_spec(tiny_values(tiny_uri, "runs"), folder), *LONG, folder=folder)
    assert ended.code == 0, ended.err
    return folder


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "runs" / "tiny" / "step-00000012" / "weights.safetensors")


@pytest.mark.slow
@pytest.mark.cold_start
def test_modules_in_the_folder_of_a_job_are_not_imported(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit('the folder went before the packages')")
    ended = finish(start("run", spec, "--set", "train.stepz=1", folder=tmp_path))
    refused(ended, 2, "train.stepz: unknown key")


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.cold_start),
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
    ids=lambda number: number.name,
)
def test_a_job_that_got_a_signal_goes_on_bit_for_bit(
    number: signal.Signals, calm: Path, spec: Path, tmp_path: Path
) -> None:
    every_step = ("--set", "checkpoint.every_steps=1") if number == signal.SIGKILL else ()
    process = start("run", spec, *LONG, *every_step, folder=tmp_path)
    seen = wait_for_line(process, "step 4/12")
    process.send_signal(number)
    ended = finish(process)
    if number == signal.SIGKILL:
        assert ended.code == -signal.SIGKILL
    else:
        assert ended.code == 75, seen + ended.err
        assert f"{number.name}: saving at the next step" in ended.err
        assert "everything is saved" in ended.err and "Traceback" not in ended.err
    again = call("run", spec, *LONG, folder=tmp_path)
    first = "step 1/12" if number == signal.SIGKILL else "step 3/12"  # the last upload was cut off
    assert again.code == 0 and first not in again.err and "step 12/12" in again.err
    expected, found = last_weights(calm), last_weights(tmp_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.slow
def test_a_supervisor_imports_no_torch(spec: Path, tmp_path: Path) -> None:
    program = ("-X", "importtime", ROOT / "entrypoint.py", "run", spec, "--set", "train.steps=0")
    ended = finish(start_python(*program, folder=tmp_path))
    assert ended.code == 2 and ended.err.count("train.steps: expected a positive integer") == 1
    imported = {line.rpartition("|")[2].strip() for line in ended.err.splitlines()}
    assert "adapt.launch.supervisor" in imported
    assert imported & {"torch", "numpy", "PIL", "mlflow", "boto3"} == set()


def wait_for_line(process: subprocess.Popen[str], start_of_line: str) -> str:
    """Read what the process reports until a line starts so."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(start_of_line):
            return "".join(seen)
    raise AssertionError(f"no line {start_of_line!r} in:\n{''.join(seen)}")


PYTORCHJOB = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "PET_NNODES": "1",
    "MASTER_ADDR": "p-master-0",
    "RANK": "0",
}


@pytest.mark.parametrize(("ended", "expected"), [(75, 143), (0, 0), (3, 3)])
def test_an_interruption_has_the_code_that_the_platform_retries(
    ended: int, expected: int, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt.launch.supervisor.launch", lambda *_given: ended)
    found = call("run", spec, "--processes", 1, folder=tmp_path, environment=PYTORCHJOB)
    assert found.code == expected, found.err


def test_a_job_takes_what_the_platform_says(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[JobSpec] = []

    def trained(job: JobSpec, *_given: object) -> Outcome:
        seen.append(job)
        return Outcome(job.train.steps, None, {}, "miou")

    monkeypatch.setattr("adapt.trainer.run.run_job", trained)
    platform = {"MA_VJ_NAME": "v", "checkpoints": "/out/checkpoints", "source": "/in/source"}
    environment = {**platform, "SEGADAPT_SPEC_BASE64": packed(spec.read_text())}
    arguments = ("--train.steps=9", "--source=/in/other", "--set", "seed=5")
    ended = call("run", *arguments, folder=tmp_path, environment=environment)
    assert ended.code == 0, ended.err
    (job,) = seen
    assert (job.source.uri, job.checkpoint.uri) == ("/in/other", "/out/checkpoints")
    assert (job.train.steps, job.seed, job.name) == (9, 5, "tiny")


def test_a_platform_that_contradicts_itself_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/termination-log").touch()
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "VC_TASK_INDEX": "0"}
    ended = call("run", "x.yaml", "--processes", 1, folder=tmp_path, environment=pod)
    refused(ended, 2, "VC_WORKER_HOSTS: expected the pods of a task named `worker`")
    shown = (tmp_path / "dev/termination-log").read_text()
    assert shown.startswith("JobError: VC_WORKER_HOSTS: expected the pods")


def test_a_platform_that_repeats_commands_takes_no_fresh(spec: Path, tmp_path: Path) -> None:
    ended = call("run", spec, "--fresh", folder=tmp_path, environment=PYTORCHJOB)
    refused(
        ended,
        2,
        "--fresh: expected a run on this machine, got one on pytorchjob, which",
    )
