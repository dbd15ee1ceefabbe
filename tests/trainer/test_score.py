"""A job's checkpoints, alone and as an ensemble: evaluated, and predictions written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from adapt.config.strict_yaml import with_overrides
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.writing.pack import pack
from adapt.errors import DataError, JobError
from adapt.evaluation.evaluate import Evaluation, Score, evaluate
from adapt.evaluation.inference import EnsembleMember, InferenceConfig, class_map, predict
from adapt.evaluation.label_free import LABEL_FREE_SCORES
from adapt.models import build_segmenter
from adapt.models.segmenter import Segmenter
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec
from adapt.trainer import score
from adapt.trainer.opening import open_job
from adapt.trainer.score import evaluate_checkpoint, predict_checkpoint
from storage.shards.cache import ShardCache
from storage.stores import Stores
from tests.conftest import TINY_CLASSES, TINY_HW, write_raw_folders

CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("local", {}, tmp_path / "scratch")


@pytest.fixture
def networks(tiny_job: dict[str, Any], tmp_path: Path) -> list[Segmenter]:
    """Two networks of the job's model, whose weights are in `0/weights.safetensors` and
    `1.safetensors`."""
    built = []
    for seed, file in enumerate(("0/weights.safetensors", "1.safetensors")):
        torch.manual_seed(seed)
        segmenter = build_segmenter(tiny_job["model"], 4).eval()
        (tmp_path / file).parent.mkdir(exist_ok=True)
        save_file(segmenter.state_dict(), tmp_path / file)
        built.append(segmenter)
    return built


@pytest.fixture
def checkpoints(tmp_path: Path, networks: list[Segmenter]) -> list[str]:
    """A folder and a file."""
    return [str(tmp_path / "0"), str(tmp_path / "1.safetensors")]


def job_of(values: dict[str, Any], *overrides: str) -> JobSpec:
    return parse_spec(with_overrides(values, overrides), "tiny")


def validation(job: JobSpec, tmp_path: Path) -> PackedSplit:
    assert job.validation is not None
    table = job.classes.table("tiny")
    return PackedSplit(
        Stores().open(job.validation.uri), "val", ShardCache(tmp_path / "cache"), table
    )


def test_an_ensemble_weighs_its_members_equally_unless_told(
    tiny_job: dict[str, Any], place: Place, checkpoints: list[str], networks: list[Segmenter]
) -> None:
    job = job_of(tiny_job)
    split = validation(job, place.scratch_dir)
    seen = []
    for weights, expected in (
        (None, [0.5, 0.5]),
        ([0.5, 0.5], [0.5, 0.5]),
        ([0.1, 0.9], [0.1, 0.9]),
    ):
        got = evaluate_checkpoint(
            job, place, checkpoints, weights, lambda done, total: seen.append((done, total))
        )
        members = [EnsembleMember(*pair) for pair in zip(networks, expected, strict=True)]
        plain = evaluate(members, split, CPU, num_pictures=1)
        assert torch.equal(got.score.matrix, plain.score.matrix)
        np.testing.assert_array_equal(got.pictures[0].logits, plain.pictures[0].logits)
    assert seen == 3 * [(done, 5) for done in range(1, 6)]
    split.close()


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([1e-300], [1.0]),
        ([1e-60, 1e-60], [0.5, 0.5]),
        ([1e308, 1e308], [0.5, 0.5]),
        ([1.0, 3.0], [0.25, 0.75]),
        ([2.0, 2.0, 2.0], [1 / 3] * 3),
        ([0.1, 0.9], [0.1, 0.9]),
        ([1e-300, 1e300], [0.0, 1.0]),
    ],
    ids=str,
)
def test_only_the_ratios_of_weights_count(
    tiny_job: dict[str, Any],
    place: Place,
    checkpoints: list[str],
    monkeypatch: pytest.MonkeyPatch,
    weights: list[float],
    shares: list[float],
) -> None:
    given: list[Sequence[EnsembleMember]] = []

    def seen(members: Sequence[EnsembleMember], *_args: object, **_options: object) -> Evaluation:
        given.append(members)
        return Evaluation(Score(torch.zeros(4, 4, dtype=torch.int64)), [])

    monkeypatch.setattr(score, "evaluate", seen)
    uris = [*checkpoints, checkpoints[0]][: len(weights)]
    evaluate_checkpoint(job_of(tiny_job), place, uris, weights)
    assert [member.weight for member in given[0]] == shares


@pytest.mark.slow
def test_one_checkpoint_by_itself(
    tiny_job: dict[str, Any], place: Place, checkpoints: list[str], networks: list[Segmenter]
) -> None:
    job = job_of(tiny_job)
    split = validation(job, place.scratch_dir)
    expected = [evaluate(segmenter, split, CPU).score.matrix for segmenter in networks]
    split.close()
    assert not torch.equal(*expected)
    for uri, matrix in zip(checkpoints, expected, strict=True):
        assert torch.equal(evaluate_checkpoint(job, place, uri).score.matrix, matrix)
        assert torch.equal(evaluate_checkpoint(job, place, [uri]).score.matrix, matrix)


def test_the_spec_s_views_and_subsets_are_used(
    tiny_job: dict[str, Any], place: Place, checkpoints: list[str], networks: list[Segmenter]
) -> None:
    job = job_of(tiny_job, "evaluate.flip=true", "evaluate.scales=[1.0, 0.5]")
    split = validation(job, place.scratch_dir)
    views = InferenceConfig(flip=True, scales=(1.0, 0.5))
    expected = evaluate(networks[0], split, CPU, views=views).score.matrix
    assert not torch.equal(expected, evaluate(networks[0], split, CPU).score.matrix)
    split.close()
    assert torch.equal(evaluate_checkpoint(job, place, checkpoints[0]).score.matrix, expected)
    with pytest.raises(JobError, match=r"evaluate.subsets: .*'synthia13'"):
        evaluate_checkpoint(job_of(tiny_job, "evaluate.subsets=[synthia13]"), place, checkpoints[0])


@pytest.mark.parametrize(
    ("count", "weights", "found"), [(2, [1.0], "1 for 2"), (1, [0.5, 0.5], "2 for 1")]
)
def test_weights_must_match(
    tiny_job: dict[str, Any], place: Place, count: int, weights: list[float], found: str
) -> None:
    message = f"weights: expected a number for each checkpoint, got {found}"
    with pytest.raises(JobError, match=message):
        evaluate_checkpoint(job_of(tiny_job), place, ["a", "b"][:count], weights)


def test_something_must_be_named(tiny_job: dict[str, Any], place: Place) -> None:
    with pytest.raises(JobError, match="checkpoints: expected at least one"):
        evaluate_checkpoint(job_of(tiny_job), place, [])


def test_predictions_are_the_dataset_s_ids_and_need_no_labels(
    tiny_job: dict[str, Any],
    place: Place,
    checkpoints: list[str],
    networks: list[Segmenter],
    tmp_path: Path,
) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=8)
    store = Stores().open(str(tmp_path / "packed"))
    pack("folders", tmp_path / "raw", store, "train", name="tiny", unlabelled=True)
    tiny_job["classes"] = [
        {**entry, "ids": {"tiny": [10 * number]}} for number, entry in enumerate(TINY_CLASSES)
    ]
    tiny_job["validation"] = {"dataset": "tiny", "uri": store.uri, "split": "train"}
    job, seen = job_of(tiny_job, "evaluate.flip=true"), []
    count = predict_checkpoint(
        job,
        place,
        checkpoints,
        None,
        tmp_path / "out",
        colours=True,
        on_image=lambda done, total: seen.append((done, total)),
    )
    assert count == 2 and seen == [(1, 2), (2, 2)]
    assert len(list((tmp_path / "out" / "colours").iterdir())) == 2
    split = PackedSplit(store, "train", ShardCache(tmp_path / "cache"), None)
    members = [EnsembleMember(segmenter, 0.5) for segmenter in networks]
    with torch.no_grad():
        logits = predict(members, split.read(1).image, TINY_HW, CPU, job.evaluate)
    with Image.open(tmp_path / "out" / f"{split.key(1)}.png") as image:
        np.testing.assert_array_equal(np.array(image), 10 * class_map(logits).numpy())
    found = evaluate_checkpoint(job, place, checkpoints[0]).score.metrics()
    left_out = {"teacher_agreement", "flip_consistency"}
    assert set(found) == set(LABEL_FREE_SCORES) - left_out, "all that the job can have"
    split.close()


def test_predicting_needs_a_split(tiny_job: dict[str, Any], place: Place, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="validation: expected a split to predict on, got none"):
        predict_checkpoint(job_of(tiny_job, "validation=null"), place, "x", None, tmp_path)


def test_evaluating_needs_a_validation_split(tiny_job: dict[str, Any], place: Place) -> None:
    with pytest.raises(JobError, match="validation: expected a split to predict on, got none"):
        evaluate_checkpoint(job_of(tiny_job, "validation=null"), place, "anything")


@pytest.mark.parametrize("weights", [["nan", 1], [1, "inf"], [0, 1], [0.5, -0.5]], ids=str)
def test_weights_must_be_positive_numbers(
    tiny_job: dict[str, Any], place: Place, weights: list[Any]
) -> None:
    with pytest.raises(JobError, match="weights: expected positive numbers, got"):
        evaluate_checkpoint(job_of(tiny_job), place, ["a", "b"], [float(one) for one in weights])


def test_weights_that_are_no_numbers_have_no_score(
    tiny_job: dict[str, Any], place: Place, checkpoints: list[str], networks: list[Segmenter]
) -> None:
    state = networks[0].state_dict()
    name = next(iter(state))
    state[name].view(-1)[0] = float("nan")
    save_file(state, Path(checkpoints[0]) / "weights.safetensors")
    for call in (
        lambda: evaluate_checkpoint(job_of(tiny_job), place, checkpoints),
        lambda: predict_checkpoint(job_of(tiny_job), place, checkpoints, None, Path("nowhere")),
    ):
        with pytest.raises(JobError, match=f"got NaN or infinity in {name}"):
            call()
    with torch.no_grad():
        networks[1].state_dict()[name].fill_(3e38)  # finite, but not what it computes
    save_file(networks[1].state_dict(), checkpoints[1])
    with pytest.raises(JobError, match="checkpoints: expected finite logits, got NaN or infinity"):
        evaluate_checkpoint(job_of(tiny_job), place, checkpoints[1])


def test_a_split_without_a_counted_pixel_has_no_score(
    tiny_job: dict[str, Any], place: Place, checkpoints: list[str], tmp_path: Path
) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=8)
    for path in (tmp_path / "raw" / "labels").iterdir():
        Image.fromarray(np.full(TINY_HW, 255, np.uint8)).save(path)
    store = Stores().open(str(tmp_path / "packed"))
    pack("folders", tmp_path / "raw", store, "train", name="tiny")
    job = job_of(tiny_job, f"validation.uri={store.uri}", "validation.split=train")
    message = "expected pixels of the job's classes, got none of any"
    with pytest.raises(DataError, match=message):
        evaluate_checkpoint(job, place, checkpoints[0])
    with pytest.raises(DataError, match=message), open_job(job, place):
        pass
