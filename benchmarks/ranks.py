"""What averaging gradients once a step costs: a step of ours over one of DistributedDataParallel.

    python -m benchmarks.ranks [--ranks N] [--rounds N]

Source only over DeepLabV2 with ResNet-50, the one method that fits DDP's mould: one forward, one
backward. Blocks of both take turns in the same processes, over gloo on the CPU.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from adapt.batch import Batch
from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.methods import build_method
from adapt.models import build_segmenter
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config

HW, CLASSES, BLOCK_STEPS = (128, 256), 19, 3


def engine() -> Engine:
    """The network of one rank."""
    torch.manual_seed(1)
    config = DeepLabV2Config(encoder="resnet50", weights="none", norm="frozen_affine")
    method = build_method({"name": "source_only"}, build_segmenter(config, CLASSES))
    return Engine(method, TrainConfig(steps=10**6), SGDConfig(), torch.device("cpu"))


def ddp_step(ours: Engine) -> Callable[[Batch], None]:
    """The same step with DistributedDataParallel's hooks."""
    parallel = DistributedDataParallel(ours.method.segmenter)

    def step(one: Batch) -> None:
        for optimizer in ours.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        losses = ours.method.segmenter.segmentation_losses(parallel(one.images), one.labels)
        torch.stack([weight * loss for weight, loss in losses.values()]).sum().backward()
        for optimizer in ours.optimizers.values():
            optimizer.step()

    return step


def seconds(step: Callable[[Batch], object], one: Batch) -> float:
    """Seconds of a block of steps, all ranks together."""
    dist.barrier()
    started_s = time.perf_counter()
    for _ in range(BLOCK_STEPS):
        step(one)
    dist.barrier()
    return time.perf_counter() - started_s


def as_rank(rank: int, num_ranks: int, rounds: int, folder: str) -> None:
    """One rank; the first one prints."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=num_ranks)
    mine, other = engine(), engine()
    ours, ddp = (lambda one: mine.step(one, None)), ddp_step(other)
    labels = torch.randint(0, CLASSES, (1, *HW))
    one = Batch(torch.randn(1, 3, *HW), labels, ("noise",))
    ratios = []
    for number in range(rounds + 1):
        ours_s, ddp_s = seconds(ours, one), seconds(ddp, one)
        if rank == 0 and number:  # the first round warms up
            ratios.append(ours_s / ddp_s)
            print(f"round {number}: {ratios[-1]:.3f} ({ddp_s / BLOCK_STEPS:.2f} s a step)")
    if rank == 0:
        print(f"a step of ours / of DDP, {num_ranks} ranks: {statistics.median(ratios):.3f}")
    dist.destroy_process_group()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (given.ranks, given.rounds, folder)
        multiprocessing.spawn(as_rank, arguments, nprocs=given.ranks)


if __name__ == "__main__":
    main()
