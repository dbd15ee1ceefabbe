"""One object on its way, against a store that does exactly what each request is scripted to do."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import xxhash

from storage.errors import MissingObject, ShortObject, StoreError, StoreUnavailable
from storage.shards import fetch
from storage.shards.cache import ShardCache
from storage.shards.fetch import PROGRESS_BYTES, FetchCounts, Fetcher
from tests.storage.scripted import (
    DATA,
    KEY,
    LONG_S,
    URI,
    Script,
    ScriptedDownload,
    ScriptedStore,
    after,
    cut,
    failing,
    signal,
    some,
    stalled,
    trickle,
    whole,
)

WRONG = bytes([DATA[0] ^ 1]) + DATA[1:]
XXH3 = xxhash.xxh3_64(DATA).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short waits; and afterwards, no request is left behind."""
    monkeypatch.setattr(fetch, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(fetch, "TICK_S", 0.02)
    monkeypatch.setattr(fetch, "HEDGE_LEAST_S", 0.05)
    yield
    deadline_s = time.monotonic() + 5
    while left := [thread for thread in threading.enumerate() if thread.name == "request"]:
        assert time.monotonic() < deadline_s, f"threads are left: {left}"
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "part"
    path.write_bytes(bytes(len(DATA)))
    return path


def fetched(fetcher: Fetcher, store: ScriptedStore, path: Path, size_bytes: int = len(DATA)) -> str:
    """The digest of a fetch into a file."""
    with path.open("r+b") as file:
        return fetcher.fetch(store, KEY, size_bytes, file.fileno())  # type: ignore[arg-type]


def experienced(path: Path, **settings: float) -> Fetcher:
    """A fetcher that knows how long a fetch takes: next to no time."""
    fetcher = Fetcher(**settings)
    for _ in range(fetch.MEDIAN_NEEDS):
        fetched(fetcher, ScriptedStore(whole), path)
    path.write_bytes(bytes(len(DATA)))
    return fetcher


def assert_right(digest: str, path: Path) -> None:
    assert digest == XXH3
    assert path.read_bytes() == DATA


def test_a_calm_fetch_is_one_request(path: Path) -> None:
    fetcher, store = Fetcher(), ScriptedStore(whole)
    assert_right(fetched(fetcher, store, path), path)
    assert store.offsets == [0]
    assert fetcher.counts == FetchCounts(len(DATA), 0, 0)


@pytest.mark.parametrize("broken", [cut(1234), some(1234), stalled(1234)])
def test_a_broken_answer_is_gone_on_with_at_the_very_byte(broken: Script, path: Path) -> None:
    fetcher, store = Fetcher(progress_s=0.3), ScriptedStore(broken, broken, cut(0), whole)
    assert_right(fetched(fetcher, store, path), path)
    assert store.offsets == [0, 1234, 2468, 2468]
    assert fetcher.counts == FetchCounts(len(DATA), 3, 0)


def test_a_trickle_is_given_up_at_the_byte_it_reached(path: Path) -> None:
    fetcher, store = Fetcher(progress_s=0.4), ScriptedStore(trickle, whole)
    assert_right(fetched(fetcher, store, path), path)
    first, second = store.downloads
    assert first.cancelled.is_set()
    assert 0 < second.offset_bytes < 100
    assert fetcher.counts.retries == 1


def test_a_slow_store_that_goes_on_is_not_given_up(path: Path) -> None:
    def slow(download: ScriptedDownload) -> Iterator[bytes]:
        for start in range(0, len(DATA), PROGRESS_BYTES // 2):
            time.sleep(0.15)
            yield DATA[start : start + PROGRESS_BYTES // 2]

    fetcher, store = Fetcher(progress_s=1.5), ScriptedStore(slow)
    assert_right(fetched(fetcher, store, path), path)
    assert store.offsets == [0]


def test_a_straggler_is_overtaken_by_a_second_request(path: Path) -> None:
    fetcher, store = experienced(path), ScriptedStore(stalled(5000), whole)
    assert_right(fetched(fetcher, store, path), path)
    assert store.offsets == [0, 5000]
    assert store.downloads[0].cancelled.is_set()
    assert (fetcher.counts.hedges, fetcher.counts.retries) == (1, 0)


def test_a_straggler_may_still_win(path: Path) -> None:
    hedged = threading.Event()
    fetcher = experienced(path)
    store = ScriptedStore(after(hedged, whole), signal(hedged, stalled(10)))
    assert_right(fetched(fetcher, store, path), path)
    assert store.downloads[1].cancelled.is_set()
    assert len(store.downloads) == 2, "one second request a fetch, not more"


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreError("refused")])
def test_a_second_request_that_fails_leaves_the_first_alone(error: StoreError, path: Path) -> None:
    hedged = threading.Event()

    def late(download: ScriptedDownload) -> Iterator[bytes]:
        assert hedged.wait(LONG_S)
        time.sleep(0.1)
        yield from whole(download)

    store = ScriptedStore(late, signal(hedged, failing(error)))
    assert_right(fetched(experienced(path), store, path), path)
    assert store.offsets == [0, 0]


def test_two_stalled_requests_are_both_given_up(path: Path) -> None:
    store = ScriptedStore(stalled(700), stalled(300), whole)
    assert_right(fetched(experienced(path, progress_s=0.4), store, path), path)
    assert store.offsets == [0, 700, 1000]
    assert all(download.cancelled.is_set() for download in store.downloads[:2])


@pytest.mark.parametrize("seed", range(5))
def test_bytes_of_two_requests_interleave_in_any_way(seed: int, path: Path) -> None:
    def ragged(download: ScriptedDownload) -> Iterator[bytes]:
        chance, place = random.Random(seed + len(store.downloads)), download.offset_bytes
        while place < len(DATA):
            step = chance.randint(1, 30_000)
            yield DATA[place : place + step]
            place += step
            time.sleep(chance.choice([0, 0.002, 0.01]))

    hedged = threading.Event()
    store = ScriptedStore(after(hedged, ragged), signal(hedged, ragged))
    assert_right(fetched(experienced(path), store, path), path)
    assert len(store.downloads) == 2


def test_nothing_is_written_once_a_fetch_is_over(path: Path) -> None:
    over, wrote = threading.Event(), threading.Event()

    def late(download: ScriptedDownload) -> Iterator[bytes]:
        assert over.wait(LONG_S)
        yield WRONG[download.offset_bytes :]
        wrote.set()

    store = ScriptedStore(late, whole)
    with path.open("r+b") as file:
        experienced(path).fetch(store, KEY, len(DATA), file.fileno())  # type: ignore[arg-type]
        over.set()
        assert wrote.wait(LONG_S)
    assert path.read_bytes() == DATA


def test_nothing_is_written_once_a_fetch_is_given_up(path: Path) -> None:
    fetcher, over, ended = Fetcher(), threading.Event(), threading.Event()

    def late(download: ScriptedDownload) -> Iterator[bytes]:
        fetcher.close()
        assert over.wait(LONG_S)
        yield DATA
        ended.set()

    with (
        path.open("r+b") as file,
        pytest.raises(StoreUnavailable, match=f"{URI}: the download was cancelled, as"),
    ):
        fetcher.fetch(ScriptedStore(late), KEY, len(DATA), file.fileno())  # type: ignore[arg-type]
    with path.open("r+b"):  # has the number that the closed file had
        over.set()
        assert ended.wait(LONG_S)
    assert path.read_bytes() == bytes(len(DATA))


def test_stragglers_are_told_by_the_median_once_there_is_one() -> None:
    fetcher, store, slow = Fetcher(), ScriptedStore(whole), ScriptedStore(whole)
    slow.uri = "fake://slow"
    assert straggles_after_s(fetcher, store, 10**9) == float("inf")
    fetcher._s_per_byte[store.uri].extend([1e-6, 5e-6, 100.0])
    assert straggles_after_s(fetcher, store, 10**6) == pytest.approx(3 * 5)
    assert straggles_after_s(fetcher, store, 1) == fetch.HEDGE_LEAST_S
    assert straggles_after_s(fetcher, slow, 10**6) == float("inf"), "another store's is no measure"


def straggles_after_s(fetcher: Fetcher, store: ScriptedStore, size_bytes: int) -> float:
    return fetcher.straggles_after_s(store, size_bytes)  # type: ignore[arg-type]


def test_a_bug_in_a_store_ends_the_fetch_at_once(path: Path) -> None:
    def broken(_download: ScriptedDownload) -> Iterator[bytes]:
        yield DATA[:10]
        raise ZeroDivisionError("a bug")

    hook, threading.excepthook = threading.excepthook, lambda _args: None
    try:
        with pytest.raises(ZeroDivisionError, match="a bug"):
            fetched(Fetcher(), ScriptedStore(broken), path)
    finally:
        threading.excepthook = hook


@pytest.mark.parametrize(
    "error",
    [MissingObject(f"{URI}: gone"), ShortObject(f"{URI}: short"), StoreError(f"{URI}: refused")],
)
def test_what_no_repetition_mends_is_not_repeated(error: StoreError, path: Path) -> None:
    for scripts in ([failing(error)], [cut(10), failing(error)]):
        store = ScriptedStore(*scripts)
        with pytest.raises(type(error), match=str(error)):
            fetched(Fetcher(), store, path)
        assert len(store.downloads) == len(scripts)


def test_a_download_that_stays_stalled_is_named(path: Path) -> None:
    fetcher = Fetcher(progress_s=0.05, retry_time_s=0.2)
    message = rf"{URI}: download stalled: \d+ bytes in 0.05 s, retried for \d+ s"
    with pytest.raises(StoreUnavailable, match=message):
        fetched(fetcher, ScriptedStore(stalled(700)), path)


def test_a_store_that_stays_unreachable_is_named_after_the_retry_time(path: Path) -> None:
    fetcher, store = (
        Fetcher(retry_time_s=0.3),
        ScriptedStore(failing(StoreUnavailable(f"{URI}: no"))),
    )
    with pytest.raises(StoreUnavailable, match=rf"{URI}: no, retried for \d+ s"):
        fetched(fetcher, store, path)
    assert fetcher.counts.retries == len(store.downloads) - 1 > 1


@pytest.mark.slow
def test_the_retry_time_is_for_a_store_without_progress(path: Path) -> None:
    def slow(download: ScriptedDownload) -> Iterator[bytes]:
        time.sleep(0.3)
        yield from cut(PROGRESS_BYTES)(download)

    fetcher, store = Fetcher(retry_time_s=1.5), ScriptedStore(slow)
    assert_right(fetched(fetcher, store, path), path)
    assert len(store.downloads) == 7 and fetcher.retry_time_s < 7 * 0.3


def test_waits_grow_to_a_limit_and_start_anew_after_progress(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    limits: list[float] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: limits.append(high) or low)
    away = [failing(StoreUnavailable("away"))] * 6
    store = ScriptedStore(*away, cut(PROGRESS_BYTES), *away[:2], whole)
    assert_right(fetched(Fetcher(), store, path), path)
    assert limits == [0.25, 0.5, 1.0, 2.0, 3.0, 3.0, 0.25, 0.5, 1.0]


@pytest.mark.parametrize("script", [stalled(100), failing(StoreUnavailable(f"{URI}: away"))])
def test_close_ends_what_is_under_way(
    script: Script, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "FIRST_DELAY_S", 60.0)
    fetcher, store = Fetcher(), ScriptedStore(script)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(fetched, fetcher, store, path)
        while not store.downloads:
            time.sleep(0.01)
        fetcher.close()
        with pytest.raises(StoreUnavailable, match=URI):
            fetching.result(5)


def test_a_file_that_cannot_be_written_ends_the_fetch(path: Path) -> None:
    store = ScriptedStore(whole)
    with path.open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        Fetcher().fetch(store, KEY, len(DATA), file.fileno())  # type: ignore[arg-type]
    assert store.offsets == [0]


def test_an_empty_object_is_fetched(path: Path) -> None:
    assert fetched(Fetcher(), ScriptedStore(some(0)), path, 0) == xxhash.xxh3_64().hexdigest()


def test_an_object_that_is_longer_brings_its_first_bytes(path: Path) -> None:
    size_bytes = 1000
    assert fetched(Fetcher(), ScriptedStore(whole), path, size_bytes) == (
        xxhash.xxh3_64(DATA[:size_bytes]).hexdigest()
    )
    assert path.read_bytes() == DATA[:size_bytes] + bytes(len(DATA) - size_bytes)


def test_threads_fetch_side_by_side(tmp_path: Path) -> None:
    fetcher = Fetcher()

    def one(number: int) -> str:
        path = tmp_path / str(number)
        path.touch()
        store = ScriptedStore(cut(1000 + number), some(number), whole)
        return fetched(fetcher, store, path)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(24))) == {XXH3}
    assert all((tmp_path / str(number)).read_bytes() == DATA for number in range(24))
    assert fetcher.counts.fetched_bytes == 24 * len(DATA)
    assert fetcher.counts.retries == 2 * 24


WAYS_TO_BE_WRONG = {
    "another byte": (some(len(DATA), WRONG), f"expected xxh3 {XXH3}, got "),
    "too short": (failing(ShortObject(URI)), f"expected {len(DATA)} bytes"),
}


@pytest.mark.parametrize("way", WAYS_TO_BE_WRONG)
def test_wrong_bytes_are_fetched_anew_three_times_in_all(way: str, tmp_path: Path) -> None:
    wrong, message = WAYS_TO_BE_WRONG[way]
    cache = ShardCache(tmp_path / "cache", reserve_bytes=0)
    store = ScriptedStore(wrong)
    with pytest.raises(StoreError, match=f"{URI}: .*{message}.*downloaded 3 times"):
        cache.open(store, KEY, len(DATA), XXH3, "d")  # type: ignore[arg-type]
    assert store.offsets == [0, 0, 0]
    store = ScriptedStore(wrong, wrong, whole)
    shard = cache.open(store, KEY, len(DATA), XXH3, "d")  # type: ignore[arg-type]
    assert shard.read(0, len(DATA)) == DATA
    assert cache.fetcher.counts.retries >= 2, "counted as a retry, whatever was wrong"


def part_of(fetcher: Fetcher, *parts: bytes | StoreError) -> tuple[bytes, int]:
    """Bytes 5 to 9 by requests with these answers, and the number of requests."""
    store = ScriptedStore(
        *(failing(part) if isinstance(part, StoreError) else answer(part) for part in parts)
    )
    data = fetcher.fetch_range(store, KEY, 5, 4, lambda data: data == DATA[5:9])  # type: ignore[arg-type]
    assert {(one.offset_bytes, one.length_bytes) for one in store.downloads} == {(5, 4)}
    return bytes(data), len(store.downloads)


def answer(data: bytes) -> Script:
    """These bytes, whatever was asked for."""

    def script(_download: ScriptedDownload) -> Iterator[bytes]:
        yield data

    return script


def test_a_part_is_fetched_until_it_is_right() -> None:
    away, fetcher = StoreUnavailable("away"), Fetcher()
    right = DATA[5:9]
    assert part_of(fetcher, right) == (right, 1)
    assert part_of(fetcher, away, away, b"0000", away, b"0000", right) == (right, 6)
    assert fetcher.counts.retries == 5


def test_a_part_that_stays_wrong_or_away_is_named() -> None:
    with pytest.raises(StoreError, match=f"{URI}: 4 bytes at 5 are damaged, fetched 3 times"):
        part_of(Fetcher(), b"0000")
    with pytest.raises(MissingObject, match="gone"):
        part_of(Fetcher(), MissingObject("gone"), DATA[5:9])
    with pytest.raises(StoreUnavailable, match="away"):
        part_of(Fetcher(retry_time_s=0.1), StoreUnavailable("away"))


def test_default_limits_are_the_designs() -> None:
    fetcher = Fetcher()
    assert fetcher.progress_s == 10
    assert fetcher.retry_time_s >= 300, "an outage of some minutes is waited for"
