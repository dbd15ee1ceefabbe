"""Two-stage jobs in this process: rounds, resumes, and the runs that label."""

import shutil
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapt.data.packed.split_files import read_manifest
from adapt.errors import DataError, Interrupted, JobError
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.trainer.label_job import label_job
from adapt.trainer.labelling import round_at, round_end
from adapt.trainer.run import run_job
from storage.local import LocalStore
from tests.conftest import tiny_values
from tests.trainer.jobs import assert_same_weights, job_of, last_weights, run

CBST = {"name": "class_balanced_self_training", "rounds": 2, "pseudo_labels": {"run": "before"}}
INTRA_DA = {"name": "intra_da", "weight_adv": [0.01], "pseudo_labels": {"run": "before"}}


def values_of(tiny_job: dict[str, Any], method: dict[str, Any], name: str) -> dict[str, Any]:
    return {**tiny_job, "name": name, "method": method}


@pytest.fixture(scope="module")
def runs_before(tiny_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs after a short one, `before`, that may label."""
    folder = tmp_path_factory.mktemp("before")
    values = tiny_values(tiny_uri, str(folder / "runs"))
    first = values_of(values, {"name": "source_only"}, "before")
    run(job_of(first, "train.steps=2"), Place("local", {}, folder / "scratch"))
    return folder / "runs"


@pytest.fixture
def before(runs_before: Path, tiny_job: dict[str, Any]) -> dict[str, Any]:
    """The tiny job, beside a run `before`."""
    shutil.copytree(runs_before, tiny_job["checkpoint"]["uri"])
    return tiny_job


def manifests(job: JobSpec) -> dict[str, bytes]:
    """Of the last round: whether earlier ones are kept depends on the checkpoints that are."""
    folder = Path(job.checkpoint.uri) / job.name / "pseudo_labels"
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}
    last = max(name[: len("round-0")] for name in found)
    return {name: content for name, content in found.items() if name.startswith(last)}


@pytest.mark.slow
@pytest.mark.parametrize("method", [CBST, INTRA_DA], ids=lambda one: one["name"])
def test_a_job_that_stops_at_any_step_ends_with_the_same_weights(
    method: dict[str, Any], before: dict[str, Any], place: Place
) -> None:
    calm = job_of(values_of(before, method, "calm"))
    run(calm, place)
    stormy = job_of(values_of(before, method, "stormy"))
    for step in (1, 3, 4):
        with pytest.raises(Interrupted, match=f"stopped .* step {step}"):
            run(stormy, place, stop_at=step)
    outcome, _ = run(stormy, place)
    assert outcome.step == 6
    assert_same_weights(calm, stormy)
    assert manifests(calm) == manifests(stormy)


@pytest.mark.slow
def test_each_round_labels_by_the_network_as_it_is_then(
    before: dict[str, Any], place: Place
) -> None:
    """Round 1's labels are those that its checkpoint gives to a job of its own, with 5 % more."""
    job = job_of(values_of(before, CBST, "cbst"), "checkpoint.every_steps=1")
    run(job, place)
    folder = Path(job.checkpoint.uri) / "cbst"
    counts = {}
    for path in sorted((folder / "pseudo_labels").glob("round-*-all")):
        manifest, _ = read_manifest(LocalStore(str(path.parent)), path.name)
        counts[path.name[:7]] = manifest.id_pixels
    again = {"run": str(folder / "step-00000003"), "portion": 0.25}
    summary = label_job(job_of(values_of(before, {**CBST, "pseudo_labels": again}, "again")), place)
    assert list(counts) == ["round-0", "round-1"]
    manifest, _ = read_manifest(LocalStore(summary.uri), next(iter(summary.splits)))
    assert counts["round-1"] == manifest.id_pixels != counts["round-0"]


@pytest.mark.slow
def test_labels_that_no_kept_checkpoint_needs_are_removed(
    before: dict[str, Any], place: Place
) -> None:
    left = {}
    for keep in (1, 3):
        values = values_of(before, {**CBST, "rounds": 3}, f"keep-{keep}")
        job = job_of(values, f"checkpoint.keep={keep}", "checkpoint.every_steps=1")
        run(job, place)
        folder = Path(job.checkpoint.uri) / job.name / "pseudo_labels"
        left[keep] = sorted(path.name[:7] for path in folder.glob("round-*.json"))
    assert left == {1: ["round-2"], 3: ["round-1", "round-2"]}


@pytest.mark.slow
def test_few_labelled_samples_join_the_easy_images(before: dict[str, Any], place: Place) -> None:
    """IntraDA's source are easy images and, half of the draws, labelled ones of the target."""
    values = values_of(before, INTRA_DA, "few")
    values["target"] = {**before["target"], "labelled_keys": ["000", "001"]}
    assert run(job_of(values), place)[0].step == 6
    state = torch.load(
        Path(before["checkpoint"]["uri"]) / "few" / "step-00000006" / "state.pt", weights_only=True
    )
    alone = values_of(before, INTRA_DA, "alone")
    run(job_of(alone), place)
    other = torch.load(
        Path(before["checkpoint"]["uri"]) / "alone" / "step-00000006" / "state.pt",
        weights_only=True,
    )
    assert state["source"]["dataset_id"] != other["source"]["dataset_id"]
    assert state["pseudo_labels"] == other["pseudo_labels"]


@pytest.mark.slow
def test_a_kill_between_rounds_continues_with_the_next_round_s_labels(
    before: dict[str, Any], place: Place
) -> None:
    """The checkpoint of step 3 is stored, the labels of round 1 are not there, or not yet whole."""
    calm, stormy = (job_of(values_of(before, CBST, name)) for name in ("calm", "stormy"))
    run(calm, place)
    expected = manifests(calm)
    with pytest.raises(Interrupted):
        run(stormy, place, stop_at=3)
    labels = Path(stormy.checkpoint.uri) / "stormy" / "pseudo_labels"
    for folder in labels.glob("round-1-*-all"):
        (folder / "manifest.json").unlink()
    run(stormy, place)
    assert_same_weights(calm, stormy)
    assert manifests(stormy) == expected


@pytest.mark.slow
def test_a_run_that_has_labelled_is_needed_no_more(before: dict[str, Any], place: Place) -> None:
    job = job_of(values_of(before, CBST, "cbst"))
    with pytest.raises(Interrupted):
        run(job, place, stop_at=1)
    shutil.rmtree(Path(job.checkpoint.uri) / "before")
    assert run(job, place)[0].step == 6


@pytest.mark.slow
def test_labels_that_are_gone_stop_the_resume(before: dict[str, Any], place: Place) -> None:
    job = job_of(values_of(before, CBST, "cbst"))
    with pytest.raises(Interrupted):
        run(job, place, stop_at=4)
    shutil.rmtree(Path(job.checkpoint.uri) / "cbst" / "pseudo_labels")
    with pytest.raises(DataError, match="expected the pseudo-labels that the run's checkpoint"):
        run(job, place)


@pytest.mark.slow
def test_labels_by_another_checkpoint_are_no_resume(before: dict[str, Any], place: Place) -> None:
    """They are gone, and the run that labels has another checkpoint by now."""
    job = job_of(values_of(before, CBST, "cbst"))
    with pytest.raises(Interrupted):
        run(job, place, stop_at=1)
    runs = Path(job.checkpoint.uri)
    shutil.rmtree(runs / "cbst" / "pseudo_labels")
    (weights,) = runs.glob("before/step-00000002/weights.safetensors")
    tensors = {key: tensor * 1.5 for key, tensor in load_file(weights).items()}
    save_file(tensors, weights)
    with pytest.raises(JobError, match=r"target: expected dataset_id .*cannot be resumed"):
        run(job, place)


@pytest.mark.slow
def test_a_stop_while_labelling_is_an_interruption(before: dict[str, Any], place: Place) -> None:
    stop, beats = Event(), []

    def beat() -> None:
        beats.append(1)
        if len(beats) == 9:
            stop.set()

    job = job_of(values_of(before, CBST, "cbst"))
    with pytest.raises(Interrupted, match="stopped while making pseudo-labels"):
        run_job(job, place, stop, beat=beat)
    assert run(job, place)[0].step == 6


@pytest.mark.slow
def test_training_starts_where_the_paper_starts(before: dict[str, Any], place: Place) -> None:
    """CBST from the weights that label, IntraDA from model's: a rate near 0 shows them."""
    still = ("optim={name: sgd, lr: 1.0e-12}", "train.steps=2")
    labelling = last_weights(job_of(values_of(before, {"name": "source_only"}, "before")))
    for method, same in ((CBST, True), (INTRA_DA, False)):
        job = job_of(values_of(before, method, method["name"]), *still)
        run(job, place)
        key = "decoder.heads.0.branches.0.weight"
        assert torch.allclose(last_weights(job)[key], labelling[key], atol=1e-6) is same


@pytest.mark.slow
def test_a_labeller_may_be_of_another_architecture(before: dict[str, Any], place: Place) -> None:
    other = {"architecture": "deeplab_v3", "encoder": "test_resnet", "output_stride": 16}
    values = values_of(before, INTRA_DA, "intra") | {"model": {**other, "weights": "none"}}
    assert run(job_of(values), place)[0].step == 6
    cbst = job_of(values_of(before, CBST, "cbst") | {"model": {**other, "weights": "none"}})
    with pytest.raises(
        JobError, match=r"expected .deeplab_v2., .*weights at method.pseudo_labels.run"
    ):
        run(cbst, place)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_run_without_a_checkpoint_is_refused(
    name: str, before: dict[str, Any], place: Place
) -> None:
    (Path(before["checkpoint"]["uri"]) / "empty").mkdir()
    job = job_of(values_of(before, CBST, "cbst"), f"method.pseudo_labels.run={name}")
    with pytest.raises(JobError, match=f"expected a run with a checkpoint, got none at .*{name}"):
        run(job, place)


@pytest.mark.slow
def test_a_run_is_named_by_its_name_a_folder_a_checkpoint_or_a_file(
    before: dict[str, Any], place: Place
) -> None:
    runs = Path(before["checkpoint"]["uri"])
    folder = runs / "before" / "step-00000002"
    names = ["before", str(runs / "before"), str(folder), f"{folder}/weights.safetensors"]
    uris = []
    for number, name in enumerate(names):
        job = job_of(values_of(before, CBST, f"job-{number}"), f"method.pseudo_labels.run={name}")
        uris.append(label_job(job, place).weights_uri.removeprefix("file://"))
    assert uris == [f"{folder}/weights.safetensors"] * 4


@pytest.mark.slow
def test_the_best_or_the_last_checkpoint_labels(before: dict[str, Any], place: Place) -> None:
    folder = Path(before["checkpoint"]["uri"]) / "before"
    shutil.copytree(folder / "step-00000002", folder / "step-00000004")
    found = []
    for which in ("best", "last"):
        job = job_of(values_of(before, CBST, which), f"method.pseudo_labels.checkpoint={which}")
        found.append(label_job(job, place).weights_uri.split("/")[-2])
    assert found == ["step-00000002", "step-00000004"]
    (folder / "BEST.json").unlink()
    job = job_of(values_of(before, CBST, "unmarked"))
    assert "step-00000004" in label_job(job, place).weights_uri, "a run without validation"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.pseudo_labels.run=null"], "pseudo_labels.run: missing, expected the run whose"),
        (["name=before"], "method.pseudo_labels.run: expected another run, got this one"),
        (
            ["name=other", "checkpoint.uri=runs", "method.pseudo_labels.run=./runs//other/"],
            "method.pseudo_labels.run: expected another run, got this one",
        ),
        (
            ["name=x", "checkpoint.uri=runs", "method.pseudo_labels.run=runs/x/step-00000002"],
            "method.pseudo_labels.run: expected another run, got this one",
        ),
        (["method.rounds=7"], "method.rounds: expected at most train.steps, 6, got 7"),
    ],
)
def test_a_spec_that_cannot_label_is_refused(
    overrides: list[str], message: str, tiny_job: dict[str, Any]
) -> None:
    with pytest.raises(JobError, match=message):
        job_of(values_of(tiny_job, CBST, "cbst"), *overrides)


def test_rounds_divide_the_steps(tiny_job: dict[str, Any]) -> None:
    job = job_of(values_of(tiny_job, {**CBST, "rounds": 3}, "cbst"), "train.steps=10")
    assert [round_at(job, step) for step in (0, 2, 3, 5, 6, 9, 10)] == [0, 0, 1, 1, 2, 2, 2]
    assert [round_end(job, step) for step in (0, 2, 3, 6, 10)] == [3, 3, 6, 10, 10]
    one = job_of(values_of(tiny_job, {"name": "source_only"}, "one"))
    assert (round_at(one, 5), round_end(one, 0)) == (0, 6)


def test_a_method_without_a_stage_has_no_labels(tiny_job: dict[str, Any], place: Place) -> None:
    with pytest.raises(JobError, match=r"expected a method with a labelling stage .*got advent"):
        label_job(job_of(tiny_job), place)
