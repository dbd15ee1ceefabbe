"""What a training step of each method costs, as a ratio to a step of source only.

    python benchmarks/steps.py --size-hw 128 256 --rounds 5

The papers' network with random weights, random images, batch 1 + 1, all methods in one process and
in turns, so that a busy machine slows each of them alike; the median over rounds is printed. With a
GPU it runs there, in the precision asked for.
"""

import argparse
import statistics
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python benchmarks/steps.py`

import torch

from adapt.batch import Batch
from adapt.engine.device import prepare_device
from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.methods import build_method
from adapt.models import build_segmenter

NUM_CLASSES = 19
VARIANTS: dict[str, dict[str, Any]] = {
    "source_only": {"name": "source_only"},
    "minent": {"name": "minent"},
    "minent, ranking": {"name": "minent", "ranking": 0.3},
    "minent, class prior": {"name": "minent", "class_prior": {}},
    "adaptsegnet": {"name": "adaptsegnet"},
    "adaptsegnet, one level": {"name": "adaptsegnet", "weight_adv": [0.001]},
    "adaptsegnet, features": {"name": "adaptsegnet", "space": "features", "weight_adv": [0.001]},
    "advent": {"name": "advent"},
    "fcns_in_the_wild": {"name": "fcns_in_the_wild"},
}


def engine_of(method: dict[str, Any], encoder: str, train: TrainConfig, device: Any) -> Engine:
    """One method over a network of its own."""
    model = {"architecture": "deeplab_v2", "encoder": encoder, "weights": "none"}
    built = build_method(method, build_segmenter(model, NUM_CLASSES))
    built.observe_source(torch.randint(1, 1000, (50, NUM_CLASSES)))
    return Engine(built, train, SGDConfig(), device)


def step_s(engine: Engine, source: Batch, target: Batch) -> float:
    """Seconds of one step."""
    started_s = perf_counter()
    losses = engine.step(source, target)
    float(next(iter(losses.values())))  # waits for the device
    return perf_counter() - started_s


def measure(
    encoder: str, size_hw: tuple[int, int], rounds: int, precision: Any
) -> dict[str, float]:
    """Median over rounds of the step's time over source only's, by variant."""
    device, train = prepare_device(0), TrainConfig(precision=precision)
    engines = {name: engine_of(method, encoder, train, device) for name, method in VARIANTS.items()}
    images = torch.randn(1, 3, *size_hw, device=device)
    labels = torch.randint(NUM_CLASSES, (1, *size_hw), device=device)
    source, target = Batch(images, labels, ("s",)), Batch(images.flip(-1), None, ("t",))
    ratios: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        times_s = {name: step_s(engine, source, target) for name, engine in engines.items()}
        for name, taken_s in times_s.items() if number else ():  # the first round warms up
            ratios[name].append(taken_s / times_s["source_only"])
    return {name: statistics.median(values) for name, values in ratios.items()}


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="caffe_resnet101")
    parser.add_argument("--size-hw", type=int, nargs=2, default=(128, 256))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    given = parser.parse_args()
    ratios = measure(given.encoder, tuple(given.size_hw), given.rounds, given.precision)
    print("| method | step / step of source only |\n| :-- | --: |")
    for name, ratio in ratios.items():
        print(f"| {name} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
