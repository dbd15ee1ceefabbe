"""The lease of a run: one writer, refusals by name, dead writers, restarts, losses."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Timer

import pytest
import torch

from adapt.checkpoint.lease import (
    ENDED,
    LEASE,
    STOPPING,
    Lease,
    LeaseLost,
    RunInUse,
    Waits,
    Writer,
    this_process,
)
from adapt.checkpoint.processes import start_ticks
from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.snapshot import Moment, Snapshot
from adapt.checkpoint.spent import NOTHING, Spent
from adapt.errors import Interrupted
from storage.errors import StoreUnavailable
from storage.local import LocalStore

QUICK = Waits(0.05, 0.5, 0.2, 1.0, 0.1, 0.01)
Opens = Callable[..., Lease]


class Unconditional(LocalStore):
    """A store that does not know conditional writes."""

    def swap(self, key: str, _old: bytes | None, new: bytes) -> bool:
        self.put(key, new)
        return True


class Overtaken(Unconditional):
    """Another process writes right after the first claim, whose writer did not see it."""

    writes = 0

    def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Written, and after the second write, which tries the store, written over."""
        self.writes += 1
        done = super().swap(key, old, new)
        if self.writes == 2:
            left_by(self, host="late", owner="late")
        return done


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "town"))


@pytest.fixture
def lease(store: LocalStore) -> Iterator[Opens]:
    """Leases of processes on other machines, which end with the test."""
    opened: list[Lease] = []

    def build(host: str, job: str | None = None, stop: Event | None = None) -> Lease:
        me = this_process(job)._replace(host=host, space=f"space of {host}")
        opened.append(Lease(store, me, stop or Event(), QUICK))
        return opened[-1]

    yield build
    for one in opened:
        one.close()


def left_by(store: LocalStore, **facts: object) -> None:
    """A lease that its writer left behind."""
    values = {"owner": "x", "host": "away", "pid": 7, "space": "space of away"} | facts
    store.put(LEASE, json.dumps(values).encode())


def took_s(one: Lease) -> float:
    started_s = time.monotonic()
    one.claim()
    return time.monotonic() - started_s


def read(store: LocalStore) -> Writer:
    return Writer(**json.loads(store.get(LEASE)))


def test_a_second_job_is_refused_by_name(store: LocalStore, lease: Opens) -> None:
    lease("first").claim()
    with pytest.raises(RunInUse, match=r"run town is being trained by host first, pid \d+, last "):
        lease("second").claim()
    assert read(store).host == "first" and RunInUse.exit_code == 2


def test_a_writer_that_ended_is_followed_at_once(store: LocalStore, lease: Opens) -> None:
    first = lease("first")
    first.claim()
    first.close()
    assert read(store).state == ENDED
    assert took_s(lease("second")) < 0.2 and read(store).host == "second"


def test_the_time_of_a_run_goes_from_writer_to_writer(store: LocalStore, lease: Opens) -> None:
    first = lease("first")
    first.claim()
    assert first.before == NOTHING and Spent(*read(store).spent) == NOTHING
    first.spent = lambda: Spent(10.0, 20.0, 30.0)
    first.close()
    second, third = lease("second"), lease("third")
    second.claim()
    assert second.before == Spent(*read(store).spent) == Spent(10.0, 20.0, 30.0)
    second.close()  # killed, or ended, before it knows its own
    third.claim()
    assert third.before == Spent(10.0, 20.0, 30.0)


def test_a_silent_writer_is_taken_for_dead_after_the_stated_time(
    store: LocalStore, lease: Opens
) -> None:
    left_by(store)
    assert QUICK.silent_s <= took_s(lease("second")) < 3


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"owner": "x"}', b"\xff"])
def test_a_damaged_lease_is_that_of_a_silent_writer(
    store: LocalStore, lease: Opens, content: bytes
) -> None:
    store.put(LEASE, content)
    assert QUICK.silent_s <= took_s(lease("second")) < 3


def test_a_killed_process_of_this_machine_is_followed_at_once(
    store: LocalStore, lease: Opens
) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        left_by(store, pid=child.pid, started=start_ticks(child.pid), space="space of here")
        with pytest.raises(Interrupted):
            lease("here", stop=_soon()).claim()
        child.kill()
        time.sleep(0.05)
        assert took_s(lease("here")) < 0.2, "a zombie was waited for"
    left_by(store, pid=this_process(None).pid, started=1, space="space of here")  # a number again
    assert took_s(lease("here")) < 0.2


def _soon() -> Event:
    stop = Event()
    Timer(0.1, stop.set).start()
    return stop


@pytest.mark.parametrize(
    ("host", "job", "least_s", "most_s"),
    [("away", "j1", 0, 0.15), ("other", "j1", 0.2, 0.45), ("away", "j2", 0.5, 3)],
)
def test_a_restart_of_the_same_job_goes_on_at_once(
    store: LocalStore, lease: Opens, host: str, job: str, least_s: float, most_s: float
) -> None:
    left_by(store, job="j1", space="an earlier container")
    assert least_s <= took_s(lease(host, job)) < most_s


@pytest.mark.parametrize("job", [None, "j1"])
def test_a_writer_that_is_stopping_is_waited_for(
    store: LocalStore, lease: Opens, job: str | None
) -> None:
    stop = Event()
    first = lease("first", "j1", stop)
    first.claim()
    stop.set()
    while read(store).state != STOPPING:
        time.sleep(0.01)
    Timer(0.4, first.close).start()
    assert 0.2 < took_s(lease("second", job)) < 0.9
    assert read(store).host == "second"


def test_a_job_that_runs_twice_is_refused_in_the_end(lease: Opens) -> None:
    lease("first", "j1").claim()
    started_s = time.monotonic()
    with pytest.raises(RunInUse):
        lease("second", "j1").claim()
    assert time.monotonic() - started_s >= QUICK.patience_s


def test_of_claims_side_by_side_one_succeeds(lease: Opens) -> None:
    jobs = [lease(f"host-{number}") for number in range(5)]

    def claim(one: Lease) -> bool:
        try:
            one.claim()
        except RunInUse:
            return False
        return True

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(claim, jobs)).count(True) == 1


def test_of_claims_on_a_store_without_conditions_one_stays(
    tmp_path: Path, lease: Opens, store: LocalStore
) -> None:
    plain = Overtaken(str(tmp_path / "town"))
    one, other = lease("one"), lease("other")
    one._store = other._store = plain
    assert took_s(one) >= QUICK.silent_s, "what it had written was written over while it settled"
    assert read(store).host == "one"
    with pytest.raises(RunInUse):
        other.claim()


def test_a_writer_that_lost_its_lease_stops_without_harm(
    store: LocalStore, lease: Opens, tmp_path: Path
) -> None:
    stop = Event()
    mine = lease("first", stop=stop)
    mine.claim()
    folder = RunFolder(store).leased(mine)
    snapshot = Snapshot(Moment(5, 0, 0.0), {}, {"w": torch.ones(1)}, "seed: 1\n", {})
    saved = folder.save(snapshot)
    left_by(store, host="second")
    before = _content(tmp_path)
    for write in (
        lambda: folder.save(snapshot),
        lambda: folder.mark_best(saved, 0.5),
        lambda: folder.retain(1, saved.name),
        folder.clear,
    ):
        with pytest.raises(LeaseLost, match=r"run town is being trained by host second, pid 7 by"):
            write()
    assert stop.wait(5) and LeaseLost.exit_code == 75
    mine.close()
    assert _content(tmp_path) == before


def _content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_writer_notices_its_loss_by_itself(store: LocalStore, lease: Opens) -> None:
    stop = Event()
    mine = lease("first", stop=stop)
    mine.claim()
    left_by(store, host="second")
    assert stop.wait(5)
    with pytest.raises(LeaseLost):
        mine.raise_if_lost()


def test_an_outage_loses_no_lease(
    store: LocalStore, lease: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, mine = Event(), lease("first")
    mine._stop = stop
    mine.claim()

    def away(*_given: object) -> bytes:
        raise StoreUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "get", away)
        patch.setattr(store, "swap", away)
        with pytest.raises(StoreUnavailable):
            mine.check()
        time.sleep(2 * QUICK.silent_s)
    assert not stop.is_set()
    mine.check()
    with pytest.raises(RunInUse):
        lease("second").claim()


def test_a_lease_that_somebody_deletes_is_written_again(store: LocalStore, lease: Opens) -> None:
    mine = lease("first")
    mine.claim()
    store.delete(LEASE)
    mine.check()
    while not store.exists(LEASE):
        time.sleep(0.01)
    assert read(store).host == "first"
