"""Whole jobs over real servers and over two ranks: pack, train, track, download, evaluate."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from safetensors.torch import load_file

from adapt.platforms.local_stack import S3Server, free_ports
from tests.chaos import kill_all
from tests.commands import call, finish, start
from tests.conftest import small_method, tiny_values, write_raw_folders
from tests.job_over_servers import Platform


@pytest.fixture
def platform(tmp_path: Path, s3_uri: str, s3_server: S3Server, mlflow_uri: str) -> Platform:
    return Platform(tmp_path, s3_uri, s3_server, mlflow_uri)


@pytest.mark.slow
def test_a_job_over_a_bucket_and_an_mlflow_server(platform: Platform) -> None:
    for split, count in (("train", 8), ("val", 3)):
        write_raw_folders(platform.folder / "raw" / split, count, seed=count)
        packing = ("--split", split, "--name", "tiny", "--shard-mb", "0.03")
        uri = f"{platform.s3_uri}/packed"
        platform("pack", "folders", "raw", uri, *packing, "--spec", "tiny.yaml")
    assert "packed/train/shard-00001.tar" in platform.stored()
    answer = json.loads(platform("run", "tiny.yaml", "--json").out)
    best = answer["best"]
    last = {f"runs/tiny/step-00000006/{name}" for name in ("weights.safetensors", "manifest.json")}
    assert last | {"runs/tiny/LATEST", "runs/tiny/BEST.json"} <= platform.stored()
    assert not (platform.folder / "runs").exists(), "checkpoints lie in the bucket alone"

    run = platform.only_run()
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    assert run.data.params["method.name"] == "advent"
    assert run.data.metrics["validation/miou"] == answer["figures"]["miou"]
    losses = platform.mlflow.get_metric_history(run.info.run_id, "train/loss.adversarial.main")
    assert [point.step for point in losses] == list(range(1, 7))
    expected = {"spec.yaml", "pictures/step-00000006.png", "evaluations/step-00000006.json"}
    assert expected <= platform.artifacts(run)
    weights_uri = f"{platform.s3_uri}/runs/tiny/{best['name']}/weights.safetensors"
    assert run.data.tags["best_checkpoint_uri"] == weights_uri
    assert run.data.tags["best_checkpoint_sha256"] == best["sha256"]
    secrets = (platform.server.access_key, platform.server.secret_key)
    assert not any(secret in str(run.data.to_dictionary()) for secret in secrets)

    found = platform("download-best", platform.experiment, "--out", "best", "--json")
    downloaded = json.loads(found.out)
    assert downloaded["run_id"] == run.info.run_id and downloaded["sha256"] == best["sha256"]
    for checkpoint in (downloaded["weights_path"], weights_uri):
        evaluated = platform("evaluate", "tiny.yaml", "--checkpoint", checkpoint, "--json")
        assert json.loads(evaluated.out)["miou"] == best["score"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["source_only", "advent"])
def test_two_ranks_train_as_one(method: str, tiny_uri: str, tmp_path: Path) -> None:
    values: dict[str, Any] = tiny_values(tiny_uri, "runs") | {"method": small_method(method)}
    values["model"]["norm"] = "frozen"  # else each rank normalises by its own half of the batch
    folders = {ranks: tmp_path / f"ranks-{ranks}" for ranks in (1, 2)}
    for folder in folders.values():
        folder.mkdir()
        (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    command = ("run", "tiny.yaml", "--json")
    process = start(*command, "--processes", 2, "--profile", folder=folders[2])
    one, two = call(*command, folder=folders[1]), finish(process)
    assert one.code == 0 and two.code == 0, one.err + two.err

    assert losses(folders[2], method) == pytest.approx(losses(folders[1], method), abs=1e-4)
    answers = [json.loads(ended.out) for ended in (one, two)]
    assert answers[0]["step"] == answers[1]["step"] == 6
    weights = [load_file(last_checkpoint(folder)) for folder in folders.values()]
    for key, value in weights[0].items():
        assert value.sub(weights[1][key]).abs().max() < 1e-4, key

    asked = ("--checkpoint", last_checkpoint(folders[2]), "--json")
    evaluated = json.loads(call("evaluate", "tiny.yaml", *asked, folder=folders[1]).out)
    assert {key: evaluated[key] for key in answers[1]["figures"]} == answers[1]["figures"]
    (artifacts,) = folders[2].glob("runs/mlartifacts/*/artifacts")
    record = artifacts / "evaluations" / "step-00000006.json"
    assert json.loads(record.read_text())["matrix"] == evaluated["matrix"]
    for folder in (artifacts / "profile", folders[2] / "runs" / "tiny" / "profile"):
        names = sorted(file.name for file in folder.iterdir())
        assert names == ["step-00000001.html", "step-00000001.trace.json.gz"]
        page = (folder / names[0]).read_text()
        assert "the leader of 2 ranks" in page and "communication" in page


@pytest.mark.slow
def test_two_ranks_stopped_and_resumed_end_bit_identical(tiny_uri: str, tmp_path: Path) -> None:
    values: dict[str, Any] = tiny_values(tiny_uri, "runs")
    values["model"]["norm"] = "frozen"
    values["train"]["steps"] = 12
    folders = [tmp_path / name for name in ("calm", "stopped")]
    for folder in folders:
        folder.mkdir()
        (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    command = ("run", "tiny.yaml", "--processes", 2)
    assert finish(start(*command, folder=folders[0])).code == 0
    process = start(*command, folder=folders[1])
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGTERM)
            break
    stopped = finish(process)
    assert stopped.code == 75 and "everything is saved" in stopped.err, stopped.err
    assert finish(start(*command, folder=folders[1])).code == 0
    file = "runs/tiny/step-00000012/weights.safetensors"
    assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


@pytest.mark.slow
def test_of_two_nodes_one_dies_and_the_job_goes_on(tiny_uri: str, tmp_path: Path) -> None:
    values: dict[str, Any] = tiny_values(tiny_uri, "runs")
    for domain in ("source", "target"):
        values[domain]["batch_size"] = 4
    values["model"]["norm"] = "frozen"
    values["train"]["steps"] = 12
    values["checkpoint"]["every_steps"] = 2
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))

    def nodes(name: str) -> list[subprocess.Popen[str]]:
        (port,) = free_ports(1)
        meet = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "2", "PET_MASTER_PORT": str(port)}
        meet["PET_MASTER_ADDR"] = "127.0.0.1"
        return [
            start(
                *("run", "tiny.yaml", "--set", f"name={name}"),
                folder=tmp_path,
                environment=meet | {"PET_NODE_RANK": str(node)},
            )
            for node in range(2)
        ]

    assert [finish(node).code for node in nodes("calm")] == [0, 0]
    first, second = nodes("stormy")
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("step 5/"):
            kill_all(second)
            break
    finish(second)
    lost = finish(first, timeout_s=90)
    assert lost.code == 75, lost.err
    assert [finish(node).code for node in nodes("stormy")] == [0, 0]
    file = "step-00000012/weights.safetensors"
    calm, stormy = (tmp_path / "runs" / name / file for name in ("calm", "stormy"))
    assert calm.read_bytes() == stormy.read_bytes()


@pytest.mark.slow
def test_mistakes_of_two_ranks_have_their_exit_codes(tiny_uri: str, tmp_path: Path) -> None:
    values: dict[str, Any] = tiny_values(tiny_uri, "runs")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    odd_batch = ("--set", "source.batch_size=3")
    odd = finish(start("run", "tiny.yaml", "--processes", 2, *odd_batch, folder=tmp_path))
    assert odd.code == 2 and "source.batch_size: expected a multiple of 2" in odd.err
    away = start(
        *("run", "tiny.yaml", "--processes", 2),
        *("--set", f"source.uri={tmp_path / 'nothing'}"),
        folder=tmp_path,
    )
    assert finish(away).code == 4


def last_checkpoint(folder: Path) -> Path:
    return folder / "runs" / "tiny" / "step-00000006" / "weights.safetensors"


def losses(folder: Path, method: str) -> list[float]:
    """The main losses of all steps from the folder's MLflow, which has one run."""
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    names = {
        "source_only": ["segmentation.main"],
        "advent": ["segmentation.main", "adversarial.main"],
    }
    points = [
        point
        for name in names[method]
        for point in client.get_metric_history(run.info.run_id, f"train/loss.{name}")
    ]
    assert [point.step for point in points] == list(range(1, 7)) * len(names[method])
    return [point.value for point in points]
