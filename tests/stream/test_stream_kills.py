"""Training that is killed repeatedly uses the very samples of a calm run: SIGKILL at random
moments, from the first byte of a download on, resumed on other numbers of ranks and threads.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.pack import pack
from adapt.platforms.local_stack import S3Server
from adapt.stream.orders import ORDERS, Sampling
from storage.shards.shards import xxh3_of
from storage.store import Store
from tests.commands import ROOT
from tests.conftest import write_raw_folders
from tests.processes import Process
from tests.servers import BUCKET, stores_of
from tests.storage.faults import FaultProxy
from tests.stream.stream_driver import Round, checkpointed

pytestmark = pytest.mark.slow

NUM_SAMPLES = 96
LAST_DRAW = 1600
BYTES_PER_S = 4_000_000
"""Slow enough for kills to meet downloads."""
KILLS = [
    *(pytest.param(sampling, 4, id=f"{sampling}, 4 kills") for sampling in ORDERS),
    *(
        pytest.param(sampling, 20, id=f"{sampling}, 20 kills", marks=pytest.mark.nightly)
        for sampling in ORDERS
    ),
]
"""Four kills meet each kind: first fetches and later steps, a cache that is too small and one that
is not, other numbers of ranks and threads."""
DEADLINE_S = 120.0


class Node:
    """A process that starts ranks; see `stream_driver.py`."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.process = Process(
                [sys.executable, "-m", "tests.stream.stream_driver"],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def start(self, this: Round) -> list[int]:
        """Start the ranks; returns their process ids."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(this._asdict()) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def ended(self) -> list[int]:
        """The ranks' exit codes, once they have ended."""
        codes = self._answer()
        assert set(codes) <= {0, -signal.SIGKILL}, self.log.read_text()
        return codes

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return json.loads(line)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("node") / "stderr")
    yield node
    node.process.kill()
    node.process.communicate()


@pytest.fixture(scope="module")
def packed(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A labelled split of a dozen shards in the S3 server."""
    raw_dir = tmp_path_factory.mktemp("raw")
    write_raw_folders(raw_dir, NUM_SAMPLES, seed=1)
    store = stores_of(s3_server).open(f"s3://{BUCKET}/{uuid4().hex}")
    pack("folders", raw_dir, store, "train", name="tiny", shard_bytes=40_000)
    assert 8 <= len(read_manifest(store, "train")[0].shards) <= 20
    return store


@pytest.fixture
def slow_server(s3_server: S3Server) -> Iterator[S3Server]:
    """The S3 server behind a slow network."""
    proxy = FaultProxy(s3_server.endpoint_url)
    proxy.bytes_per_s = BYTES_PER_S
    yield s3_server._replace(endpoint_url=proxy.endpoint_url)
    proxy.close()


def lines(path: Path) -> list[str]:
    """The whole lines that a rank has written so far."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def consumed(this: Round, first: int) -> list[str]:
    """What optimizer steps have used since the draw `first`, in order: each draw once."""
    last = checkpointed(this.checkpoint)
    found = {}
    for rank in range(this.num_ranks):
        for line in lines(this.log(rank)):
            draw = int(line.split()[0])
            assert draw not in found, "two ranks have drawn the same"
            found[draw] = line
    return [found[draw] for draw in range(first, last)]


def kill(pids: list[int], chance: random.Random) -> None:
    """SIGKILL to all, or to one rank and, a little later, to those that wait for it."""
    chance.shuffle(pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        if pid == pids[0]:
            time.sleep(chance.choice([0, 0.05]))


def wait_for_steps(this: Round, steps: int) -> None:
    """Until rank 0 has been given so many batches."""
    deadline_s = time.monotonic() + DEADLINE_S
    rank_size = 4 // this.num_ranks
    while len(lines(this.log(0))) < steps * rank_size:
        assert time.monotonic() < deadline_s, f"{this}: no batch for long"
        time.sleep(0.005)


def killed_round(node: Node, this: Round, chance: random.Random) -> None:
    """Stream until a random moment: during the first fetches, or some steps later."""
    for rank in range(4):
        this.log(rank).unlink(missing_ok=True)
    steps = chance.choice([0, 0, *range(1, 9)])
    pids = node.start(this)
    wait_for_steps(this, steps)
    time.sleep(chance.uniform(0, 0.03 if steps else 0.8))
    kill(pids, chance)
    assert -signal.SIGKILL in node.ended(), f"{this} came to its end before it was killed"


def calm(node: Node, this: Round, folder: Path) -> list[str]:
    """The stream of one rank and one thread that nothing disturbs."""
    folder.mkdir()
    alone = this._replace(folder=str(folder), cache_dir=str(folder / "cache"))
    node.start(alone)
    assert node.ended() == [0]
    return consumed(alone, 0)


def sha256(samples: list[str]) -> str:
    return hashlib.sha256("\n".join(samples).encode()).hexdigest()


@pytest.mark.parametrize(("sampling", "kills"), KILLS)
def test_killed_runs_use_the_samples_of_a_calm_one(
    sampling: Sampling,
    kills: int,
    node: Node,
    packed: Store,
    s3_server: S3Server,
    slow_server: S3Server,
    tmp_path: Path,
) -> None:
    chance = random.Random(20 + list(ORDERS).index(sampling))
    cache_dir = tmp_path / "cache"
    base = Round(tuple(slow_server), packed.uri, str(tmp_path), str(cache_dir), LAST_DRAW, sampling)
    expected = calm(node, base._replace(server=tuple(s3_server)), tmp_path / "calm")
    manifest, _ = read_manifest(packed, "train")
    half_bytes = sum(shard.size_bytes for shard in manifest.shards) // 2
    used: list[str] = []
    for number in range(kills + 1):
        this = base._replace(
            num_ranks=chance.choice([1, 2, 4]),
            threads=chance.choice([1, 2, 3]),
            capacity_bytes=half_bytes if number < kills // 2 else None,
            step_s=0.003,
        )
        first = checkpointed(this.checkpoint)
        assert first == len(used)
        if number < kills:
            killed_round(node, this, chance)
        else:
            node.start(this._replace(step_s=0.0))
            assert set(node.ended()) == {0}
        used += consumed(this, first)
    assert len(used) == LAST_DRAW
    assert sha256(used) == sha256(expected)
    for shard in manifest.shards:
        path = cache_dir / manifest.dataset_id / "train" / shard.name
        assert not path.exists() or xxh3_of(path) == shard.xxh3
