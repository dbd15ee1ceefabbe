"""The logs of a job on SageMaker: read, and followed over outages."""

import pytest

from storage.errors import StoreUnavailable
from tests.platforms.quick import quick_retries
from tests.platforms.sagemaker_double import SageMakerDouble
from tests.platforms.sagemaker_jobs import started


def test_lines_of_a_machine_come_as_they_are(aws: SageMakerDouble) -> None:
    connected = started(aws)
    assert list(connected.logs("tiny-1", follow=False)) == []  # no group yet
    aws.streams["tiny-1/algo-1-1"] = [(n, f"line {n}") for n in range(7)] + [(9, "two\nlines")]
    aws.streams["tiny-12/algo-1-1"] = [(1, "another job's")]
    lines = list(connected.logs("tiny-1", follow=False))
    assert lines == [*(f"line {n}" for n in range(7)), "two", "lines"]


def test_lines_of_several_machines_are_merged_by_time(aws: SageMakerDouble) -> None:
    connected = started(aws, "nodes=2")
    aws.streams["tiny-1/algo-1-1"] = [(1, "a"), (4, "d"), (5, "e")]
    aws.streams["tiny-1/algo-2-1"] = [(2, "b"), (3, "c")]
    lines = list(connected.logs("tiny-1", follow=False))
    assert lines == ["algo-1 | a", "algo-2 | b", "algo-2 | c", "algo-1 | d", "algo-1 | e"]


def test_followed_lines_come_once_also_after_a_restart_and_late(aws: SageMakerDouble) -> None:
    connected = started(aws)
    first = [(1, "start"), (2, "step 1")]
    aws.scripts["tiny-1"] = [
        ("InProgress", "Training"),
        ("InProgress", "Interrupted"),
        *[("InProgress", "Training")] * 3,
        ("Completed", "Completed"),
    ]
    again = [(5, "resumed"), (6, "step 2")]
    aws.later = [
        {},
        {"tiny-1/algo-1-100": first},
        {"tiny-1/algo-1-100": first, "tiny-1/algo-1-200": again},
        *[{}] * 3,  # quiet for two looks while it runs, and at its end
        {"tiny-1/algo-1-200": [*again, (7, "done, said late")]},
    ]
    lines = list(connected.logs("tiny-1", follow=True))
    assert lines == ["start", "step 1", "resumed", "step 2", "done, said late"]


@pytest.mark.slow
@pytest.mark.parametrize("action", ["DescribeTrainingJob", "DescribeLogStreams", "GetLogEvents"])
def test_an_outage_ends_no_following(
    action: str,
    aws: SageMakerDouble,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quick_retries(monkeypatch)
    connected = started(aws, "nodes=2")
    aws.streams["tiny-1/algo-1-1"] = [(1, "a"), (3, "c"), (5, "e")]
    aws.streams["tiny-1/algo-2-1"] = [(2, "b"), (4, "d")]
    lines = connected.logs("tiny-1", follow=True)
    if action == "DescribeTrainingJob":
        aws.fails(action, "Odd", "", 500, times=9)  # boto3 itself asks four times
    assert next(lines) == "algo-1 | a"
    if action == "DescribeLogStreams":
        aws.streams["tiny-1/algo-1-2"] = [(6, "f")]
    aws.fails(action, "Odd", "", 500, times=9)
    told = [line.partition(" | ")[2] for line in lines]
    assert told == ["b", "c", "d", "e", *("f" if action == "DescribeLogStreams" else "")]
    assert "retrying for 10 minutes" in caplog.text
    aws.fails(action, "Odd", "", 500, times=4)
    with pytest.raises(StoreUnavailable):
        list(connected.logs("tiny-1", follow=False))
