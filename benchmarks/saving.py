"""What saving costs: a step with a save every 20 steps to a slow store, over a step without.

    python -m benchmarks.saving [--rounds N] [--mb-per-s MB] [--height H] [--width W]

AdvEnt over DeepLabV2 with ResNet-101, whose state is over half a gigabyte, on this machine's
device. Blocks of 20 steps with and without a save take turns, so that both see the same machine;
what of an upload goes on after its block is waited for, outside of the clock. The store, which in
earnest is elsewhere, has a process and a core of its own; all that the job does has the others.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from adapt.batch import Batch
from adapt.checkpoint import RunFolder
from adapt.engine import Engine, TrainConfig, prepare_device
from adapt.methods import build_method
from adapt.models import build_segmenter
from adapt.models.deeplab_v2 import DeepLabV2Config
from adapt.optim import OptimConfig
from adapt.platforms.local_stack import seaweedfs
from adapt.saving import Saver, snapshot_of
from storage.store import StoreConfig, Stores
from tests.storage.faults import FaultProxy

BLOCK_STEPS, CLASSES = 20, 19
BUCKET = "saving"


def network(device: torch.device) -> Engine:
    """The engine of the papers' largest network, without weights."""
    config = DeepLabV2Config(encoder="resnet101", weights="none", norm="frozen_affine")
    method = build_method({"name": "advent"}, build_segmenter(config, CLASSES))
    return Engine(method, TrainConfig(steps=10**6), OptimConfig(), device)


def batch(size_hw: tuple[int, int], device: torch.device) -> Batch:
    """One image of noise."""
    labels = torch.randint(0, CLASSES, (1, *size_hw), device=device)
    return Batch(torch.randn(1, 3, *size_hw, device=device), labels, ("noise",))


def block_s(engine: Engine, one: Batch, saver: Saver | None) -> float:
    """Seconds of a block of steps, which begins with a save where there is a saver."""
    _settle(engine)
    started_s = time.perf_counter()
    if saver is not None:
        weights = engine.method.segmenter.state_dict()
        state = {"engine": engine.state_dict()}
        saver.submit(snapshot_of(engine.step_count, state, weights, "", {}))
    for _ in range(BLOCK_STEPS):
        engine.step(one, one)
    _settle(engine)
    return time.perf_counter() - started_s


def _settle(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def slow_store(bytes_per_s: float) -> Iterator[Stores]:
    """A store of that bandwidth on the last core, which this process then leaves to it."""
    cores = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, bytes_per_s, cores[-1:]))
    process.start()
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[:-1])
        torch.set_num_threads(len(cores) - 1)
    endpoint_url, *keys = here.recv()
    config = StoreConfig(
        endpoint_url=endpoint_url,
        region="us-east-1",
        access_key_env="KEY",
        secret_key_env="SECRET",
    )
    try:
        yield Stores({"s3": config}, dict(zip(("KEY", "SECRET"), keys, strict=True)))
    finally:
        here.send("end")
        process.join()


def _serve(pipe: Connection, bytes_per_s: float, cores: list[int]) -> None:
    os.sched_setaffinity(0, cores)
    with tempfile.TemporaryDirectory() as folder, seaweedfs(Path(folder)) as server:
        server.make_bucket(BUCKET)
        proxy = FaultProxy(server.endpoint_url)
        proxy.bytes_per_s = bytes_per_s
        pipe.send((proxy.endpoint_url, server.access_key, server.secret_key))
        pipe.recv()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mb-per-s", type=float, default=20.0)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=256)
    given = parser.parse_args()
    device = prepare_device(0)
    engine, one = network(device), batch((given.height, given.width), device)
    with slow_store(given.mb_per_s * 1e6) as stores:
        saver = Saver(RunFolder(stores.open(f"s3://{BUCKET}/run")), 1, lambda _saved, _score: None)
        block_s(engine, one, None)
        ratios = []
        for number in range(given.rounds):
            without_s = block_s(engine, one, None)
            with_s = block_s(engine, one, saver)
            waited_s = time.perf_counter()
            saver.finish(None, 600, lambda: None)
            waited_s = time.perf_counter() - waited_s
            ratios.append(with_s / without_s)
            print(
                f"round {number + 1}: {ratios[-1]:.3f} ({without_s / BLOCK_STEPS:.2f} s a step; "
                f"the upload went on for {waited_s:.0f} s after the block)",
                flush=True,
            )
        saver.close()
    print(
        f"a step with a save every {BLOCK_STEPS} steps / without: {statistics.median(ratios):.3f}"
    )


if __name__ == "__main__":
    main()
