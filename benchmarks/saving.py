"""What saving costs: a step with a save every 20 steps to a slow store, over a step without.

    python -m benchmarks.saving [--rounds N] [--mb-per-s MB] [--height H] [--width W]

AdvEnt over DeepLabV2 with ResNet-101, whose state is over half a gigabyte, on this machine's
device. Blocks of 20 steps with and without a save take turns, so that both see the same machine;
what of an upload goes on after its block is waited for, outside of the clock. Training has all
cores but the last, as a GPU computes by itself; the saving thread, the store and what slows it
share that one. It is never idle (a process of the lowest priority fills it), since cores are often
two threads of one, where whatever runs on the second slows the first. What a save takes of it is
printed too: where no core is free, training pays that.
Uploads are signed as over https, that is without their bytes; encryption is not in the figures.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from adapt.batch import Batch
from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.saver import Saver
from adapt.checkpoint.snapshot import Moment, Snapshot
from adapt.engine.device import prepare_device
from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.methods import build_method
from adapt.models import build_segmenter
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config
from adapt.platforms.local_stack import seaweedfs
from storage.config import StoreConfig
from storage.stores import Stores
from tests.storage.faults import FaultProxy

BLOCK_STEPS, CLASSES = 20, 19
BUCKET = "saving"
CORES = sorted(os.sched_getaffinity(0))


def keep_apart(saver_id: int) -> None:
    """Training on all cores but the last, which the saving thread gets."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, CORES[:-1])
        os.sched_setaffinity(saver_id, CORES[-1:])
        torch.set_num_threads(len(CORES) - 1)


def network(device: torch.device) -> Engine:
    """The engine of the papers' largest network, without weights."""
    config = DeepLabV2Config(encoder="resnet101", weights="none", norm="frozen_affine")
    method = build_method({"name": "advent"}, build_segmenter(config, CLASSES))
    return Engine(method, TrainConfig(steps=10**6), SGDConfig(), device)


def batch(size_hw: tuple[int, int], device: torch.device) -> Batch:
    """One image of noise."""
    labels = torch.randint(0, CLASSES, (1, *size_hw), device=device)
    return Batch(torch.randn(1, 3, *size_hw, device=device), labels, ("noise",))


def block_s(engine: Engine, one: Batch, saver: Saver | None) -> float:
    """Seconds of a block of steps, which begins with a save where there is a saver."""
    _settle(engine)
    started_s = time.perf_counter()
    if saver is not None:
        submit(engine, saver)
    for _ in range(BLOCK_STEPS):
        engine.step(one, one)
    _settle(engine)
    return time.perf_counter() - started_s


def submit(engine: Engine, saver: Saver) -> None:
    """Copy the state and hand it to the saving thread."""
    weights = engine.method.segmenter.state_dict()
    state = {"engine": engine.state_dict()}
    moment = Moment(engine.step_count, 0, time.monotonic())
    saver.submit(Snapshot(moment, state, weights, "", {}).copied())


def save_alone_s(engine: Engine, saver: Saver) -> float:
    """Seconds of processor time that a save takes in all threads of this process."""
    started_s = time.process_time()
    submit(engine, saver)
    saver.finish(None, 600, lambda: None)
    return time.process_time() - started_s


def _settle(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def slow_store(bytes_per_s: float) -> Iterator[Stores]:
    """A store of that bandwidth, in a process of its own on the last core."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, bytes_per_s))
    process.start()
    endpoint_url, *keys = here.recv()
    config = StoreConfig(
        endpoint_url=endpoint_url,
        region="us-east-1",
        access_key_env="KEY",
        secret_key_env="SECRET",
        sign_uploads=False,
    )
    try:
        yield Stores({"s3": config}, dict(zip(("KEY", "SECRET"), keys, strict=True)))
    finally:
        here.send("end")
        process.join()


@contextmanager
def last_core_busy() -> Iterator[None]:
    """The last core never idle, but free for whoever wants it."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()


def _spin() -> None:
    os.sched_setaffinity(0, CORES[-1:])
    os.nice(19)
    while True:
        pass


def _serve(pipe: Connection, bytes_per_s: float) -> None:
    os.sched_setaffinity(0, CORES[-1:])
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
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--width", type=int, default=384)
    given = parser.parse_args()
    device = prepare_device(0)
    engine, one = network(device), batch((given.height, given.width), device)
    with slow_store(given.mb_per_s * 1e6) as stores, last_core_busy():
        saver = Saver(RunFolder(stores.open(f"s3://{BUCKET}/run")), 1, lambda _saved, _score: None)
        keep_apart(next(t.native_id for t in threading.enumerate() if t.name == "saver") or 0)
        block_s(engine, one, None)
        print(f"a save alone: {save_alone_s(engine, saver):.1f} s of one core", flush=True)
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
