"""A node's ranks as real processes, to be killed: each streams, notes what it was given, and keeps
step with the others as training does; rank 0 checkpoints the draw every few steps.

Rounds come as lines of JSON on stdin, each answered by the ranks' process ids when they have
started and by their exit codes when they have ended. Ranks are forked from this process, which
never streams itself, so that torch is imported once.
"""

import hashlib
import json
import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision.transforms.v2  # noqa: F401  # what ranks would import, two seconds each

import storage.s3.store  # noqa: F401
from adapt.data.packed.packed_split import PackedSplit
from adapt.platforms.local_stack import S3Server
from adapt.stream.augment import AugmentConfig
from adapt.stream.config import StreamConfig
from adapt.stream.host_batch import HostBatch
from adapt.stream.stream import Stream
from storage.files import atomic_file
from storage.shards.cache import ShardCache
from tests.servers import stores_of

CHECKPOINT_STEPS = 3
BATCH_SIZE = 4
AUGMENTATION = AugmentConfig(flip=0.5, brightness=0.4, crop_hw=(32, 40))
TABLE = np.array([0, 1, 2, 3] + [255] * 252, np.uint8)
LONGEST_STEP_S = 60.0


class Round(NamedTuple):
    """What is streamed from one start to the next kill."""

    server: tuple[str, str, str]
    uri: str
    folder: str
    cache_dir: str
    last_draw: int
    sampling: str
    num_ranks: int = 1
    threads: int = 1
    capacity_bytes: int | None = None
    step_s: float = 0.0

    @property
    def checkpoint(self) -> Path:
        """The first draw that no optimizer step has used."""
        return Path(self.folder) / "checkpoint"

    def log(self, rank: int) -> Path:
        """A line (draw, key, sha256 of pixels and labels) for each sample a rank was given."""
        return Path(self.folder) / f"rank-{rank}"


def checkpointed(path: Path) -> int:
    """The draw to go on from."""
    return int(path.read_text()) if path.exists() else 0


def digest(batch: HostBatch, place: int) -> str:
    """sha256 of one sample's pixels and labels."""
    assert batch.labels is not None
    return hashlib.sha256(
        batch.images[place].contiguous().numpy().tobytes()
        + batch.labels[place].contiguous().numpy().tobytes()
    ).hexdigest()


def train(this: Round, rank: int, draw: int, barrier: Barrier) -> None:
    """One rank, from a draw on."""
    stream = opened(this, rank, draw)
    with this.log(rank).open("w") as log:
        while stream.draw < this.last_draw:
            first = stream.draw + stream.rank_start
            batch = next(stream)
            for place, key in enumerate(batch.keys):
                log.write(f"{first + place} {key} {digest(batch, place)}\n")
            log.flush()
            barrier.wait(LONGEST_STEP_S)  # as the ranks wait for each other's gradients
            time.sleep(this.step_s)
            ended = stream.draw >= this.last_draw
            if rank == 0 and (ended or stream.draw // BATCH_SIZE % CHECKPOINT_STEPS == 0):
                with atomic_file(this.checkpoint) as file:
                    file.write(str(stream.draw).encode())
    stream.close()


def opened(this: Round, rank: int, draw: int) -> Stream:
    """The stream of one rank."""
    cache = ShardCache(Path(this.cache_dir), this.capacity_bytes, reserve_bytes=0)
    store = stores_of(S3Server(*this.server)).open(this.uri)
    return Stream(
        PackedSplit(store, "train", cache, TABLE),
        seed=9,
        domain=0,
        batch_size=BATCH_SIZE,
        augmentations=[AUGMENTATION],
        config=StreamConfig(
            threads=this.threads,
            window_shards=2,
            sampling=this.sampling,
            rare_class_min_pixels=100,
        ),
        rank=rank,
        num_ranks=this.num_ranks,
        draw=draw,
        planned_draws=200,
    )


def main() -> None:
    """Rounds until stdin ends."""
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    for line in sys.stdin:
        this = Round(**json.loads(line))
        draw, barrier = checkpointed(this.checkpoint), context.Barrier(this.num_ranks)
        ranks = [
            context.Process(target=train, args=(this, rank, draw, barrier))
            for rank in range(this.num_ranks)
        ]
        for rank in ranks:
            rank.start()
        print(json.dumps([rank.pid for rank in ranks]), flush=True)
        for rank in ranks:
            rank.join()
        print(json.dumps([rank.exitcode for rank in ranks]), flush=True)


if __name__ == "__main__":
    main()
