"""Images too small for discriminators: refused by the key that sets their size."""

from pathlib import Path
from typing import Any

import pytest

from adapt.check import Subject
from adapt.check.data import check_split
from adapt.errors import JobError
from adapt.methods import METHODS, adversaries
from adapt.places import Place
from adapt.spec.job_spec import parse_spec
from adapt.trainer.opening import open_cache, open_data, open_stores
from tests.conftest import tiny_values
from tests.networks import IN_A_JOB

SMALL = [
    ("source", {"size_hw": [31, 64]}, "source.size_hw: expected at least 32 .* got 31x64"),
    ("target", {"size_hw": [64, 16]}, "target.size_hw: expected at least 32 .* got 64x16"),
    (
        "source",
        {"augment": {"crop_hw": [16, 16]}},
        r"source.augment.crop_hw: expected .* got 16x16. Fix: set source.augment.crop_hw to \[32",
    ),
    ("target", {"augment": {"crop_hw": [40, 31]}}, "target.augment.crop_hw: .* got 40x31"),
]


@pytest.mark.parametrize(("domain", "values", "message"), SMALL)
@pytest.mark.parametrize("method", ["advent", "adaptsegnet", "intra_da"])
def test_a_spec_with_small_images_is_refused_by_key(
    method: str, domain: str, values: dict[str, Any], message: str
) -> None:
    spec = {**tiny_values("data", "runs"), "method": {"name": method, **IN_A_JOB.get(method, {})}}
    spec[domain] = {**spec[domain], **values}
    with pytest.raises(JobError, match=message):
        parse_spec(spec, "tiny")


@pytest.mark.parametrize(
    "method",
    [
        *(
            {"name": name, **IN_A_JOB.get(name, {})}
            for name in METHODS
            if name not in ("advent", "adaptsegnet", "intra_da")
        ),
        {"name": "adaptsegnet", "space": "features"},
    ],
    ids=str,
)
def test_other_methods_take_any_size(method: dict[str, Any]) -> None:
    spec = {**tiny_values("data", "runs"), "method": method}
    for domain in ("source", "target"):
        spec[domain] = {**spec[domain], "augment": {"crop_hw": [1, 7]}}
    parse_spec(spec, "tiny")


def test_images_that_come_as_packed_are_checked_when_they_are_opened(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `run` and `check` alike."""
    for domain in ("source", "target"):
        del tiny_job[domain]["size_hw"]
    monkeypatch.setattr(adversaries, "SMALLEST_SIDE_PX", 5000)
    job, place = parse_spec(tiny_job, "tiny"), Place("local", {}, tmp_path)
    message = "source.size_hw: expected at least 5000 pixels a side"
    with pytest.raises(JobError, match=message):
        open_data(job, open_stores(job, place), open_cache(job, place))
    for domain in ("source", "target"):
        (found,) = check_split(Subject(job, place), domain).findings
        assert not found.ok and f"{domain}.size_hw: expected at least 5000" in found.found
