"""What a training step of each method costs, as a ratio to a step of source only.

    python benchmarks/steps.py --size-hw 128 256 --rounds 5
    python benchmarks/steps.py --memory

The papers' network with random weights, random images, batch 1 + 1, all methods in one process and
in turns, so that a busy machine slows each of them alike; the median over rounds is printed. With a
GPU it runs there, in the precision asked for. Passes through an encoder are counted in a step: how
often one runs, with a graph and without, and how often gradients come back to one. `--memory`
predicts a GPU's memory in fp32 as `segadapt check` does, and measures nothing.
"""

import argparse
import statistics
import sys
from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python benchmarks/steps.py`

import torch

from adapt.batch import Batch
from adapt.check.memory import predicted_bytes
from adapt.engine.device import prepare_device
from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.methods import build_method
from adapt.models import build_segmenter
from adapt.models.encoders.encoder import Encoder
from adapt.spec.loading import parse_spec

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
    "fda": {"name": "fda"},
    "dacs": {"name": "dacs"},
    "daformer": {"name": "daformer"},
    "mic over source_only": {"name": "mic", "host": {"name": "source_only"}},
    "mic over daformer": {"name": "mic"},
    "masktwins over daformer": {"name": "masktwins"},
    "vfm_uda": {"name": "vfm_uda"},
}
CROPS_HW = ((512, 512), (1024, 1024))


class Passes(NamedTuple):
    """Passes through an encoder in a step: forward, forward without a graph, backward."""

    forward: int
    without_graph: int
    backward: int


def engine_of(method: dict[str, Any], encoder: str, train: TrainConfig, device: Any) -> Engine:
    """One method over a network of its own."""
    model = {"architecture": "deeplab_v2", "encoder": encoder, "weights": "none"}
    built = build_method(method, build_segmenter(model, NUM_CLASSES))
    built.observe_source(torch.randint(1, 1000, (50, NUM_CLASSES)))
    return Engine(built, train, SGDConfig(), device)


def passes_of(engine: Engine, source: Batch, target: Batch) -> Passes:
    """Count those of one step, by hooks on every encoder of the method."""
    counts = Counter[str]()

    def note(_encoder: Any, _images: Any, stages: tuple[torch.Tensor, ...]) -> None:
        counts["forward" if stages[-1].requires_grad else "without_graph"] += 1
        if stages[-1].requires_grad:
            stages[-1].register_hook(lambda _gradient: counts.update(["backward"]))

    encoders = [one for one in engine.method.modules() if isinstance(one, Encoder)]
    hooks = [encoder.register_forward_hook(note) for encoder in encoders]
    engine.step(source, target)
    for hook in hooks:
        hook.remove()
    return Passes(*(counts[name] for name in Passes._fields))


def predicted_gb(method: dict[str, Any], encoder: str, crop_hw: tuple[int, int]) -> float:
    """The memory that a GPU should have for a step on one image of each domain, in 10^9 bytes."""
    domain = {"dataset": "cityscapes", "uri": "packed", "batch_size": 1, "size_hw": list(crop_hw)}
    job = parse_spec(
        {
            "classes": "cityscapes19",
            "source": domain,
            "target": domain,
            "model": {"architecture": "deeplab_v2", "encoder": encoder, "weights": "none"},
            "method": method,
            "train": {"steps": 1},
            "checkpoint": {"uri": "runs"},
        },
        "cost",
    )
    return predicted_bytes(job, 1).needed / 1e9


def step_s(engine: Engine, source: Batch, target: Batch) -> float:
    """Seconds of one step."""
    started_s = perf_counter()
    losses = engine.step(source, target)
    float(next(iter(losses.values())))  # waits for the device
    return perf_counter() - started_s


def measure(
    encoder: str, size_hw: tuple[int, int], rounds: int, precision: Any
) -> dict[str, tuple[float, Passes]]:
    """Median over rounds of the step's time over source only's, and its passes, by variant."""
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
    return {
        name: (statistics.median(values), passes_of(engines[name], source, target))
        for name, values in ratios.items()
    }


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="caffe_resnet101")
    parser.add_argument("--size-hw", type=int, nargs=2, default=(128, 256))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--memory", action="store_true", help="predict memory instead")
    given = parser.parse_args()
    if given.memory:
        print_memory(given.encoder)
        return
    measured = measure(given.encoder, tuple(given.size_hw), given.rounds, given.precision)
    print("| method | step / step of source only | forward, without graph, backward |")
    print("| :-- | --: | :-: |")
    for name, (ratio, passes) in measured.items():
        print(f"| {name} | {ratio:.2f} | {', '.join(map(str, passes))} |")


def print_memory(encoder: str) -> None:
    """Print the predicted memory by variant and crop."""
    sizes = " | ".join(f"{height} x {width}" for height, width in CROPS_HW)
    print(f"| method, GB | {sizes} |\n| :-- | --: | --: |")
    for name, method in VARIANTS.items():
        found = (predicted_gb(method, encoder, crop_hw) for crop_hw in CROPS_HW)
        print(f"| {name} | {' | '.join(f'{gb:.1f}' for gb in found)} |", flush=True)


if __name__ == "__main__":
    main()
