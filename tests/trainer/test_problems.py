"""The checks of a job: one order, one by one, the first problem refuses."""

from dataclasses import replace
from typing import Any

import pytest

from adapt.errors import JobError
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec
from adapt.trainer.problems import ALL, QUICK, checked, problems, refuse_problems
from tests.trainer.jobs import job_of


def broken(values: dict[str, Any]) -> JobSpec:
    """A job of which everything is wrong at a place of three ranks without secrets."""
    secrets = {"access_key_env": "NO_SUCH_KEY", "secret_key_env": "NO_SUCH_SECRET"}
    stores = {"s3": {"endpoint_url": "http://127.0.0.1:9", "region": "r", **secrets}}
    values = {**values, "stores": stores, "source": {**values["source"], "uri": "s3://b/d"}}
    values = {**values, "train": {**values["train"], "max_cost": 5}}
    return parse_spec({**values, "method": {"name": "advent", "weight_adv": [1, 1, 1]}}, "tiny")


def test_a_sound_job_has_no_problems_and_says_what_holds(
    tiny_job: dict[str, Any], place: Place
) -> None:
    found = list(checked(job_of(tiny_job), place))
    assert [one.what for one in found] == ["batches", "networks"], "it names no secrets"
    assert found[0].found == "2 and 2 images a rank, 1 rank"
    assert found[1].found.startswith("deeplab_v2 on test_resnet, advent: ")
    assert list(problems(job_of(tiny_job), place)) == []
    refuse_problems(job_of(tiny_job), place)


def test_all_problems_come_in_one_order_and_the_first_refuses(
    tiny_job: dict[str, Any], place: Place
) -> None:
    job, there = broken(tiny_job), replace(place, num_ranks=3)
    assert [one.what for one in checked(job, there)] == list(ALL)
    keys = [str(error).split(":")[0] for error in problems(job, there)]
    expected = ["source.batch_size", "stores.s3.access_key_env", "train.max_cost"]
    assert keys == [*expected, "method.weight_adv"]
    for place_, key in ((there, "source.batch_size"), (place, "stores.s3.access_key_env")):
        with pytest.raises(JobError, match=f"^{key}: "):
            refuse_problems(job, place_)


def test_what_starts_ranks_builds_no_networks(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def building(_job: JobSpec) -> None:
        raise AssertionError("the ranks do that")

    monkeypatch.setattr("adapt.trainer.problems.check_networks", building)
    refuse_problems(job_of(tiny_job), place, QUICK)
    with pytest.raises(JobError, match=r"^source\.batch_size: "):
        refuse_problems(broken(tiny_job), replace(place, num_ranks=3))
    with pytest.raises(AssertionError):
        refuse_problems(job_of(tiny_job), place)


def test_a_limit_of_the_cost_needs_a_price(tiny_job: dict[str, Any], place: Place) -> None:
    (error,) = problems(job_of(tiny_job, "train.max_cost=50"), place, ("cost",))
    assert str(error) == (
        "train.max_cost: expected a price to count by, got neither report.price_per_hour nor a "
        "profile's price. Fix: set report.price_per_hour, or price_per_hour of the profile."
    )
    priced = job_of(tiny_job, "train.max_cost=50", "report.price_per_hour=3.5")
    (line,) = checked(priced, place, ("cost",))
    assert line.found == "ends at 50 USD, by 3.5 USD a node an hour"
