"""Ensembles of several architectures: each network by the spec beside its weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import JobError
from adapt.evaluation.evaluate import evaluate
from adapt.evaluation.inference import EnsembleMember
from adapt.models import build_segmenter
from adapt.models.segmenter import Segmenter
from adapt.models.weights import describe
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.trainer.score import evaluate_checkpoint
from storage.shards.cache import ShardCache
from storage.stores import Stores
from tests.networks import tiny_model
from tests.trainer.jobs import job_of

FILES = {"unet": "run/weights.safetensors", "icnet": "icnet.safetensors"}


@pytest.fixture
def networks(tmp_path: Path) -> dict[str, Segmenter]:
    """A network of each architecture of `FILES`, its weights there."""
    built = {}
    for seed, (architecture, file) in enumerate(FILES.items()):
        torch.manual_seed(seed)
        segmenter = build_segmenter(tiny_model(architecture), 4).eval()
        (tmp_path / file).parent.mkdir(exist_ok=True)
        header = describe(segmenter.config, 4)
        save_file(segmenter.state_dict(), tmp_path / file, metadata=header)
        built[architecture] = segmenter
    return built


def _spec_of(values: dict[str, Any], architecture: str) -> JobSpec:
    return job_of({**values, "model": tiny_model(architecture)})


def test_two_architectures_are_the_sum_of_their_logits(
    tiny_job: dict[str, Any], place: Place, networks: dict[str, Segmenter], tmp_path: Path
) -> None:
    """One in a run's folder, whose spec is `spec.yaml`; one a file with a spec of its name."""
    specs = {"unet": "run/spec.yaml", "icnet": "icnet.yaml"}
    for architecture, file in specs.items():
        (tmp_path / file).write_text(_spec_of(tiny_job, architecture).to_yaml())
    job = job_of(tiny_job)
    assert job.validation is not None
    members = [EnsembleMember(network, 0.5) for network in networks.values()]
    cache, table = ShardCache(tmp_path / "cache"), job.classes.table("tiny")
    split = PackedSplit(Stores().open(job.validation.uri), "val", cache, table)
    expected = evaluate(members, split, torch.device("cpu")).score.matrix
    split.close()
    checkpoints = [str(tmp_path / "run"), str(tmp_path / FILES["icnet"])]
    assert torch.equal(evaluate_checkpoint(job, place, checkpoints).score.matrix, expected)


def test_without_a_spec_beside_it_the_jobs_model_has_to_fit(
    tiny_job: dict[str, Any], place: Place, networks: dict[str, Segmenter], tmp_path: Path
) -> None:
    """The error names the file and the way on, not a key that nobody set."""
    file = str(tmp_path / FILES["icnet"])
    with pytest.raises(JobError, match=r"model.architecture: expected") as raised:
        evaluate_checkpoint(job_of(tiny_job), place, file)
    assert file in raised.value.problem and "start_uri" not in str(raised.value)
    assert "put the spec that it was trained with beside it, as icnet.yaml" in raised.value.fix
    assert evaluate_checkpoint(_spec_of(tiny_job, "icnet"), place, file).score.metrics()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just: words", "icnet.yaml: expected the job spec of the weights beside it"),
        ("- 1", "icnet.yaml: expected the job spec of the weights beside it"),
        ("model: {architecture: icnett}\nclasses: cityscapes19", "classes: expected those of"),
        (None, "icnet.yaml: model.architecture: expected a known name"),
    ],
)
def test_a_spec_that_is_none_or_of_other_classes_is_named(
    tiny_job: dict[str, Any],
    place: Place,
    networks: dict[str, Segmenter],
    tmp_path: Path,
    text: str | None,
    message: str,
) -> None:
    known = _spec_of(tiny_job, "icnet").to_yaml()
    wrong = known.replace("architecture: icnet", "architecture: icnett")
    (tmp_path / "icnet.yaml").write_text(text or wrong)
    with pytest.raises(JobError, match=message):
        evaluate_checkpoint(job_of(tiny_job), place, str(tmp_path / FILES["icnet"]))
    assert set(networks) == set(FILES)
