"""Images too small for discriminators: refused by the key that sets their size."""

from pathlib import Path
from typing import Any

import pytest

from adapt.check import Subject
from adapt.check.data import check_split
from adapt.errors import JobError
from adapt.methods import METHODS, adversaries
from adapt.places import Place
from adapt.spec.loading import parse_spec
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


MASKED = ("mic", "masktwins")


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
            if name not in ("advent", "adaptsegnet", "intra_da", *MASKED, "vfm_uda")
        ),
        {"name": "adaptsegnet", "space": "features"},
        {"name": "vfm_uda", "masks": None},
    ],
    ids=str,
)
def test_other_methods_take_any_size(method: dict[str, Any]) -> None:
    spec = {**tiny_values("data", "runs"), "method": method}
    for domain in ("source", "target"):
        spec[domain] = {**spec[domain], "augment": {"crop_hw": [1, 7]}}
    parse_spec(spec, "tiny")


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize(
    ("target", "block_px", "message"),
    [
        (
            {"augment": {"crop_hw": [48, 200]}},
            48,
            "method.block_px: expected less than the shorter side of target images, 48 pixels "
            "(target.augment.crop_hw), got 48. Fix: write 6, or enlarge target images.",
        ),
        ({"size_hw": [200, 63]}, 64, "63 pixels (target.size_hw), got 64. Fix: write 7, or"),
        ({"size_hw": [1, 1]}, 1, "1 pixel (target.size_hw), got 1. Fix: enlarge target images."),
        ({"size_hw": [48, 64]}, 47, None),
        ({"size_hw": [2, 2]}, 1, None),
    ],
)
def test_masks_whose_blocks_are_as_large_as_the_image_are_refused(
    name: str, target: dict[str, Any], block_px: int, message: str | None
) -> None:
    """They hide all of it or nothing, as (H, W) of one block would; the source is not masked."""
    spec = {**tiny_values("data", "runs")}
    spec["source"] = {**spec["source"], "size_hw": [2, 2]}
    spec["target"] = {**spec["target"], **target}
    spec["method"] = {"name": name, "host": {"name": "source_only"}, "block_px": block_px}
    if message is None:
        parse_spec(spec, "tiny")
        return
    with pytest.raises(JobError) as caught:
        parse_spec(spec, "tiny")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", MASKED)
def test_masked_methods_need_what_their_base_method_needs(name: str) -> None:
    spec = {**tiny_values("data", "runs")}
    spec["source"] = {**spec["source"], "size_hw": [31, 64]}
    spec["method"] = {"name": name, "host": {"name": "advent"}, "block_px": 8}
    with pytest.raises(JobError, match=r"source.size_hw: expected at least 32 pixels a side"):
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
