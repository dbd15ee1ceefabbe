"""Which run a best checkpoint is downloaded of, and when there is none."""

import errno
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from adapt.checkpoint.files import fetch_weights
from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.snapshot import Moment, Snapshot
from adapt.errors import DataError, JobError
from adapt.places import Place
from adapt.tracking.tracker import BEST_SHA256_TAG, BEST_URI_TAG
from adapt.trainer.download import download_best
from adapt.trainer.found_run import find_run
from storage.errors import StoreError
from storage.shards.fetch import Fetcher
from storage.stores import Stores
from tests.servers import stores_of
from tests.storage.broken_answers import Cut, Fault, Flip, Reset, Stall, Trickle
from tests.storage.faults import FaultProxy
from tests.tracking.recorded import new_database
from tests.trainer.jobs import job_of


def test_a_name_that_runs_of_two_experiments_share_is_refused(
    mlflow_uri: str, place: Place, tmp_path: Path
) -> None:
    client = MlflowClient(mlflow_uri)
    experiments = [client.create_experiment(f"download-{number}") for number in range(2)]
    runs = [client.create_run(one, run_name="download-twin").info.run_id for one in experiments]
    with pytest.raises(JobError, match=r"got runs of several experiments. Fix: name one by") as two:
        download_best("download-twin", tmp_path, mlflow_uri, place)
    assert all(run in str(two.value) for run in runs)


def test_a_run_without_an_evaluation_has_no_best(
    mlflow_uri: str, place: Place, tmp_path: Path
) -> None:
    client = MlflowClient(mlflow_uri)
    experiment = client.create_experiment("download-early")
    client.create_run(experiment, run_name="download-early-run")
    with pytest.raises(
        JobError, match=r"with a best checkpoint, got none. Fix: wait for the first"
    ):
        download_best("download-early", tmp_path, mlflow_uri, place)


def finished(
    store_uri: str, stores: Stores, tracking_uri: str, values: dict[str, Any], name: str = ""
) -> str:
    """A run with one best checkpoint, in a store and in MLflow; its name."""
    run = RunFolder(stores.open(store_uri))
    weights = {"layer.weight": torch.arange(9000.0)}
    saved = run.save(Snapshot(Moment(1, 0, 0.0), {"step": 1}, weights, "seed: 1\n", {}))
    client, name = MlflowClient(tracking_uri), name or f"download-{uuid4().hex[:8]}"
    found = client.get_experiment_by_name("download")
    experiment = found.experiment_id if found else client.create_experiment("download")
    run_id = client.create_run(experiment, run_name=name).info.run_id
    client.log_text(run_id, job_of(values).to_yaml(), "spec.yaml")
    tags = {BEST_URI_TAG: saved.weights_uri, BEST_SHA256_TAG: saved.sha256}
    for key, value in (tags | {"best_checkpoint_miou": "0.5"}).items():
        client.set_tag(run_id, key, value)
    return name


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [Cut(5000), Reset(), Reset(5000), Stall(5000), Trickle(5000), Flip(6000)],
    ids=str,
)
def test_what_breaks_on_the_way_is_downloaded_again(
    fault: Fault, proxy: FaultProxy, s3_server: Any, s3_uri: str, tmp_path: Path
) -> None:
    stores = stores_of(s3_server, endpoint_url=proxy.endpoint_url)
    run = RunFolder(stores.open(s3_uri))
    weights = {"layer.weight": torch.arange(90000.0)}
    saved = run.save(Snapshot(Moment(1, 0, 0.0), {"step": 1}, weights, "seed: 1\n", {}))
    proxy.order(fault, "/weights.safetensors")
    key = f"{saved.name}/weights.safetensors"
    fetcher = Fetcher(progress_s=0.5, retry_time_s=20)
    loaded = fetch_weights(run.store, key, tmp_path / "w", saved.sha256, fetcher)
    assert torch.equal(loaded["layer.weight"], weights["layer.weight"])
    assert proxy.num_ordered == 0 and [path.name for path in tmp_path.iterdir()] == ["w"]


def test_bytes_that_stay_wrong_are_no_checkpoint(
    proxy: FaultProxy, s3_server: Any, s3_uri: str, tmp_path: Path
) -> None:
    stores = stores_of(s3_server, endpoint_url=proxy.endpoint_url)
    run = RunFolder(stores.open(s3_uri))
    saved = run.save(
        Snapshot(Moment(1, 0, 0.0), {"step": 1}, {"a": torch.arange(9000.0)}, "seed: 1\n", {})
    )
    proxy.order(Flip(6000), "/weights.safetensors", times=3)
    with pytest.raises(DataError, match=r"expected sha256 .* Fix: take another checkpoint"):
        fetch_weights(run.store, f"{saved.name}/weights.safetensors", tmp_path / "w", saved.sha256)
    assert proxy.num_ordered == 0 and not list(tmp_path.iterdir())


def test_a_full_disk_is_named_and_not_the_store(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = new_database(tmp_path / "runs")
    name = finished(str(tmp_path / "store"), Stores(), uri, tiny_job)

    def full(*_given: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("storage.shards.fetch.os.pwrite", full)
    out = tmp_path / "here"
    with pytest.raises(StoreError, match=rf"{out}/weights.safetensors: the disk is full") as ended:
        download_best(name, out, uri, place)
    assert str(tmp_path / "store") not in str(ended.value)
    assert not list(out.iterdir())


def test_an_mlflow_that_fails_in_passing_is_asked_again(
    tiny_job: dict[str, Any],
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = new_database(tmp_path / "runs")
    name = finished(str(tmp_path / "store"), Stores(), uri, tiny_job)
    asked, search = [], MlflowClient.search_experiments

    def once_away(self: MlflowClient) -> Any:
        asked.append(name)
        if len(asked) == 1:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        return search(self)

    monkeypatch.setattr(MlflowClient, "search_experiments", once_away)
    found = download_best(name, tmp_path / "here", uri, place)
    assert (found.run_name, len(asked)) == (name, 2)
    assert load_file(found.weights_path)["layer.weight"].shape == (9000,)


def test_a_registered_model_names_its_version_of_the_run(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    uri = new_database(tmp_path / "runs")
    name = finished(str(tmp_path / "store"), Stores(), uri, tiny_job)
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("download").experiment_id])
    client.create_registered_model("town-net")
    best = {key: text for key, text in run.data.tags.items() if key.startswith("best_checkpoint")}
    for sha256 in ("00" * 32, best[BEST_SHA256_TAG]):
        tags = {**best, BEST_SHA256_TAG: sha256}
        client.create_model_version(
            "town-net", best[BEST_URI_TAG], run.info.run_id, tags, await_creation_for=0
        )
    client.set_registered_model_alias("town-net", "best", "2")
    for number, wanted in enumerate(("town-net", "models:/town-net@best", "models:/town-net/2")):
        assert download_best(wanted, tmp_path / str(number), uri, place).run_name == name
    with pytest.raises(DataError, match="expected sha256 0000"):
        download_best("models:/town-net/1", tmp_path / "other", uri, place)
    with pytest.raises(JobError, match=r"registered models: town-net\)"):
        download_best("models:/town-net/3", tmp_path / "none", uri, place)
    client.delete_registered_model_alias("town-net", "best")
    with pytest.raises(JobError, match=r"the alias best at .*, got one without it\. Fix"):
        download_best("town-net", tmp_path / "none", uri, place)


def test_a_run_of_another_version_s_spec_names_its_checkpoint(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    uri = new_database(tmp_path / "runs")
    name = finished(str(tmp_path / "store"), Stores(), uri, tiny_job)
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("download").experiment_id])
    client.log_text(run.info.run_id, "evaluate: {label_free: entropy}\n", "spec.yaml")
    with pytest.raises(JobError, match=r"(?s)job spec of this version.*label_free") as caught:
        download_best(name, tmp_path / "best", uri, place)
    assert str(caught.value).startswith(f"{name}: expected ")
    assert f"name its checkpoint, {run.data.tags[BEST_URI_TAG]}, to predict" in caught.value.fix


@pytest.mark.parametrize("name", ["driver's best", 'a "quoted" one', "100 % [x]"])
def test_a_run_of_any_name_is_found(
    name: str, tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    uri = new_database(tmp_path / "runs")
    finished(str(tmp_path / "store"), Stores(), uri, tiny_job, name)
    assert download_best(name, tmp_path / "here", uri, place).run_name == name


def test_of_an_experiment_the_run_is_taken_that_is_best_by_its_own_score(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    uri = new_database(tmp_path / "runs")
    client = MlflowClient(uri)

    def tag(score: str, values: dict[str, str]) -> None:
        for name, value in values.items():
            found = find_run(name, uri)
            client.set_tag(found.run_id, "best_checkpoint_chosen_by", score)
            client.set_tag(found.run_id, f"best_checkpoint_{score}", value)

    for name in ("less", "more"):
        finished(str(tmp_path / name), Stores(), uri, tiny_job, name)
    tag("mean_entropy", {"less": "0.1", "more": "0.4"})
    assert find_run("download", uri).name == "less"
    tag("nuclear_norm", {"less": "0.1", "more": "0.4"})
    assert find_run("download", uri).name == "more"
    got = download_best("download", tmp_path / "got", uri, place)
    assert (got.metric, got.score) == ("nuclear_norm", 0.4)
    tag("ensemble_agreement", {"less": "0.1", "more": "0.4"})
    with pytest.raises(JobError, match=r"expected one run, got 2 that chose by ensemble_agreement"):
        find_run("download", uri)
    assert find_run("download", uri, "mean_entropy").name == "less"


def test_an_unknown_run_is_answered_with_what_there_is(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    uri = new_database(tmp_path / "runs")
    client = MlflowClient(uri)
    experiment = client.create_experiment("streets")
    for number in range(12):
        run = client.create_run(experiment, run_name=f"gta5-{number}")
    client.set_tag(run.info.run_id, "segadapt.job", "job-4711")
    with pytest.raises(JobError) as mistyped:
        download_best("gta5-33", tmp_path / "no", uri, place)
    said = str(mistyped.value)
    assert f"of MLflow at {uri}, got 'gta5-33'; did you mean 'gta5-3'?" in said
    assert "experiments: " in said and "streets" in said and "jobs: job-4711" in said
    assert "runs: gta5-11, gta5-10" in said
    assert "and 2 more" in said and not (tmp_path / "no").exists()
    with pytest.raises(JobError, match="did you mean 'streets'"):
        download_best("street", tmp_path / "no", uri, place)
