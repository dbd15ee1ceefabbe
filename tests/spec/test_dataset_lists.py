"""`source` and `target` as lists of datasets: weights, one batch size, mistakes by key."""

from typing import Any

import pytest
import yaml

from adapt.config.strict_yaml import with_overrides
from adapt.errors import JobError
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import load_spec, parse_spec
from adapt.spec.same_job import check_same_job


@pytest.fixture
def two(tiny_job: dict[str, Any]) -> dict[str, Any]:
    """The tiny job with two sources and two targets."""
    first, second = {**tiny_job["source"], "weight": 2}, {**tiny_job["source"], "uri": "other"}
    del second["batch_size"]
    targets = [tiny_job["target"], {**tiny_job["target"], "weight": 3}]
    return {**tiny_job, "source": [first, second], "target": targets}


def job(values: dict[str, Any], *overrides: str) -> JobSpec:
    return parse_spec(with_overrides(values, overrides), "tiny")


def weights(one: JobSpec, domain: str) -> dict[str, float]:
    return {part.name: round(part.weight, 6) for part in one.parts(domain)}


def test_a_list_of_one_is_the_section_alone(tiny_job: dict[str, Any]) -> None:
    listed = {**tiny_job, "source": [tiny_job["source"]], "target": [tiny_job["target"]]}
    assert job(listed) == job(tiny_job)
    assert job(listed).resolved() == job(tiny_job).resolved()
    assert job(listed).to_yaml() == job(tiny_job).to_yaml()
    assert weights(job(listed), "source") == {"source": 1}


def test_the_resolved_spec_of_a_list_is_itself_a_job(two: dict[str, Any]) -> None:
    one = job(two)
    assert job(yaml.safe_load(one.to_yaml())) == one
    assert weights(one, "source") == {
        "source.0": pytest.approx(2 / 3, abs=1e-6),
        "source.1": 0.333333,
    }
    assert weights(one, "target") == {"target.0": 1, "target.1": 3}
    assert [part.config.batch_size for part in one.parts("source")] == [2, 2], "the first's"
    uris = one.uris()
    assert uris["source.1.uri"] == "other" and "target.1.uri" in uris and "source.uri" not in uris


def test_labelled_targets_share_what_they_have_by_weight(two: dict[str, Any]) -> None:
    one = job(
        two,
        "target.0.labelled_keys=['001']",
        "target[1].labelled_split=few",
        "target[1].labelled_share=0.2",
    )
    found = weights(one, "source")
    assert (found["labelled target.0"], found["labelled target.1"]) == (0.125, 0.15)
    assert sum(found.values()) == pytest.approx(1)
    assert found["source.0"] == pytest.approx(2 * found["source.1"], abs=1e-5)
    found = weights(job(two, "target.1.labelled_split=few"), "source")
    assert found["labelled target.1"] == 0.5, "of the labelled ones alone"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("source[1].split=5", r"^source\.1\.split: expected a text, got 5\. Fix: write '5'"),
        ("source.1.splt=a", r"^source\.1\.splt: unknown key, got 'splt'; did you mean 'split'"),
        ("target[0].augment.flip=2", r"^target\.0\.augment\.flip: expected a number >= 0 and <= 1"),
        (
            "source[1].weight=0",
            r"^source\.1\.weight: expected a number > 0 and <= 1000000.0, got 0",
        ),
        ("source[1].weight=.inf", r"^source\.1\.weight: "),
        (
            "source[1].batch_size=4",
            r"^source\.1\.batch_size: expected 2 as in source\.0, since they share batches, got "
            r"4\. Fix: state it in source\.0 alone",
        ),
        ("source[1].dataset=x", r"^source\.1\.dataset: classes: expected ids for dataset 'x'"),
        ("source[1].size_hw=[8, 8]", r"^source\.1\.size_hw: expected at least 32 pixels a side"),
        ("source[1].uri=foo://x", r"^source\.1\.uri: "),
        ("source[2].uri=x", r"--set source\[2\]\.uri: expected the number of an entry, got '2'"),
        ("source=[]", r"^source: expected a dataset or a list of them, got an empty list"),
        ("target=[]", r"^target: expected a dataset or a list of them, got an empty list"),
        ("source=[5]", r"^source\.0: expected keys and values, got 5"),
        ("source=5", r"^source: expected keys and values or a list, got 5"),
        ("target=x", r"^target: expected keys and values or a list or null, got 'x'"),
        ("source=null", r"^source: expected keys and values or a list, got null"),
        (
            "target[1].labelled_split=val",
            r"^target\.1\.labelled_split: expected another split than",
        ),
    ],
)
def test_mistakes_name_the_dataset(two: dict[str, Any], override: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        job(two, override)


def test_a_size_that_differs_is_named_where_a_rank_has_several_images(two: dict[str, Any]) -> None:
    one = job(two, "target[1].size_hw=[64, 64]")
    with pytest.raises(
        JobError, match=r"^target\.batch_size: .* \[48, 64\] of target\.0 and \[64, "
    ):
        one.check_ranks(1)
    one.check_ranks(2)
    with pytest.raises(JobError, match=r"^source\.0\.batch_size: expected a multiple of 4"):
        one.check_ranks(4)


def test_what_may_change_in_a_list_when_a_job_resumes(two: dict[str, Any]) -> None:
    saved = job(two)
    check_same_job(saved, job(two, "source[1].uri=moved"))
    for change, message in (
        ("source[1].weight=2", r"^source\.1\.weight: expected 1\.0, the value of the run's"),
        ("source[1].split=b", r"^source\.1\.split: expected 'train'"),
    ):
        with pytest.raises(JobError, match=message):
            check_same_job(saved, job(two, change))


def test_specs_from_before_lists_resume(tiny_job: dict[str, Any]) -> None:
    resolved = job(tiny_job).resolved()
    for section in (resolved["source"], resolved["target"]):
        for key in [key for key in section if key == "weight" or key.startswith("labelled_")]:
            del section[key]
    check_same_job(job(resolved), job(tiny_job))


def test_the_shipped_spec_of_two_sources() -> None:
    one = load_spec("two_sources_to_cityscapes/daformer")
    assert weights(one, "source") == {"source.0": 0.666667, "source.1": 0.333333}
    one.check_ranks(1)


def test_a_labelling_stage_labels_one_target(two: dict[str, Any]) -> None:
    values = {**two, "method": {"name": "intra_da", "pseudo_labels": {"run": "first"}}}
    with pytest.raises(JobError, match=r"^target: expected one dataset for the labelling stage of"):
        job(values)
    assert len(job({**values, "target": two["target"][0]}).parts("source")) == 2
