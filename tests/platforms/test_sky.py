"""sky: tasks of SkyPilot, what profiles refuse, the script on a node, the client against a strict
double of the command, and the golden tasks against SkyPilot itself where it is installed."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.platforms import PLATFORMS, following
from adapt.platforms.platform import JobStatus, Request, Submission
from adapt.platforms.sky import client as sky_client
from adapt.platforms.sky import script
from adapt.platforms.sky.job_status import STATES, exit_code_in, status_of
from adapt.platforms.sky.profile import SkyProfile
from adapt.platforms.sky.program import records_in
from adapt.platforms.sky.refusals import refusal_of
from adapt.platforms.sky.script import HOOK, is_ours, run_script, submitted
from adapt.spec.loading import parse_spec
from storage.errors import StoreUnavailable
from tests.conftest import tiny_values
from tests.platforms import sky_double
from tests.platforms.predict_samples import SET
from tests.platforms.sky_double import faults, installed, set_job

GOLDEN = Path(__file__).parent / "golden"
SKY = PLATFORMS["sky"]
NAME = "tiny-261127-120000"

GOLDENS: dict[str, dict[str, Any]] = {
    "sky_spot": {
        "infra": "aws/us-east-1",
        "accelerators": ["A100", "A100-80GB"],
        "gpus": 4,
        "cpus": 32,
        "memory_gb": 128,
        "disk_gb": 500,
        "recovery": "FAILOVER",
        "max_hours": 12,
        "grace_s": 90,
        "labels": {"team": "town"},
        "priority": 100,
        "setup": ["nvidia-smi"],
        "run_options": ["--ulimit=nofile=65536"],
        "resources": {"network_tier": "best"},
        "config": {"gcp": {"enable_gvnic": True}},
        "environment": {"MLFLOW_TRACKING_URI": "http://mlflow:5000/a b"},
        "secrets": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    },
    "sky_two_nodes": {"nodes": 2, "gpus": 8, "accelerators": ["H100"], "spot": False},
    "sky_cpu": {"gpus": 0, "accelerators": [], "infra": "kubernetes/my-context"},
}


def profile(**changes: Any) -> SkyProfile:
    values = {"platform": "sky", "image": "registry.example/segadapt:0.1.0"}
    return validate(SkyProfile, values | {"accelerators": ["L4"]} | changes)


def request(name: str = NAME, uri: str = "s3://bucket/tiny", **changes: Any) -> Request:
    job = parse_spec(tiny_values(uri, "s3://bucket/runs"), "tiny")
    return SKY.request(Submission(name, job), profile(**changes))


def without_spec(task: Request) -> Request:
    return {**task, "envs": {**task["envs"], "SEGADAPT_SPEC_BASE64": "SPEC"}}


@pytest.mark.parametrize("name", GOLDENS)
def test_the_task_is_the_golden_one(name: str) -> None:
    """Regenerate golden/sky_*.yaml by hand: a person has to have read a task."""
    made = request(**GOLDENS[name])
    assert faults(made) == []
    assert without_spec(made) == yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())
    read = subprocess.run(["bash", "-n"], input=made["run"], capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*GOLDENS, "sky_predict"])
def test_skypilot_itself_takes_the_golden_tasks(name: str, tmp_path: Path) -> None:
    program = shutil.which("sky")
    if program is None:
        pytest.skip("SkyPilot's command is not on PATH: pip install skypilot==0.14.1 in a venv")
    python = Path(program).read_text().splitlines()[0].removeprefix("#!").strip()
    tasks = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())
    for number, task in enumerate(tasks.values() if name == "sky_predict" else [tasks]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(task))
        read = (
            f"import json, sky; task = sky.Task.from_yaml({str(path)!r}); "
            "task.validate_name(); print(json.dumps([task.name, task.num_nodes, "
            "sorted(map(str, task.resources)), "
            "sorted(one.job_recovery['recover_on_exit_codes'][0] for one in task.resources), "
            "sorted(one.hooks[0]['timeout'] for one in task.resources)]))"
        )
        environment = {
            **os.environ,
            "HOME": str(tmp_path),
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        }
        answer = subprocess.run(
            [python, "-c", read], capture_output=True, text=True, env=environment
        )
        assert answer.returncode == 0, answer.stderr
        label, nodes, resources, codes, graces = json.loads(answer.stdout.splitlines()[-1])
        assert (label, nodes) == (task["name"], task["num_nodes"])
        kinds = task["resources"].get("accelerators", {"": 0})
        assert len(resources) == len(kinds) == len(codes) and set(codes) == {75}
        assert set(graces) == {task["config"]["hooks"][0]["timeout"]}
        for kind, gpus in kinds.items():
            assert any(f"'{kind}': {gpus}" in one for one in resources) or not kind


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"accelerators": []},
            r"accelerators: expected a name beside gpus: 1, got none. Fix: name",
        ),
        ({"gpus": 0}, "accelerators: expected none beside gpus: 0, got L4"),
        ({"accelerators": ["A100:8"]}, r"accelerators.*: expected one word, got 'A100:8'"),
        ({"image": "docker:a"}, "image: expected an image's name without `docker:`"),
        ({"infra": "aws us"}, "infra: expected a cloud, region and zone"),
        ({"resources": {"use_spot": False}}, "got use_spot. Fix: set spot of the profile"),
        ({"config": {"hooks": []}}, "got hooks. Fix: set grace_s of the profile"),
        ({"config": {"_x": 1}}, "config: expected SkyPilot's public keys, got _x"),
        ({"resources": {"_docker_login_config": {}}}, "resources: expected SkyPilot's public keys"),
        ({"max_hours": 0.01}, "max_hours: expected more than grace_s"),
        ({"secrets": ["A"], "environment": {"A": "b"}}, "secrets: expected names that are not in"),
        ({"priority": 1001}, "priority: "),
    ],
)
def test_what_a_profile_refuses(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        profile(**changes)


def test_a_task_streams_from_stores_alone_and_runs_on_its_gpus() -> None:
    with pytest.raises(
        JobError, match=r"(?s)source.uri: expected the URI of a store.*copy it into a s"
    ):
        request(uri="/data/tiny")
    with pytest.raises(JobError, match="gpu: expected compute capability"):
        request(accelerators=["A100", "V100"])
    request(accelerators=["A100", "V100"], cuda=12)
    with pytest.raises(JobError, match="nodes: expected 1, since a slice is one process, got 2"):
        SKY.predict(SET, profile(nodes=2))
    with pytest.raises(JobError, match="--out: expected the URI of a store"):
        SKY.predict(SET._replace(out="/seen"), profile())
    assert profile(max_hours=5).longest_hours() == 5, "starts together"
    assert profile().gpu_model() == "L4" and profile(disk_gb=60).promised_gb().disk == 60


def test_names_tell_the_time_of_submission_and_whose_they_are() -> None:
    assert submitted("town-261130-235959-r2") == datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    ours = [NAME, f"{NAME}-r3", "predict-town-261130-120000-7"]
    assert all(map(is_ours, ours)) and not is_ours("my-job") and not is_ours("sky-261130-12-7")


def script_of(
    folder: Path, program: str, left_s: float = 60, nodes: int = 1
) -> tuple[str, dict[str, str]]:
    """The script of a job that ends in so many seconds, whose program is this one of bash."""
    (folder / "program").write_text(program)
    name = f"tiny-{datetime.now(UTC) - timedelta(hours=1):%y%m%d-%H%M%S}"
    text = run_script(name, 1 + left_s / 3600, nodes, ["run"])
    text = text.replace(" ".join(script.PROGRAM), f"bash {folder}/program")
    return text.replace(script.PID_FILE, f"{folder}/pid"), {"PATH": "/usr/bin:/bin"}


SAVES = 'trap "exit 75" TERM; echo begun; while :; do sleep 0.05; done'


@pytest.mark.parametrize(
    ("program", "left_s", "ends"),
    [
        ('test "$1" = run && exit 0', 60, 0),
        ("exit 2", 60, 2),
        ("exit 75", 60, 75),
        ("kill -9 $$", 60, 137),
        (SAVES, 1.2, 124),
        ("exit 0", -5, 124),
    ],
)
def test_a_job_ends_with_its_code_until_max_hours_are_over(
    program: str, left_s: float, ends: int, tmp_path: Path
) -> None:
    """With 75 SkyPilot would start it again for ever."""
    text, environment = script_of(tmp_path, program, left_s)
    ended = subprocess.run(["bash", "-c", text], capture_output=True, env=environment, timeout=30)
    assert ended.returncode == ends, ended.stderr
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("by", ["hook", "script"])
def test_a_stop_lets_the_job_save(by: str, tmp_path: Path) -> None:
    text, environment = script_of(tmp_path, SAVES)
    running = subprocess.Popen(["bash", "-c", text], env=environment, stdout=subprocess.PIPE)
    assert running.stdout is not None and running.stdout.readline() == b"begun\n"
    if by == "hook":
        hook = HOOK.replace(script.PID_FILE, f"{tmp_path}/pid")
        begun_s = time.monotonic()
        subprocess.run(["sh", "-c", hook], check=True, env=environment, timeout=20)
        assert running.wait(timeout=5) == 75 and time.monotonic() - begun_s < 10
        subprocess.run(["sh", "-c", hook], check=True, env=environment, timeout=5)
    else:
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=10) == 75
    running.stdout.close()


def test_a_node_that_saved_waits_for_the_codes_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "OTHERS_S", 1)
    for code, least_s in ((75, 1.0), (2, 0.0)):
        text, environment = script_of(tmp_path, f"exit {code}", nodes=2)
        begun_s = time.monotonic()
        assert subprocess.run(["bash", "-c", text], env=environment).returncode == code
        took_s = time.monotonic() - begun_s
        assert took_s >= least_s if least_s else "sleep 1" in text


def connected(folder: Path, **changes: Any) -> tuple[sky_client.SkyClient, dict[str, str]]:
    environment = installed(folder) | {"KEY": "value-of-key"}
    return SKY.connect(profile(secrets=["KEY"], **changes), environment), environment


def words_in(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "words").read_text().splitlines()]


def test_a_job_is_launched_followed_by_name_and_stopped(tmp_path: Path) -> None:
    client, _ = connected(tmp_path)
    assert list(client.jobs()) == []
    assert client.submit(request(secrets=["KEY"])) == NAME
    launch = next(words for words in words_in(tmp_path) if words[:2] == ["jobs", "launch"])
    assert launch[2:6] == ["--yes", "--detach-run", "--secret", "KEY"]
    assert "value-of-key" not in json.dumps(words_in(tmp_path))
    assert client.status(NAME).state == "waiting"
    set_job(tmp_path, 1, status="RUNNING", recovery_count=2)
    assert client.status("1") == JobStatus(NAME, "running", "restart 2")
    client.stop(NAME)
    assert client.status(NAME) == JobStatus(NAME, "running", "stopping, restart 2")
    set_job(tmp_path, 1, status="CANCELLED")
    client.stop(NAME)
    client.stop(NAME)
    assert [words[1] for words in words_in(tmp_path)].count("cancel") == 1
    assert client.status(NAME) == JobStatus(NAME, "stopped")
    assert [one.job for one in client.jobs()] == [NAME]
    with pytest.raises(JobError, match="JOB: SkyPilot knows no job town-1"):
        client.status("town-1")
    set_job(tmp_path, 1, job_name="theirs")
    with pytest.raises(JobError, match="JOB: expected a job of SegAdapt, got another, 'theirs'"):
        client.stop("theirs")


def test_a_controller_that_stopped_is_started_to_tell_of_a_job(tmp_path: Path) -> None:
    client, _ = connected(tmp_path)
    client.submit(request(secrets=["KEY"]))
    set_job(tmp_path, 1, status="SUCCEEDED")
    (tmp_path / "stopped").touch()
    assert list(client.jobs()) == []
    assert client.status(NAME) == JobStatus(NAME, "done", "", 0)


def test_a_log_is_followed_over_a_stream_that_breaks_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = connected(tmp_path)
    client.submit(request(secrets=["KEY"]))
    set_job(tmp_path, 1, status="RUNNING")
    green = "\x1b[32m(tiny, pid=7)\x1b[0m "
    first = [f"{green}step {number}\n" for number in (1, 2, 2)]
    (tmp_path / "logs.1.1").write_text("".join([*first, "break\n"]))
    (tmp_path / "logs.1.2").write_text("".join([*first, f"{green}step 2\n", f"{green}step 3\n"]))
    monkeypatch.setattr(sky_client, "POLL_S", 0.01)
    monkeypatch.setattr(following, "OUTAGE", replace(following.OUTAGE, first_wait_s=0.01))
    shown = [f"(tiny, pid=7) step {number}" for number in (1, 2, 2, 2, 3)]
    assert list(client.logs(NAME, follow=True)) == shown
    assert list(client.logs(NAME, follow=False)) == shown


def test_without_skypilot_the_task_is_left_in_a_file(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path / "none"), "XDG_STATE_HOME": str(tmp_path), "KEY": "v"}
    client = SKY.connect(profile(secrets=["KEY"]), environment)
    asked = request(secrets=["KEY"])
    with pytest.raises(JobError, match=r"sky: expected SkyPilot.s command .* got none; .*") as told:
        client.submit(asked)
    kept = tmp_path / "segadapt/sky" / f"{NAME}.yaml"
    assert yaml.safe_load(kept.read_text()) == asked
    assert f"sky jobs launch --yes --detach-run --secret KEY {kept}" in str(told.value)
    assert "pip install 'skypilot[aws]'" in str(told.value)
    (finding,) = client.check(asked)
    assert not finding.ok and finding.fix.startswith("pip install 'skypilot[aws]'")
    with pytest.raises(JobError, match="secrets: expected the variable KEY in this environment"):
        SKY.connect(profile(secrets=["KEY"]), {}).submit(asked)


def test_check_names_what_is_missing(tmp_path: Path) -> None:
    client, _ = connected(tmp_path)
    found = {one.what: one for one in client.check(request(secrets=["KEY", "OTHER"]))}
    assert found["sky"].found == "SkyPilot 0.14.1" and found["sky"].ok
    assert found["secret KEY"].ok and not found["secret OTHER"].ok
    assert found["machines"].found == "AWS[Spot](us-east-1a) p4d.24x 96 1152 A100:8 9.80"
    (tmp_path / "fail").write_text("1 sky.exceptions.NoCloudAccessError: No cloud access is set up")
    last = list(client.check(request()))[-1]
    assert (
        not last.ok
        and last.found.startswith("sky: no cloud is enabled")
        and "sky check" in last.fix
    )


def test_an_old_skypilot_is_told(tmp_path: Path) -> None:
    environment = installed(tmp_path)
    (tmp_path / "sky").write_text("#!/bin/sh\necho skypilot, version 0.12.3\n")
    first = next(iter(SKY.connect(profile(), environment).check(request())))
    assert not first.ok and "skypilot>=0.14" in first.fix


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("sky.exceptions.NoCloudAccessError: No cloud access is set up.", "sky"),
        ("ResourcesUnavailableError: No resource satisfying AWS({'H100': 64})", "resources"),
        ("ValueError: Invalid accelerator 'A1000'", "accelerators"),
        ("Error: K is not set in local environment.", "secrets"),
        ("Error: No such option: --output", "sky"),
        ("VcpuLimitExceeded", "quota"),
        ("ValueError: something new", "sky"),
    ],
)
def test_what_skypilot_refuses(said: str, key: str) -> None:
    refusal = refusal_of(f"YAML to run: a.yaml\n{said}")
    assert refusal.key == key and refusal.fix and said in refusal.found


def test_an_unreachable_server_is_retried_and_other_answers_are_none(tmp_path: Path) -> None:
    client, _ = connected(tmp_path)
    (tmp_path / "fail").write_text(
        "1 requests error (ConnectionError): HTTPSConnectionPool(host='a'): Max retries exceeded"
    )
    with pytest.raises(StoreUnavailable, match=r"sky: unreachable \[.*Max retries.*sky api status"):
        client.status(NAME)
    (tmp_path / "fail").write_text("1 ValueError: no")
    with pytest.raises(JobError, match="sky: SkyPilot refused: ValueError: no"):
        client.status(NAME)
    assert records_in(f"{sky_double.NOISE}\n[]\n") == []
    for text in ("nothing", "[\n 1,"):
        with pytest.raises(JobError, match="sky: expected a list in JSON, got"):
            records_in(text)


def test_every_state_of_skypilot_has_one_of_ours() -> None:
    """ManagedJobStatus of SkyPilot 0.14.1."""
    theirs = """
    PENDING SUBMITTED STARTING RUNNING WINDING_DOWN RECOVERING CANCELLING SUCCEEDED CANCELLED FAILED
    FAILED_SETUP FAILED_PRECHECKS FAILED_NO_RESOURCE FAILED_CONTROLLER
    """
    assert STATES.keys() == set(theirs.split())


@pytest.mark.parametrize(
    ("record", "status"),
    [
        ({"status": "RECOVERING", "recovery_count": 1},
         ("waiting", "reclaimed or saved; machines are looked for, restart 1", None)),
        ({"status": "SUCCEEDED", "recovery_count": 3}, ("done", "restart 3", 0)),
        ({"status": "FAILED", "failure_reason": "Job exited with exit code 2 (user program fail"},
         ("failed", "job spec; see the end of its log", 2)),
        ({"status": "FAILED", "failure_reason": "Job exited with exit codes [137, 4]"},
         ("failed", "data; see the end of its log", 4)),
        ({"status": "FAILED", "failure_reason": "Job exited with exit code 124 (user"},
         ("interrupted", "max_hours of the profile are over, saved; submit it again to resume",
          75)),
        ({"status": "FAILED", "failure_reason": "Job exited with exit code 75 (user"},
         ("interrupted", "saved; submit it again to resume", 75)),
        ({"status": "FAILED", "failure_reason": "Job failed (FAILED_DRIVER)"},
         ("failed", "see the end of its log [Job failed (FAILED_DRIVER)]", None)),
        ({"status": "FAILED_SETUP", "failure_reason": "x"},
         ("failed", "the image or setup of the profile failed. Fix: see its log [x]", None)),
        ({"status": "NEW_WORD"}, ("unknown", "NEW_WORD", None)),
    ],
)  # fmt: skip
def test_what_the_queue_says(record: dict[str, Any], status: tuple[str, str, int | None]) -> None:
    assert status_of({"job_name": NAME, **record}) == JobStatus(NAME, *status)  # type: ignore[arg-type]
    assert status_of({"job_name": NAME, "status": "FAILED_NO_RESOURCE"}).state == "interrupted"


def test_the_code_of_the_node_that_failed_counts() -> None:
    assert exit_code_in("Job exited with exit codes [75, 3, 137]") == 3
    assert exit_code_in("exit codes [0, 137]") == 137 and exit_code_in("none") is None
