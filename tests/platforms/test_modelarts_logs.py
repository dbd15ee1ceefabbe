"""The logs of a job on ModelArts: read, and followed over outages."""

from typing import Any

import pytest

from adapt.platforms.modelarts.client import ModelArtsClient
from adapt.platforms.modelarts.logs import TaskLog
from storage.errors import StoreUnavailable
from tests.platforms.modelarts_double import ModelArtsDouble
from tests.platforms.modelarts_jobs import connected, submitted
from tests.platforms.quick import quick_retries

pytestmark = pytest.mark.usefixtures("no_proxy")


def test_an_outage_ends_no_following(
    modelarts_client: ModelArtsClient,
    modelarts: ModelArtsDouble,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quick_retries(monkeypatch)
    job, outage = (
        submitted(modelarts_client, modelarts, "Running"),
        [(503, "<html>out</html>")] * 12,
    )
    modelarts.jobs[job].logs["worker-0"] = b"step 1\n"
    modelarts.failures = list(outage)  # the API itself asks five times
    lines = modelarts_client.logs(job, follow=True)
    assert next(lines) == "step 1"
    modelarts.jobs[job].logs["worker-0"] += b"step 2\n"
    modelarts.failures = list(outage)
    assert next(lines) == "step 2"
    modelarts.jobs[job].logs["worker-0"] += b"step 3\n"
    modelarts.jobs[job].phases = ["Completed"]
    ended = modelarts.jobs[job].look()
    modelarts.failures = [(200, ended), *outage]  # while the log is asked for
    assert list(lines) == ["step 3"]
    assert "retrying for 10 minutes" in caplog.text
    modelarts.failures = list(outage)
    with pytest.raises(StoreUnavailable, match=r"is out of order .*Fix: try again later"):
        list(modelarts_client.logs(job, follow=False))


def test_logs_so_far(modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble) -> None:
    job = submitted(modelarts_client, modelarts, "Pending", "Running")
    assert list(modelarts_client.logs(job, follow=False)) == []
    assert list(modelarts_client.logs(job, follow=False)) == []  # runs, and has written nothing
    modelarts.jobs[job].logs["worker-0"] = "eins\r\nzwei ä\nhal".encode()
    assert list(modelarts_client.logs(job, follow=False)) == ["eins", "zwei ä", "hal"]


def test_a_followed_log_comes_once_and_to_its_end(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    modelarts.exit_codes = [0, 0]
    job = submitted(modelarts_client, modelarts, "Pending", "Running")
    found, logs = modelarts.jobs[job], modelarts.jobs[job].logs
    logs["worker-0"] = b"step 1\nst"
    lines = modelarts_client.logs(job, follow=True)
    assert next(lines) == "worker-0 | step 1"
    logs["worker-0"] += b"ep 2\n"
    assert next(lines) == "worker-0 | step 2"
    logs["worker-1"] = b"step 2\n"
    assert next(lines) == "worker-1 | step 2"
    logs["worker-0"] += b"\nthe e"
    logs["worker-1"] += b"done"
    assert next(lines) == "worker-0 | "
    logs["worker-0"] += b"nd"
    found.phases = ["Completed"]
    assert list(lines) == ["worker-0 | the end", "worker-1 | done"]


def test_lines_that_modelarts_no_longer_shows_are_counted(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    job = submitted(modelarts_client, modelarts, "Completed")
    modelarts.shown_bytes = 10
    modelarts.jobs[job].logs["worker-0"] = b"0123456789\nabcde\nfgh\n"
    gone = "[11 bytes before this are no longer shown; log_uri keeps them]"
    assert list(modelarts_client.logs(job, follow=False)) == [gone, "abcde", "fgh"]


def test_the_log_of_a_restarted_node_begins_anew() -> None:
    log = TaskLog()
    assert log.lines({"content": "a\nb\n", "full_size": 4}, ended=False) == ["a", "b"]
    assert log.lines({"content": "a\nb\n", "full_size": 4}, ended=False) == []
    assert log.lines({"content": "c\n", "full_size": 2}, ended=False) == ["c"]
    assert log.lines({"content": None, "full_size": 2}, ended=True) == []
    assert log.lines({"content": "c\nd\n"}, ended=True) == ["d"]


def test_nodes_are_told_in_the_order_of_their_numbers(modelarts: ModelArtsDouble) -> None:
    modelarts.exit_codes = [0] * 11
    client = connected(modelarts)
    job = submitted(client, modelarts, "Completed")
    modelarts.jobs[job].logs = dict.fromkeys(modelarts.jobs[job].logs, b"x\n")
    assert [line.split()[0] for line in client.logs(job, follow=False)][-2:] == [
        "worker-9",
        "worker-10",
    ]


NOT_YET = {
    "no content (2776)": (204, ""),
    "2776 with a body": (400, {"error_code": "ModelArts.2776", "error_msg": "NotReadyToFetchLog"}),
    "2818": (400, {"error_code": "ModelArts.2818", "error_msg": "LogFileNotGenerated"}),
}


@pytest.mark.parametrize("answer", NOT_YET.values(), ids=NOT_YET)
def test_a_log_that_is_not_there_yet_is_waited_for(
    answer: tuple[int, Any], modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    """As the vendor's table of error codes has it: nearly all of them are HTTP status 400."""
    job = submitted(modelarts_client, modelarts, "Running")
    found = modelarts.jobs[job]
    found.logs["worker-0"] = b"step 1\n"
    running = (200, found.look())
    modelarts.failures = [running, answer]
    assert list(modelarts_client.logs(job, follow=False)) == []
    modelarts.failures = [running, answer, running, answer]
    lines = modelarts_client.logs(job, follow=True)
    assert next(lines) == "step 1"
    found.phases = ["Completed"]
    assert list(lines) == []


@pytest.mark.parametrize(
    ("code", "name"), [("2819", "LogFileHasCleared"), ("2820", "LogPathNotFound")]
)
def test_a_log_that_is_there_no_longer_is_said_once(
    code: str, name: str, modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    job = submitted(modelarts_client, modelarts, "Running")
    gone = (400, {"error_code": f"ModelArts.{code}", "error_msg": name})
    said = f"[ModelArts keeps no log of it (ModelArts.{code}: {name}); log_uri of the profile keeps"
    running = (200, modelarts.jobs[job].look())
    modelarts.failures = [running, gone]
    assert [line.startswith(said) for line in modelarts_client.logs(job, follow=False)] == [True]
    modelarts.jobs[job].phases = ["Completed"]
    ended = (200, modelarts.jobs[job].look())
    modelarts.failures = [running, gone, running, gone, ended, gone]
    assert [line.startswith(said) for line in modelarts_client.logs(job, follow=True)] == [True]


def test_the_log_of_an_old_job_is_cleared(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    job = submitted(modelarts_client, modelarts, "Completed")
    modelarts.jobs[job].cleared = True
    (line,) = modelarts_client.logs(job, follow=True)
    assert "the log file has been cleared" in line
