"""What happens to the store of `tests/chaos.py`, beside its outages while a job trains."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos_world import World
from tests.storage.broken_answers import Answer, Cut, Fault, Flip, Reset, Shorten

PAGE = "<!doctype html><html><head><title>Please sign in</title></head></html>"
STARTS_AWAY_S = (5.0, 15.0)


@contextmanager
def first_requests_reset(world: World, chance: random.Random) -> Iterator[None]:
    """A process's first requests are reset or cut."""
    faults = [chance.choice([Reset(), Cut(0)]) for _ in range(chance.randint(1, 6))]
    with _ordered(world, *((fault, "", "GET") for fault in faults)):
        yield


@contextmanager
def away_at_the_start(world: World, chance: random.Random) -> Iterator[None]:
    """The job is started again while its store is away."""
    outage = world.store_proxy.outage(chance.uniform(*STARTS_AWAY_S))
    try:
        yield
    finally:
        outage.join()


@contextmanager
def index_damaged(world: World, chance: random.Random) -> Iterator[None]:
    """An index and a manifest arrive damaged once each; both are downloaded three times at most."""
    index = chance.choice([Flip(700), Shorten(600)])
    manifest = Flip(chance.randint(2, 400))
    with _ordered(
        world, (index, "packed/train/index.npz", "GET"), (manifest, "packed/train/manifest", "GET")
    ):
        yield


@contextmanager
def web_pages(world: World, chance: random.Random) -> Iterator[None]:
    """A proxy's page to log in stands in the place of a few answers."""
    page = Answer(200, page=PAGE)
    methods = [chance.choice(["GET", "GET", "PUT", "DELETE"]) for _ in range(2)]
    with _ordered(world, *((page, "", method) for method in methods)):
        yield


@contextmanager
def _ordered(world: World, *orders: tuple[Fault, str, str]) -> Iterator[None]:
    """Order faults for the next requests with that key and method, and forget those that met
    none."""
    for fault, key, method in orders:
        world.store_proxy.order(fault, key, method=method)
    try:
        yield
    finally:
        world.store_proxy.forget()
