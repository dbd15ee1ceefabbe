"""A TrainJob's progress in its cluster: the newest, with today's token, and never in the way."""

import logging
import time
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from adapt.places import Place
from adapt.places.trainer_server import trainer_server as server_of
from adapt.tracking import trainjob_status
from adapt.tracking.trainjob_status import MOST_METRICS, Status, TrainJobStatus, post
from adapt.trainer.progress import JobProgress, told
from tests.tracking.trainer_server import PATH, TrainerDouble, trainer_server

HALF = Status(0.509, 90.4, {"step": 509, "train/loss.main": 0.25, "validation/miou": nan})


@pytest.fixture
def cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[TrainerDouble, dict[str, str]]]:
    monkeypatch.setattr(trainjob_status, "EVERY_S", 0.05)
    with trainer_server(tmp_path) as found:
        yield found


def until(condition: Any) -> None:
    end_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end_s, "it never came"
        time.sleep(0.005)


def posting(environment: dict[str, str]) -> TrainJobStatus:
    server = server_of(environment)
    assert server is not None
    return TrainJobStatus(server)


def test_progress_time_left_and_metrics_are_posted(
    cluster: tuple[TrainerDouble, dict[str, str]],
) -> None:
    double, environment = cluster
    one = posting(environment)
    one.show(HALF)
    until(lambda: double.statuses)
    one.close(HALF._replace(done=1.0, remaining_s=0.0))
    first, last = double.statuses
    assert (first["progressPercentage"], first["estimatedRemainingSeconds"]) == (50, 90)
    assert first["metrics"] == [
        {"name": "step", "value": "509"},
        {"name": "train/loss.main", "value": "0.25"},
    ]
    assert (last["progressPercentage"], last["estimatedRemainingSeconds"]) == (100, 0)
    assert not one.is_alive() and double.codes == [200, 200]


@pytest.mark.parametrize(
    ("status", "percent", "seconds"),
    [
        (Status(0.9999, inf, {}), 99, 2**31 - 1),
        (Status(0.0, nan, {}), 0, 2**31 - 1),
        (Status(0.5, -1.0, {}), 50, 0),
        (Status(0.5, 1e12, {f"loss.{one}": 0.1 for one in range(1000)}), 50, 2**31 - 1),
    ],
)
def test_every_status_is_one_that_the_schema_has(
    cluster: tuple[TrainerDouble, dict[str, str]], status: Status, percent: int, seconds: int
) -> None:
    double, environment = cluster
    one = posting(environment)
    one.show(status)
    until(lambda: double.codes)
    one.close()
    (found,) = double.statuses
    assert (found["progressPercentage"], found["estimatedRemainingSeconds"]) == (percent, seconds)
    assert len(found["metrics"]) <= MOST_METRICS


def test_a_token_that_was_replaced_is_read_again(
    cluster: tuple[TrainerDouble, dict[str, str]],
) -> None:
    double, environment = cluster
    one = posting(environment)
    one.show(HALF)
    until(lambda: len(double.statuses) == 1)
    double.token = "second"
    Path(environment["KUBEFLOW_TRAINER_SERVER_TOKEN"]).write_text("second")
    one.show(HALF)
    until(lambda: len(double.codes) == 2)
    one.close()
    assert double.codes == [200, 200]


def test_a_server_that_hangs_is_not_waited_for_and_gets_the_newest_then(
    cluster: tuple[TrainerDouble, dict[str, str]],
) -> None:
    double, environment = cluster
    double.open.clear()
    one, start_s = posting(environment), time.monotonic()
    for percent in range(40):
        one.show(Status(percent / 100, 1.0, {}))
        time.sleep(0.01)
    assert time.monotonic() - start_s < 2
    double.open.set()
    until(lambda: len(double.statuses) == 2)
    one.close()
    assert double.statuses[1]["progressPercentage"] == 39


def test_the_end_of_a_job_waits_a_moment_alone(
    cluster: tuple[TrainerDouble, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    double, environment = cluster
    double.open.clear()
    monkeypatch.setattr(trainjob_status, "END_S", 0.1)
    one = posting(environment)
    one.show(HALF)
    start_s = time.monotonic()
    one.close(HALF)
    assert time.monotonic() - start_s < 2 and one.daemon


def test_failures_are_told_once_and_do_not_end_it(
    cluster: tuple[TrainerDouble, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    double, environment = cluster
    double.answers += [(500, {}), (403, {})]
    one = posting(environment)
    with caplog.at_level(logging.WARNING):
        for count in (1, 2, 3):
            one.show(HALF)
            until(lambda count=count: len(double.codes) == count)
        one.close()
    assert double.codes == [500, 403, 200]
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "the TrainJob's progress could not be posted, training continues"
    ]
    assert "127.0.0.1 answered 500" in caplog.text


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("URL", f"http://127.0.0.1:1{PATH}", "expected https://HOST"),
        ("URL", f"https://127.0.0.1:1{PATH}", "refused"),
        ("TOKEN", "nowhere", "No such file"),
        ("TOKEN", "odd", "expected a token in"),
        ("CA_CERT", "", "certificate verify failed"),
    ],
)
def test_what_is_wrong_is_named_without_the_token(
    cluster: tuple[TrainerDouble, dict[str, str]],
    tmp_path: Path,
    variable: str,
    value: str,
    message: str,
) -> None:
    double, environment = cluster
    (tmp_path / "odd").write_text("sec\nret")
    if variable == "TOKEN":
        value = str(tmp_path / value)
    server = server_of({**environment, f"KUBEFLOW_TRAINER_SERVER_{variable}": value})
    assert server is not None
    with pytest.raises((OSError, ValueError), match=message) as raised:
        post(server, HALF.body(trainjob_status.datetime.now()))
    assert not any(token in str(raised.value) for token in ("Bearer", "first", "sec\nret"))
    assert double.codes == []


def test_a_redirect_does_not_get_the_token(
    cluster: tuple[TrainerDouble, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    double, environment = cluster
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    double.answers.append((307, {"Location": environment["KUBEFLOW_TRAINER_SERVER_URL"]}))
    server = server_of(environment)
    assert server is not None
    with pytest.raises(OSError, match="answered 307"):
        post(server, HALF.body(trainjob_status.datetime.now()))
    assert double.codes == [307]


def progress(step: int) -> JobProgress:
    losses = {"mix/main": 0.5}
    return JobProgress(
        step,
        40,
        losses,
        8.0,
        0.0,
        12.0,
        None,
        None,
        scores={"miou": 0.4},  # type: ignore[arg-type]
    )


def test_the_leader_alone_tells_and_only_a_job_that_ends_well_is_done(
    cluster: tuple[TrainerDouble, dict[str, str]], tmp_path: Path
) -> None:
    double, environment = cluster
    seen: list[int] = []
    for rank in (1, 0):
        place = Place("trainjob", environment, tmp_path, rank=rank, num_ranks=2)
        with told(place, lambda one: seen.append(one.step)) as tell:
            tell(progress(10))
            until(lambda rank=rank: rank or double.statuses)
            tell(progress(40))
    assert seen == [10, 40] * 2
    assert [one["progressPercentage"] for one in double.statuses] == [25, 100]
    named = {one["name"]: one["value"] for one in double.statuses[-1]["metrics"]}
    assert named == {
        "step": "40",
        "steps": "40",
        "validation/miou": "0.4",
        "train/loss.mix.main": "0.5",
        "speed/samples_per_s": "8",
    }
    place = Place("trainjob", environment, tmp_path)
    with pytest.raises(KeyError), told(place, lambda _: None) as tell:
        tell(progress(10))
        until(lambda: len(double.statuses) == 3)
        raise KeyError
    time.sleep(0.2)
    assert double.statuses[2:] == [double.statuses[2]]
    assert double.statuses[2]["progressPercentage"] == 25


def test_elsewhere_nothing_is_told(tmp_path: Path) -> None:
    def show(_: JobProgress) -> None:
        """The live line."""

    for environment in ({}, {"KUBEFLOW_TRAINER_SERVER_URL": "https://here"}):
        with told(Place("local", environment, tmp_path), show) as tell:
            assert tell is show
