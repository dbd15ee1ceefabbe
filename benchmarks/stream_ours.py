"""What benchmarks/stream.py measures of our own stream, each in a process of its own.

    python -m benchmarks.stream_ours read GIVEN.json     # one epoch, as stream_peers.py does
    python -m benchmarks.stream_ours pairs GIVEN.json    # source + target, and the papers' way
    python -m benchmarks.stream_ours threads GIVEN.json  # wall time of one thread and of two
    python -m benchmarks.stream_ours memory GIVEN.json   # memory over epochs

Batches are taken whole: fetched, checked, decoded, train ids in the place of ids, collated.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.packed_split import PackedSplit
from adapt.stream.augment import AugmentConfig
from adapt.stream.config import StreamConfig
from adapt.stream.stream import Stream
from benchmarks.stream_peers import Given, PackedFolder, cpu_s, decode, measure
from storage.shards.cache import ShardCache
from storage.stores import open_store

MEAN_BGR = np.array((104.00698793, 116.66876762, 122.67891434), np.float32)
"""ImageNet's, as Caffe's networks have it."""
TABLE = LABEL_SPACES["cityscapes19"].table("cityscapes")
PAIR_HWS = ((720, 1280), (512, 1024))
"""Source and target of AdaptSegNet and ADVENT."""
MEMORY_EPOCHS, ROUNDS = 4, 3


def open_stream(
    uri: str,
    cache: ShardCache,
    *,
    batch_size: int = 1,
    threads: int = 2,
    labelled: bool = True,
) -> Stream:
    """A stream without augmentation, as the papers train."""
    return Stream(
        PackedSplit(open_store(uri), "train", cache, TABLE if labelled else None),
        seed=1,
        domain=0,
        batch_size=batch_size,
        augmentations=[AugmentConfig()],
        config=StreamConfig(threads=threads),
    )


def ours(given: Given) -> Iterator[int]:
    """One epoch from the object store, through the cache in the folder that is given; one thread
    decodes, as in the floor and in the peers."""
    cache, batch_size = ShardCache(Path(given["cache"])), given["batch_size"]
    return taken(open_stream(given["uri"], cache, batch_size=batch_size, threads=1), batch_size)


def taken(stream: Stream, batch_size: int, epochs: int = 1) -> Iterator[int]:
    """Takes batches until every sample of the epochs was there; gives the size of each."""
    for _ in range(epochs * len(stream.split) // batch_size):
        batch = next(stream)
        images, labels = batch.images, batch.labels  # later batches may reuse the memory
        yield len(images) if labels is None else len(labels)
    stream.close()


def pairs(given: Given) -> dict[str, float]:
    """CPU milliseconds a source + target pair: the papers' loaders on the raw PNGs, our two streams
    on the same pictures packed."""
    raws, number = [Path(folder) for folder in given["raws"]], given["pairs"]
    papers_ms: list[float] = []
    ours_ms: list[float] = []
    streams = [
        open_stream(uri, ShardCache(Path(given["cache"])), labelled=labelled)
        for uri, labelled in zip(given["uris"], (True, False), strict=True)
    ]
    next(streams[0]), next(streams[1])
    for _ in range(ROUNDS):
        for measured, run in (
            (papers_ms, partial(papers_pairs, raws)),
            (ours_ms, partial(our_pairs, streams)),
        ):
            started_s = cpu_s()
            run(number)
            measured.append(1e3 * (cpu_s() - started_s) / number)
    for stream in streams:
        stream.close()
    return {"papers_ms": min(papers_ms), "ours_ms": min(ours_ms)}


def our_pairs(streams: list[Stream], number: int) -> None:
    """As many are decoded ahead afterwards as before, so that each pair counts once."""
    for _ in range(number):
        for stream in streams:
            batch = next(stream)
            _ = batch.images, batch.labels


def papers_pairs(raws: list[Path], number: int) -> None:
    """The first `number` pictures of both domains; labels of the source alone."""
    for place in range(number):
        for raw, size_hw, labelled in zip(raws, PAIR_HWS, (True, False), strict=True):
            papers_image(raw / "images" / f"{place:05d}.png", size_hw)
            if labelled:
                papers_label(raw / "labels" / f"{place:05d}.png", size_hw)


def papers_image(path: Path, size_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A PNG -> (3, H, W) float32 BGR minus mean, bicubic, as AdaptSegNet and ADVENT read it."""
    image = Image.open(path).convert("RGB").resize(size_hw[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32)[:, :, ::-1]
    pixels = pixels - MEAN_BGR
    return pixels.transpose(2, 0, 1).copy()


def papers_label(path: Path, size_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A PNG of ids -> (H, W) float32 train ids, one mask a class, 255 elsewhere."""
    label = Image.open(path).resize(size_hw[::-1], Image.Resampling.NEAREST)
    ids = np.asarray(label, np.float32)
    train_ids = np.full(ids.shape, 255, np.float32)
    for identity in np.flatnonzero(TABLE != 255):
        train_ids[ids == identity] = TABLE[identity]
    return train_ids.copy()


def threads(given: Given) -> dict[str, float]:
    """Wall time of one thread over that of two: of decoding alone, and of the whole stream with a
    warm cache; and what share of the machine others took meanwhile."""
    samples = PackedFolder(Path(given["packed"]))
    in_memory = [samples[number] for number in range(min(64, len(samples)))]
    decode_one = partial(decode, size_hw=tuple(given["size_hw"]))
    wall_s: dict[tuple[str, int], float] = {}
    busy = Others()
    for _ in range(ROUNDS):
        for number in (1, 2):
            with ThreadPoolExecutor(number) as pool:
                started_s = perf_counter()
                for _ in pool.map(decode_one, in_memory * 2, chunksize=1):
                    pass
                keep_least(wall_s, ("decode", number), perf_counter() - started_s)
            stream = open_stream(given["uri"], ShardCache(Path(given["cache"])), threads=number)
            batches = taken(stream, 1)
            next(batches)
            started_s = perf_counter()
            sum(batches)
            keep_least(wall_s, ("stream", number), perf_counter() - started_s)
    ratios = {kind: wall_s[kind, 1] / wall_s[kind, 2] for kind in ("decode", "stream")}
    return ratios | {"others_share": busy.share()}


def keep_least(found: dict[Any, float], key: Any, value: float) -> None:
    """The least of the values seen for a key."""
    found[key] = min(value, found.get(key, value))


class Others:
    """The share of the machine's CPU time that other processes take, since this was made."""

    def __init__(self) -> None:
        self.start = self._now()

    def share(self) -> float:
        """In [0, 1]."""
        busy_s, own_s, wall_s = (b - a for a, b in zip(self.start, self._now(), strict=True))
        share = (busy_s - own_s) / (wall_s * (os.cpu_count() or 1))
        return min(1.0, max(0.0, share))  # the machine's clock counts whole ticks

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """(busy CPU seconds of the machine, our own, wall seconds)."""
        fields = [
            int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        ]
        idle = fields[3] + fields[4]
        return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK"), cpu_s(), perf_counter()


def memory(given: Given) -> dict[str, float]:
    """Megabytes (10^6) that this process holds over some epochs: `peak_mb`, and `growth_mb`, by how
    much the peak after the first tenth exceeds that within it."""
    capacity_bytes = given["capacity_bytes"]
    stream = open_stream(given["uri"], ShardCache(Path(given["cache"]), capacity_bytes))
    held = [held_bytes() for _ in taken(stream, 1, MEMORY_EPOCHS)]
    return {"samples": len(held), "growth_mb": growth(held) / 1e6, "peak_mb": max(held) / 1e6}


def growth(values: list[int]) -> int:
    """The largest after the first tenth less the largest within it."""
    start = max(1, len(values) // 10)
    return max(values[start:]) - max(values[:start])


def held_bytes() -> int:
    """Resident memory and files in memory (memfd) that this process has open; the kernel's cache of
    files on disk is not counted."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    total = pages * os.sysconf("SC_PAGE_SIZE")
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()).startswith("/memfd:"):
                total += 512 * link.stat().st_blocks
    return total


COMMANDS: dict[str, Callable[[Given], dict[str, float]]] = {
    "read": partial(measure, ours),
    "pairs": pairs,
    "threads": threads,
    "memory": memory,
}


def main() -> None:
    """Print what a command measures as JSON in its last line."""
    print(json.dumps(COMMANDS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))))


if __name__ == "__main__":
    main()
