"""Jobs with adapters: exact resume, and checkpoints that leave out the base and find it again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_leaves

import adapt
from adapt.checkpoint.run_folder import RunFolder
from adapt.errors import Interrupted, JobError
from adapt.models.adapters.attach import ADAPTERS, adapted
from adapt.models.base_weights import BASE
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.trainer.score import evaluate_checkpoint
from adapt.use.importing import import_model
from adapt.use.model import LoadedModel
from storage.stores import Stores
from tests.conftest import small_method, tiny_values
from tests.networks import SURE
from tests.trainer.jobs import job_of, last_weights, run, stopped_and_calm

torch.set_num_threads(1)
IMAGE = (np.arange(64 * 96 * 3) % 251).reshape(64, 96, 3).astype(np.uint8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of an encoder's weights as the hub has it, classifier and all."""
    return write_base(tmp_path_factory.mktemp("base") / "vit.safetensors", seed=1)


BF16 = ("train.precision=bf16", "train.frozen_weights=bf16")


def write_base(path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), path)
    return str(path)


@pytest.fixture
def values(tiny_job: dict[str, Any], base: str) -> dict[str, Any]:
    return with_adapters(tiny_job, base)


def with_adapters(values: dict[str, Any], base: str) -> dict[str, Any]:
    adapters = {"kind": "soma", "rank": 2}
    model = {**values["model"], "encoder": "test_vit", "adapters": adapters, "weights_uri": base}
    return {**values, "model": model, "method": small_method("source_only")}


def shares(model: LoadedModel) -> Any:
    """The probabilities of an image."""
    return model.predict(IMAGE).probabilities


def folder_of(job: JobSpec) -> Path:
    return Path(job.checkpoint.uri) / job.name


def last(job: JobSpec) -> Path:
    return sorted(folder_of(job).glob("step-*"))[-1]


def trained_only(values: dict[str, Any], where: Path, *overrides: str) -> JobSpec:
    given = ("checkpoint.trained_only=true", f"checkpoint.uri={where}", "train.steps=2")
    return job_of(values, *given, *overrides)


@pytest.fixture(scope="module")
def two_runs(
    tiny_uri: str, base: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[JobSpec, JobSpec]:
    """The same job with whole checkpoints and with checkpoints without the base."""
    folder = tmp_path_factory.mktemp("two-runs")
    values = with_adapters(tiny_values(tiny_uri, str(folder / "whole")), base)
    whole, small = job_of(values, "train.steps=2"), trained_only(values, folder / "small")
    for job in (whole, small):
        run(job, Place("local", {}, folder / "scratch", grace_s=120))
    return whole, small


def test_checkpoints_hold_what_trains_alone(two_runs: tuple[JobSpec, JobSpec]) -> None:
    whole, small = map(last_weights, two_runs)
    left_out = {
        name
        for name in whole
        if name.startswith("encoder.") and not name.endswith((".down", ".up", ".basis"))
    } - {name.replace("down", "bias") for name in whole if name.endswith(".down")}
    assert whole.keys() - small.keys() == left_out
    assert all(torch.equal(small[name], whole[name]) for name in small)
    states = [(last(job) / "state.pt").stat().st_size for job in two_runs]
    assert states[1] < states[0] / 2
    moments = torch.load(last(two_runs[1]) / "state.pt")["engine"]["optimizers"]["segmenter"]
    assert len(moments["state"]) == len([name for name in small if ".basis" not in name])


def test_the_header_names_the_base(two_runs: tuple[JobSpec, JobSpec], base: str) -> None:
    with safe_open(last(two_runs[1]) / "weights.safetensors", framework="pt") as file:
        entry = json.loads(file.metadata()[BASE])
    assert entry["encoder"] == "test_vit" and entry["weights_uri"] == base
    assert len(entry["sha256"]) == 64
    with safe_open(last(two_runs[0]) / "weights.safetensors", framework="pt") as file:
        assert BASE not in file.metadata()


def test_a_network_is_the_same_from_either_file(
    two_runs: tuple[JobSpec, JobSpec], place: Place, tmp_path: Path, base: str
) -> None:
    whole, small = (adapt.load(str(folder_of(job)), merge=False) for job in two_runs)
    expected = whole.segmenter.state_dict()
    found = small.segmenter.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    matrices = [evaluate_checkpoint(job, place, str(last(job))).score.matrix for job in two_runs]
    assert torch.equal(*matrices)
    merged = adapt.load(str(folder_of(two_runs[1])))
    assert not list(adapted(merged.segmenter)) and list(adapted(whole.segmenter))
    np.testing.assert_allclose(shares(merged), shares(whole), rtol=0, atol=1e-6)
    by_spec = adapt.load(str(last(two_runs[1])), spec=two_runs[1], merge=False)
    np.testing.assert_array_equal(shares(by_spec), shares(whole))


def test_an_imported_file_is_whole_and_merged_or_not(
    two_runs: tuple[JobSpec, JobSpec], tmp_path: Path, base: str
) -> None:
    shutil.copy(last(two_runs[1]) / "weights.safetensors", tmp_path / "small.safetensors")
    expected = shares(adapt.load(str(folder_of(two_runs[0]))))
    for merge in (True, False):
        out = tmp_path / f"{merge}.safetensors"
        import_model(tmp_path / "small.safetensors", out, merge=merge)
        tensors = load_file(out)
        assert any(".down" in name for name in tensors) is not merge
        found = shares(adapt.load(str(out)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_another_base_is_refused_and_a_moved_one_named(
    values: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    own = write_base(tmp_path / "own.safetensors", seed=3)
    other = write_base(tmp_path / "other.safetensors", seed=4)
    job = trained_only(values, tmp_path / "runs", f"model.weights_uri={own}")
    with pytest.raises(Interrupted):
        run(job, place, stop_at=1)
    where = str(folder_of(job))
    expected = shares(adapt.load(where))
    with pytest.raises(JobError, match=r"expected the base that it was trained on, test_vit of "):
        adapt.load(where, base=other)
    Path(own).rename(tmp_path / "moved.safetensors")
    with pytest.raises(JobError, match=r"own.safetensors.*Fix: name the file with the weights of"):
        adapt.load(where)
    moved = str(tmp_path / "moved.safetensors")
    np.testing.assert_array_equal(shares(adapt.load(where, base=moved)), expected)
    Path(other).rename(own)
    with pytest.raises(JobError, match=r"^checkpoint.uri: expected the base that it was trained"):
        run(job, place)


def test_a_base_of_a_whole_file_is_refused(two_runs: tuple[JobSpec, JobSpec], base: str) -> None:
    with pytest.raises(JobError, match=r"^base: expected weights that leave out their base, got"):
        adapt.load(str(folder_of(two_runs[0])), base=base)


@pytest.mark.parametrize(
    "options", [BF16, ("model.adapters=null", "model.frozen_encoder=true")], ids=str
)
def test_a_base_held_in_bf16_or_without_adapters_is_the_same_again(
    values: dict[str, Any], place: Place, tmp_path: Path, options: tuple[str, ...]
) -> None:
    found = []
    for small in ("true", "false"):
        given = (f"checkpoint.trained_only={small}", f"checkpoint.uri={tmp_path / small}", *options)
        job = job_of(values, "train.steps=1", "validation=null", *given)
        run(job, place)
        found.append(adapt.load(str(folder_of(job)), merge=False).segmenter.state_dict())
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize(("method", "small"), [("source_only", False), ("daformer", True)])
def test_a_job_with_adapters_resumes_bit_for_bit(
    values: dict[str, Any], place: Place, tmp_path: Path, kind: str, method: str, small: bool
) -> None:
    values = {**values, "method": {**small_method(method), **SURE.get(method, {})}}
    values = {**values, "train": {**values["train"], "ema": {"alpha": 0.5}, "steps": 4}}
    values["optim"] = {"name": "adamw", "lr": 1e-3, "layer_decay": 0.8, "weight_decay_end": 1e-5}
    given = (f"model.adapters.kind={kind}", f"checkpoint.trained_only={str(small).lower()}")
    given = (*given, "evaluate.weights=ema", "validation=null", *(BF16 if small else ()))
    both = stopped_and_calm(values, place, tmp_path, *given, stops=(2,))
    states = [torch.load(last(one) / "state.pt")["engine"] for one in both]
    for one, other in zip(*map(tree_leaves, states), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_what_is_left_out_stays_the_same_in_a_run(
    values: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run(trained_only(values, tmp_path), place, stop_at=1)
    whole = job_of(values, f"checkpoint.uri={tmp_path}", "train.steps=2")
    with pytest.raises(JobError, match=r"^checkpoint.trained_only: expected true, the value of"):
        run(whole, place)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.adapters=null"], "expected an encoder whose weights are frozen, got one that"),
        (["model.start_uri=x.pth"], "expected a base at model.weights_uri or timm's, got model.st"),
        (["model.weights_uri=null"], "expected a base that can be had again, got random weights"),
        (
            ["method.name=intra_da", "method.pseudo_labels.run=a"],
            "expected a method without a labelling stage or another network, got intra_da",
        ),
    ],
)
def test_a_base_that_could_not_be_had_again_is_refused(
    values: dict[str, Any], tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(JobError, match=f"^checkpoint.trained_only: {message}") as error:
        trained_only(values, tmp_path, *overrides)
    assert error.value.fix.endswith("set checkpoint.trained_only: false")


def test_training_may_start_from_a_checkpoint_without_its_base(
    two_runs: tuple[JobSpec, JobSpec], values: dict[str, Any], place: Place
) -> None:
    start = last(two_runs[1]) / "weights.safetensors"
    job = job_of(values, "name=later", f"model.start_uri={start}", "train.steps=1", "optim.lr=1e-9")
    run(job, place)
    before = adapt.load(str(start), merge=False).segmenter.state_dict()
    after = last_weights(job)
    frozen = [name for name in before if name.endswith("qkv.weight")]
    assert frozen and all(torch.equal(after[name], before[name]) for name in frozen)
    assert RunFolder(Stores().open(str(folder_of(job)))).names()


def test_adapters_start_from_a_whole_network_without_any(
    values: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    plain = job_of(values, "name=plain", "model.adapters=null", "train.steps=1")
    run(plain, place)
    start = last(plain) / "weights.safetensors"
    job = job_of(values, f"model.start_uri={start}", "train.steps=1")
    run(job, place)
    assert any(tensor.any() for name, tensor in last_weights(job).items() if ".basis" in name)
    message = r"^model.adapters: expected \{.*with which the weights at model.start_uri were"
    with pytest.raises(JobError, match=message):
        adapted_start = last(job) / "weights.safetensors"
        wrong = job_of(values, "name=wrong", f"model.start_uri={adapted_start}")
        run(job_of(wrong.resolved(), "model.adapters.alpha=3"), place)
