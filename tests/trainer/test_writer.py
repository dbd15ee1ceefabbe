"""Two jobs of one run: the second is refused before it trains, one that lost its lease stops."""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from adapt.checkpoint.lease import LEASE, Lease, LeaseLost, RunInUse, Waits, this_process
from adapt.places import Place
from adapt.tracking.tracker import Tracker
from adapt.trainer import writer
from adapt.trainer.progress import JobProgress
from adapt.trainer.run import run_job
from storage.local import LocalStore
from tests.trainer.jobs import job_of, run

QUICK = Waits(0.1, 1.0, 0.2, 0.5, 0.1, 0.02)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(writer, "Waits", lambda **_given: QUICK)
    yield


@pytest.mark.slow
def test_a_second_job_of_a_run_is_refused_before_it_trains(
    tiny_job: dict[str, Any], place: Place
) -> None:
    job = job_of(tiny_job)
    store = LocalStore(str(Path(job.checkpoint.uri) / "tiny"))
    other = this_process(None)._replace(host="other", pid=7, space="another machine")
    lease = Lease(store, other, Event(), QUICK)
    lease.claim()
    for fresh in (False, True):
        with pytest.raises(RunInUse, match="run tiny is being trained by host other, pid 7, last"):
            run(job, place, fresh=fresh)
    assert [info.key for info in store.list()] == [LEASE], "not even an MLflow run"
    lease.close()
    outcome, _ = run(job, place)
    assert outcome.step == 6 and json.loads(store.get(LEASE))["state"] == "ended"


@pytest.mark.slow
def test_a_job_that_lost_its_lease_leaves_the_run_to_the_other(
    tiny_job: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tiny_job, "checkpoint.every_steps=1", "evaluate.every_steps=1000")
    ended, finish = [], Tracker.finish

    def noted(tracker: Tracker, status: Any, *given: Any) -> bool:
        ended.append(status)
        return finish(tracker, status, *given)

    monkeypatch.setattr(Tracker, "finish", noted)
    store = LocalStore(str(Path(job.checkpoint.uri) / "tiny"))
    seen = []

    def watch(progress: JobProgress) -> None:
        seen.append(progress.step)
        if progress.step == 3:
            values = {"owner": "x", "host": "other", "pid": 7, "space": "another machine"}
            while not store.swap(LEASE, store.get(LEASE), json.dumps(values).encode()):
                pass  # as another job takes it: never between a look and a write of this one's
            before.update({info.key: store.get(info.key) for info in store.list()})

    before: dict[str, bytes] = {}
    with pytest.raises(LeaseLost, match="run tiny is being trained by host other, pid 7 by now"):
        run_job(job, place, Event(), watch)
    after = {info.key: store.get(info.key) for info in store.list()}
    manifests = [key for key in after if key.endswith("manifest.json")]
    assert set(manifests) <= set(before) and after[LEASE] == before[LEASE]
    assert ended == [None], "the MLflow run is the other's"
