"""A job inside SageMaker's tree: /opt/ml as the service lays it out from our own request, the word
`train`, two machines, and no variables but the job's name and those of the request."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from safetensors.torch import load_file

from adapt.errors import JobError
from adapt.places import find_place
from adapt.platforms import PLATFORMS, load_profile
from adapt.platforms.local_stack import free_ports
from adapt.platforms.platform import Submission
from adapt.platforms.sagemaker.job_kinds import training_status
from adapt.platforms.sagemaker.request import METRICS
from adapt.spec.loading import parse_spec
from tests.commands import ONLY_RANK, ROOT
from tests.conftest import tiny_values
from tests.processes import Process

HOSTS = ["127.0.0.1", "localhost"]
"""Names that both stand for this machine, in the order that sorting gives."""

PATIENCE_S = 240.0
CHANNELS = {name: {"uri": "s3://my-bucket/tiny", "mode": "File"} for name in ("source", "target")}


class Machine:
    """One of a job's machines, with /opt/ml below a folder of its own."""

    def __init__(self, root: Path, request: dict[str, Any], host: str, hosts: list[str]) -> None:
        self.root, self.request, self.ml = root, request, root / "opt/ml"
        self.log = root / "log"
        self._process: subprocess.Popen[bytes] | None = None
        for folder in ("input/config", "model", "output/data", "checkpoints"):
            (self.ml / folder).mkdir(parents=True)
        (root / "tmp").mkdir()
        resources = request["ResourceConfig"]
        self._write("hyperparameters", request["HyperParameters"])
        self._write("inputdataconfig", {c["ChannelName"]: how(c) for c in channels_of(request)})
        group = {"instance_group_name": "homogeneousCluster", "hosts": hosts}
        self._write(
            "resourceconfig",
            {
                "current_host": host,
                "current_instance_type": resources["InstanceType"],
                "current_group_name": "homogeneousCluster",
                "hosts": hosts,
                "instance_groups": [{**group, "instance_type": resources["InstanceType"]}],
                "network_interface_name": "lo",
            },
        )
        if "CheckpointConfig" in request:
            local = {"LocalPath": request["CheckpointConfig"]["LocalPath"]}
            self._write("checkpointconfig", local)

    def _write(self, name: str, content: Any) -> None:
        (self.ml / f"input/config/{name}.json").write_text(json.dumps(content))

    def brings(self, dataset: str) -> "Machine":
        """Lay the dataset where every channel is."""
        for channel in channels_of(self.request):
            shutil.copytree(dataset, self.ml / "input/data" / channel["ChannelName"])
        return self

    def start(self) -> None:
        """`docker run IMAGE train`; what is written goes to one log, as CloudWatch has it."""
        name = self.request["TrainingJobName"]
        arn = f"arn:aws:sagemaker:us-east-1:111122223333:training-job/{name}"
        machine = {"PATH": os.environ["PATH"], "TMPDIR": str(self.root / "tmp")}
        machine |= {"SEGADAPT_ROOT": str(self.root), "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self._process = Process(
                [sys.executable, str(ROOT / "entrypoint.py"), "train"],
                cwd=self.root,
                env={
                    **machine,
                    "TRAINING_JOB_NAME": name,
                    "TRAINING_JOB_ARN": arn,
                    **self.request["Environment"],
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self) -> None:
        """What `docker stop` begins with."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Until the container ends; its exit code."""
        assert self._process is not None
        return self._process.wait(PATIENCE_S)

    def end(self) -> None:
        """Kill what is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def said(self) -> str:
        """Its log."""
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        """Until the log has a text; the process must not end before."""
        deadline_s = time.monotonic() + PATIENCE_S
        while text not in self.said():
            assert self._process is not None and self._process.poll() is None, self.said()
            assert time.monotonic() < deadline_s, self.said()
            time.sleep(0.05)


def channels_of(request: dict[str, Any]) -> list[dict[str, Any]]:
    return request.get("InputDataConfig", [])


def how(channel: dict[str, Any]) -> dict[str, str]:
    """What inputdataconfig.json says of a channel."""
    return {
        "TrainingInputMode": channel["InputMode"],
        "S3DistributionType": channel["DataSource"]["S3DataSource"]["S3DataDistributionType"],
        "RecordWrapperType": "None",
    }


def request_of(steps: int, sqlite_uri: str, nodes: int, **keys: Any) -> dict[str, Any]:
    """The request for the tiny job, whose data SageMaker brings."""
    values = tiny_values("not/here", "nor/here")
    values["train"]["steps"] = values["evaluate"]["every_steps"] = steps
    profile = load_profile(
        ROOT / "job_specs/platforms/sagemaker.yaml",
        [
            f"nodes={nodes}",
            "checkpoint_uri=s3://my-bucket/runs",
            f"environment.MLFLOW_TRACKING_URI={sqlite_uri}",
            f"environment.PET_MASTER_PORT='{free_ports(1)[0]}'",
            f"channels={json.dumps({**CHANNELS, 'validation': CHANNELS['source']})}",
        ],
    )
    spec = parse_spec({**values, **keys}, "tiny")
    return PLATFORMS["sagemaker"].request(Submission("tiny-1", spec), profile)


@pytest.fixture
def ends() -> Iterator[list[Machine]]:
    """Machines that are killed at the end, whatever happened."""
    machines: list[Machine] = []
    yield machines
    for machine in machines:
        machine.end()


def machines_of(request: dict[str, Any], folder: Path, dataset: str) -> list[Machine]:
    return [Machine(folder / host, request, host, HOSTS[::-1]).brings(dataset) for host in HOSTS]


@pytest.mark.slow
def test_two_machines_train_are_reclaimed_and_go_on_to_the_end(
    ends: list[Machine], tmp_path: Path, tiny_uri: str, sqlite_uri: str
) -> None:
    request = request_of(12, sqlite_uri, nodes=2)
    first = machines_of(request, tmp_path / "first", tiny_uri)
    ends += first
    for machine in first:
        machine.start()
    first[0].wait_for("step 1/12 ")
    for machine in first:
        machine.stop()
    assert [machine.wait() for machine in first] == [75, 75], first[0].said() + first[1].said()
    assert "step 12/12" not in first[0].said()

    # SageMaker mirrors checkpoints all the while and brings them to the machines of a restart
    again = machines_of(request, tmp_path / "again", tiny_uri)
    ends += again
    for machine in again:
        shutil.rmtree(machine.ml / "checkpoints")
        shutil.copytree(first[0].ml / "checkpoints", machine.ml / "checkpoints")
        machine.start()
    assert [machine.wait() for machine in again] == [0, 0], again[0].said() + again[1].said()
    log = again[0].said()
    assert re.search(r"resumed at step \d+ of 12", log)
    assert not any((machine.ml / "output/failure").exists() for machine in [*first, *again])
    assert (again[0].ml / "checkpoints/tiny/BEST.json").exists()
    drawn = {name for name, regex in METRICS.items() if re.search(regex, log)}
    assert drawn >= {
        "validation:miou_percent",
        "validation:pixel_accuracy_percent",
        "loss:segmentation",
        "loss:adversarial",
        "loss:discriminator_source",
        "speed:samples_per_s",
        "speed:waiting_percent",
    }
    assert "\r" not in log and "\x1b" not in log
    assert load_file(again[0].ml / "model/weights.safetensors")
    assert list((again[1].ml / "model").iterdir()) == []  # every machine's would be uploaded
    client = MlflowClient(sqlite_uri)
    experiment = client.get_experiment_by_name("tests")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`segadapt.job` = 'tiny-1'")
    assert run.info.status == "FINISHED" and run.data.tags["segadapt.platform"] == "sagemaker"
    mirror = request["CheckpointConfig"]["S3Uri"]  # of /opt/ml/checkpoints
    assert mirror == "s3://my-bucket/runs/tiny"
    best_uri = f"{mirror}/tiny/step-00000012/weights.safetensors"
    assert run.data.tags["best_checkpoint_uri"] == best_uri


@pytest.mark.slow
def test_a_job_that_fails_says_why_where_sagemaker_looks(
    ends: list[Machine], tmp_path: Path, tiny_uri: str, sqlite_uri: str
) -> None:
    request = request_of(2, sqlite_uri, nodes=1)
    machine = Machine(tmp_path, request, "algo-1", ["algo-1"]).brings(tiny_uri)
    ends.append(machine)
    shutil.rmtree(machine.ml / "input/data/source")
    machine.start()
    code = machine.wait()
    assert code == 4, machine.said()
    reason = (machine.ml / "output/failure").read_text()[:1024]
    assert reason.startswith("DataError: file:///") and "opt/ml/input/data/source" in reason


@pytest.mark.slow
def test_a_mistake_in_a_hyperparameter_says_why_too(
    ends: list[Machine], tmp_path: Path, tiny_uri: str, sqlite_uri: str
) -> None:
    request = request_of(2, sqlite_uri, nodes=1)
    request["HyperParameters"]["train.stepz"] = "5"
    machine = Machine(tmp_path, request, "algo-1", ["algo-1"]).brings(tiny_uri)
    ends.append(machine)
    machine.start()
    code = machine.wait()
    reason = (machine.ml / "output/failure").read_text()[:1024]
    assert reason.startswith("JobError: env:SEGADAPT_SPEC_BASE64: train.stepz: unknown key, ")
    answer = {"TrainingJobName": "j", "TrainingJobStatus": "Failed", "SecondaryStatus": "Failed"}
    status = training_status(
        {**answer, "FailureReason": f"AlgorithmError: {reason}, exit code: {code}"}
    )
    assert (status.state, status.exit_code) == ("failed", 2)
    assert "train.stepz: unknown key, got 'stepz'; did you mean 'steps'?" in status.detail


def test_machines_are_told_the_network_between_them(tmp_path: Path) -> None:
    request = request_of(2, "sqlite:///m.db", nodes=2)
    request["ResourceConfig"]["InstanceType"] = "ml.p4d.24xlarge"
    Machine(tmp_path / "a", request, "algo-2", ["algo-2", "algo-1"])
    place = find_place({"GLOO_SOCKET_IFNAME": "eth9"}, tmp_path / "a")
    told = {name: place.environment[name] for name in ("NCCL_SOCKET_IFNAME", "FI_PROVIDER")}
    assert told == {"NCCL_SOCKET_IFNAME": "lo", "FI_PROVIDER": "efa"}
    assert place.environment["GLOO_SOCKET_IFNAME"] == "eth9"  # what users say comes first
    assert (place.node, place.master_addr, place.master_port) == (1, "algo-1", 29500)
    request["ResourceConfig"]["InstanceType"] = "ml.g5.2xlarge"
    Machine(tmp_path / "b", request, "algo-1", ["algo-2", "algo-1"])
    assert "FI_PROVIDER" not in find_place({}, tmp_path / "b").environment
    Machine(tmp_path / "c", request, "algo-1", ["algo-1"])
    assert "NCCL_SOCKET_IFNAME" not in find_place({}, tmp_path / "c").environment


def test_folders_that_belong_to_root_cost_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = request_of(2, "sqlite:///m.db", nodes=1)
    del request["CheckpointConfig"]
    machine = Machine(tmp_path, request, "algo-1", ["algo-1"])
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as for uid 1000; root may all
    for environment in ({}, {}, ONLY_RANK):
        place = find_place(environment, tmp_path)
        assert place.model_dir is None and place.failure_file is None
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{machine.ml / 'model'} belongs to another user than uid")
    assert "let the image run as root (docs/platforms/sagemaker.md)" in said


def test_mirrored_checkpoints_that_cannot_be_written_end_the_job_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, request_of(2, "sqlite:///m.db", nodes=1), "algo-1", ["algo-1"])
    mirrored = machine.ml / "checkpoints"
    monkeypatch.setattr("os.access", lambda path, mode: path != mirrored)
    with pytest.raises(JobError) as caught:
        find_place({}, tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{mirrored}: expected a folder that uid {os.getuid()} may write to")
    assert "let the image run as root (USER root, step 3 of docs/platforms/sagemaker.md)" in said


def test_scratch_is_the_disk_that_sagemaker_sized(tmp_path: Path) -> None:
    Machine(tmp_path, request_of(2, "sqlite:///m.db", nodes=1), "algo-1", ["algo-1"])
    (tmp_path / "cache").mkdir()  # of our image, on the small disk
    assert find_place({}, tmp_path).scratch_dir == Path(tempfile.gettempdir()) / "segadapt"


def test_the_whole_job_arrives_in_the_container(tmp_path: Path) -> None:
    request = request_of(7, "sqlite:///m.db", nodes=1)
    machine = Machine(tmp_path, request, "algo-1", ["algo-1"])
    place = find_place({"TRAINING_JOB_NAME": "tiny-1", **request["Environment"]}, tmp_path)
    assert place.spec == "env:SEGADAPT_SPEC_BASE64"
    assert (place.job, place.grace_s, place.num_nodes) == ("tiny-1", 120, 1)
    assert f"checkpoint.uri={machine.ml / 'checkpoints'}" in place.overrides
    assert f"source.uri={machine.ml / 'input/data/source'}" in place.overrides
