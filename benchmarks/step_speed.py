"""What a training step takes on this machine: ours, and the papers' order in plain PyTorch.

    python -m benchmarks.step_speed                                # writes docs/performance.md
    python -m benchmarks.step_speed --rounds 1 --size-hw 64 128 --print

AdvEnt at two levels on DeepLabV2 with ResNet-101, batch 1 + 1, random weights and images, one
process on so many threads. The papers' order is ADVENT's training loop: the same network in fp32,
`torch.optim`'s SGD and Adam as they come, losses read in every step. The sides take turns, so that
a busy machine slows each of them alike; ratios are of one round, and their median is told. First
both must have the same losses. MFU is the share of the rate of this machine's own convolutions.
"""

import argparse
import statistics
from collections.abc import Callable
from copy import deepcopy
from os import getloadavg
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.batch import IGNORED, Batch
from adapt.engine.device import prepare_device
from adapt.engine.engine import Engine
from adapt.engine.flops import step_flops
from adapt.engine.optim import set_lr
from adapt.engine.segmenter_optimizer import moved_once
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import PRECISIONS, TrainConfig
from adapt.losses import weighted_self_information
from adapt.methods import build_method
from adapt.methods.adversaries import SOURCE, TARGET
from adapt.methods.method import Method
from adapt.models import build_segmenter
from benchmarks.methods import write_block

ROOT = Path(__file__).resolve().parents[1]
NUM_CLASSES = 19
STEPS = 120_000
PAPERS = "papers' order, fp32"
CHANNELS, PEAK_HW, PEAK_RUNS = 256, (64, 112), 5
Step = Callable[[], dict[str, float]]


class Timed(NamedTuple):
    """Of one side: seconds of a step, its speed over the papers' order, its share of the peak."""

    seconds: float
    ratio: float
    mfu: float


class PapersOrder:
    """ADVENT's training loop on a copy of a method's networks."""

    def __init__(self, method: Method) -> None:
        self.method, self.config, self.count = deepcopy(method), SGDConfig(), 0
        momentum, decay = self.config.momentum, self.config.weight_decay
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "segmenter": torch.optim.SGD(
                moved_once(self.config, self.method.segmenter),
                momentum=momentum,
                weight_decay=decay,
            )
        }
        for name, adversary in self.method.adversaries().items():
            self.optimizers[name] = torch.optim.Adam(
                adversary.parameters(),
                lr=self.config.adversary_lr,
                betas=self.config.adversary_betas,
            )
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["base_lr"] = group["lr"]

    def step(self, source: Batch, target: Batch) -> dict[str, float]:
        """One step -> its losses."""
        set_lr(self.optimizers, self.config, self.count, STEPS)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        segmenter, found = self.method.segmenter, {}
        assert source.labels is not None
        judges, weights = self.method.adversaries().values(), self.method.config.weight_adv
        for judge in judges:
            judge.requires_grad_(False)
        heads = segmenter(source.images).logits
        terms = [F.cross_entropy(one, source.labels, ignore_index=IGNORED) for one in heads]
        shares = segmenter.decoder.head_weights
        sum(share * one for share, one in zip(shares, terms, strict=True)).backward()
        found |= _named("segmentation", segmenter.head_names, terms)

        target_heads = segmenter(target.images).logits
        terms = [
            _verdict(judge, head, SOURCE) for judge, head in zip(judges, target_heads, strict=True)
        ]
        sum(weight * one for weight, one in zip(weights, terms, strict=True)).backward()
        found |= _named("adversarial", segmenter.head_names, terms)
        for judge in judges:
            judge.requires_grad_(True)
        for domain, kind, maps in ((SOURCE, "source", heads), (TARGET, "target", target_heads)):
            pairs = zip(judges, maps, strict=True)
            terms = [_verdict(judge, one.detach(), domain) for judge, one in pairs]
            for term in terms:
                (term / 2).backward()
            found |= _named(f"discriminator_{kind}", segmenter.head_names, terms)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.count += 1
        return found


def _verdict(judge: torch.nn.Module, logits: Tensor, domain: int) -> Tensor:
    judged = judge(weighted_self_information(F.softmax(logits, dim=1)))
    return F.binary_cross_entropy_with_logits(judged, torch.full_like(judged, domain))


def _named(kind: str, heads: tuple[str, ...], terms: list[Tensor]) -> dict[str, float]:
    return {f"{kind}/{head}": float(one.detach()) for head, one in zip(heads, terms, strict=True)}


def built(encoder: str) -> Method:
    """AdvEnt on both heads of DeepLabV2, with random weights."""
    model = {"architecture": "deeplab_v2", "encoder": encoder, "weights": "none"}
    return build_method({"name": "advent"}, build_segmenter(model, NUM_CLASSES))


def ours(method: Method, precision: Any, device: torch.device) -> Engine:
    """The engine on a copy of a method's networks."""
    return Engine(
        deepcopy(method), TrainConfig(steps=STEPS, precision=precision), SGDConfig(), device
    )


def check_equal(ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Raise `ValueError` where the sides do not compute the same."""
    wrong = [name for name in theirs if abs(ours[name] - theirs[name]) > 1e-3 * abs(theirs[name])]
    if wrong or ours.keys() != theirs.keys():
        raise ValueError(f"expected equal losses, got {ours} and {theirs}")


def convolution_peak(precision: str, device: torch.device) -> float:
    """FLOP/s of a 3x3 convolution as ResNet-101 has most of, forward, the best of some runs."""
    layer = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False, device=device)
    maps = torch.randn(1, CHANNELS, *PEAK_HW, device=device)
    maps = maps.contiguous(memory_format=torch.channels_last)
    best_s = float("inf")
    with torch.no_grad(), PRECISIONS[precision](device.type):
        for _ in range(PEAK_RUNS):
            began_s = perf_counter()
            float(layer(maps).flatten()[0])  # waits for the device
            best_s = min(best_s, perf_counter() - began_s)
    return 2 * 9 * CHANNELS**2 * PEAK_HW[0] * PEAK_HW[1] / best_s


def measure(
    encoder: str, source_hw: tuple[int, int], target_hw: tuple[int, int], rounds: int
) -> dict[str, Timed]:
    """The sides by name. Raises `ValueError` where ours in fp32 computes something else."""
    device = prepare_device(0)
    torch.manual_seed(0)
    method = built(encoder).to(device)
    images = [torch.randn(1, 3, *hw, device=device) for hw in (source_hw, target_hw)]
    labels = torch.randint(NUM_CLASSES, (1, *source_hw), device=device)
    source, target = Batch(images[0], labels, ("s",)), Batch(images[1], None, ("t",))
    with torch.device("meta"):
        flops = step_flops(built(encoder), source, target).total
    papers = PapersOrder(method)
    engines = {f"ours, {name}": ours(method, name, device) for name in PRECISIONS}
    sides: dict[str, Step] = {PAPERS: lambda: papers.step(source, target)}
    for name, engine in engines.items():
        sides[name] = lambda own=engine: own.mean_over_ranks(own.step(source, target))
    first = {name: step() for name, step in sides.items()}
    check_equal(first["ours, fp32"], first[PAPERS])
    times_s: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for _ in range(rounds):
        for precision, rates in peaks.items():
            rates.append(convolution_peak(precision, device))
        for name, step in sides.items():
            began_s = perf_counter()
            step()
            times_s[name].append(perf_counter() - began_s)
    return {name: _timed(times_s, name, flops, peaks) for name in sides}


def _timed(
    times_s: dict[str, list[float]], name: str, flops: int, peaks: dict[str, list[float]]
) -> Timed:
    pairs = zip(times_s[PAPERS], times_s[name], strict=True)
    rates = peaks[name.rpartition(" ")[2]]
    shares = [flops / own_s / rate for own_s, rate in zip(times_s[name], rates, strict=True)]
    median = statistics.median
    return Timed(
        median(times_s[name]), median(theirs / own for theirs, own in pairs), median(shares)
    )


def table(found: dict[str, Timed], machine: str) -> str:
    """The sides in Markdown, and the machine."""
    lines = [
        "| step | seconds | times as fast as the papers' order | MFU |",
        "| :-- | --: | --: | --: |",
    ]
    lines += [
        f"| {name} | {s:.2f} | {ratio:.2f} | {mfu:.2f} |" for name, (s, ratio, mfu) in found.items()
    ]
    return "\n".join([*lines, "", machine, ""])


def machine_text(encoder: str, threads: int, rounds: int, load: float) -> str:
    """Where and how it was measured."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else names[0]
    return (
        f"{encoder} on {device}, {threads} thread{'s'[: threads > 1]}; medians of {rounds} "
        f"round{'s'[: rounds > 1]}, load average {load:.1f} at the start."
    )


def main() -> None:
    """Measure, and write or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="caffe_resnet101")
    parser.add_argument("--size-hw", type=int, nargs=2, default=(256, 448))
    parser.add_argument("--target-hw", type=int, nargs=2, default=(192, 384))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--print", action="store_true", help="leave docs/performance.md alone")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    load = getloadavg()[0]
    found = measure(given.encoder, tuple(given.size_hw), tuple(given.target_hw), given.rounds)
    text = table(found, machine_text(given.encoder, given.threads, given.rounds, load))
    print(text)
    if not given.print:
        write_block(ROOT / "docs" / "performance.md", "step_speed", text)


if __name__ == "__main__":
    main()
