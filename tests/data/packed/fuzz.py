"""Fuzzes the readers of packed splits: seeded damage to every part, with checksums that agree after
it, so that it reaches the parsers and decoders.

A split is read whole or refused by `DataError`, `StoreError` or `JobError`, in bounded memory and
time; anything else is a finding, printed with its seed. `python -m tests.data.packed.fuzz --seed N`
replays one; `--seconds S` or `--cases N` look for more.
"""

import argparse
import io
import json
import mmap
import os
import random
import signal
import struct
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard
from PIL import Image

from tests.data.packed import forged
from tests.data.packed.damage import damaged_arrays, damaged_bytes, damaged_image, damaged_page
from tests.data.packed.guarded import READ_S, READERS, REFUSALS, in_child, outcome_of, peak_bytes
from tests.data.packed.handmade import SIZE_HW, Piece, piece, write_split

MOST_BYTES = 200_000_000
"""How far a batch may raise this process's memory."""
BATCH = 500
MEMORY_DIR = "/dev/shm"
"""Where it is there, four times as many cases are read as on a disk, which syncs every write."""
MOST_FINDINGS = 20
STAGES = ("image", "image", "label", "shard", "arrays", "index", "manifest", "text")
ENDS = {"read", "MissingObject", "StoreUnavailable", *(error.__name__ for error in REFUSALS)}


class Finding(NamedTuple):
    """What a reader must not do, and the seed that made it."""

    seed: int
    reader: str
    ended: str
    message: str


@cache
def materials() -> tuple[Piece, ...]:
    """Good samples of every kind that `pack` and the owners of images write, and bad labels."""
    good = piece("a")
    images = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    picture = Image.fromarray(images)
    modes = [("png", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")]
    modes += [("jpg", mode) for mode in ("L", "CMYK", "RGB")]
    samples = [good, piece("a", "jpg"), piece("a", "png")]
    for suffix, mode in modes:
        buffer, kind = io.BytesIO(), "PNG" if suffix == "png" else "JPEG"
        changed = picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)
        changed.save(buffer, kind, progressive=mode == "RGB")
        samples.append(good._replace(suffix=suffix, image=buffer.getvalue()))
    pixels = SIZE_HW[0] * SIZE_HW[1]
    frames = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(pixels))
    labels = (forged.zstd(pixels, pixels), forged.zstd_window(pixels, 20), frames)
    return (*samples, *(good._replace(label=label) for label in labels))


def write_case(folder: Path, seed: int) -> tuple[str, ...]:
    """Write the damaged split of a seed; returns the stages that were damaged."""
    rng = random.Random(seed)
    pieces = [rng.choice(materials())._replace(key=key) for key in "abc"[: rng.randint(1, 3)]]
    stages = tuple(rng.choice(STAGES) for _ in range(rng.choice((1, 1, 1, 2, 3))))
    place = rng.randrange(len(pieces))
    for stage in stages:
        one = pieces[place]
        if stage == "image":
            pieces[place] = one._replace(image=damaged_image(one.image, one.suffix, rng))
        elif stage == "label":
            pieces[place] = one._replace(label=damaged_bytes(one.label, rng))
    edits: dict[str, Callable[[Any], Any]] = {
        "shard": lambda data: damaged_bytes(data, rng),
        "arrays": lambda arrays: damaged_arrays(arrays, rng),
        "index": lambda data: damaged_bytes(data, rng),
        "manifest": lambda page: damaged_page(page, rng),
        "text": lambda text: damaged_bytes(text, rng),
    }
    write_split(folder, pieces, **{name: edits[name] for name in stages if name in edits})
    return stages


def fuzz(first: int, num_cases: int, seconds: float) -> tuple[list[Finding], Counter[str]]:
    """Seeds from `first` on until either is used up: findings, and how readings ended."""
    findings: list[Finding] = []
    ends: Counter[str] = Counter()
    until_s, seed, parent = time.monotonic() + seconds, first, os.getppid()
    at = mmap.mmap(-1, 8)  # shared with the child, so that it tells even of one that crashed
    while seed < first + num_cases and time.monotonic() < until_s and os.getppid() == parent:
        seeds = range(seed, min(seed + BATCH, first + num_cases))
        at[:] = struct.pack("<Q", seed)
        text, killed_by = in_child(partial(batch_as_json, seeds, until_s, at))
        reached = struct.unpack("<Q", at[:])[0]
        finding, ended = json.loads(text) if text else ([reached, "", killed_by or "?", ""], {})
        ends.update(ended)
        if finding:
            findings.append(Finding(*finding))
            print(f"FOUND {findings[-1]}", flush=True)
        if len(findings) == MOST_FINDINGS:
            break
        seed = reached + 1
    return findings, ends


def batch_as_json(seeds: range, until_s: float, at: mmap.mmap) -> str:
    """`batch`, as a child can tell it."""
    return json.dumps(batch(seeds, until_s, at))


def batch(
    seeds: range, until_s: float, at: mmap.mmap
) -> tuple[tuple[int, str, str, str] | None, dict[str, int]]:
    """Read these seeds' cases until a finding or the time's end; `at` holds the current one."""
    warnings.simplefilter("ignore")
    ends: Counter[str] = Counter()
    start_bytes = warm_up()
    for seed in seeds:
        at[:] = struct.pack("<Q", seed)
        signal.alarm(READ_S)
        with tempfile.TemporaryDirectory() as folder:
            write_case(Path(folder), seed)
            for name, reader in READERS.items():
                outcome = outcome_of(reader, folder)
                ends[outcome.ended] += 1
                grown_bytes = peak_bytes() - start_bytes
                if outcome.ended not in ENDS:
                    return (seed, name, outcome.ended, outcome.message), ends
                if grown_bytes > MOST_BYTES:
                    return (seed, name, f"{grown_bytes >> 20} MiB", outcome.message), ends
        if time.monotonic() > until_s:
            break
    return None, ends


def warm_up() -> int:
    """Read a good split by all readers; returns the memory that takes."""
    with tempfile.TemporaryDirectory() as folder:
        write_split(Path(folder), [piece("a"), piece("b", "jpg"), piece("c", "png")])
        for reader in READERS.values():
            reader(folder)
    return peak_bytes()


def main() -> int:
    """The command line; the exit code says whether there are findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--first", type=int, help="the first seed; none = any")
    parser.add_argument("--cases", type=int, default=1 << 62)
    parser.add_argument("--seconds", type=float, default=600)
    args = parser.parse_args()
    if os.access(MEMORY_DIR, os.W_OK):
        tempfile.tempdir = MEMORY_DIR
    first = args.first if args.first is not None else random.SystemRandom().randrange(1 << 40)
    if args.seed is not None:
        first, args.cases = args.seed, 1
        with tempfile.TemporaryDirectory() as folder:
            print(f"damaged: {', '.join(write_case(Path(folder), args.seed))}")
    started_s = time.monotonic()
    findings, ends = fuzz(first, args.cases, args.seconds)
    spent_s = time.monotonic() - started_s
    print(f"seeds from {first}, {spent_s:.0f} s: {ends.total()} readings: {dict(ends)}")
    print(f"{len(findings)} findings")
    for finding in findings:
        print(f"{finding}\n  replay: python -m tests.data.packed.fuzz --seed {finding.seed}")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
