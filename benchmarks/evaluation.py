"""What scoring costs beside the network, from logits and labels to a confusion matrix: the papers'
way over ours.

    python benchmarks/evaluation.py --images 3 --rounds 5

The papers' programs copy an image's logits to the host, take numpy's argmax over the last axis and
count pairs picked by a mask; ours stay on the device and wait for it once, at the end. Both see the
same logits of 19 classes at 1024x2048, in one process and in turns, so that a busy machine slows
both alike; the medians over rounds are printed. With a GPU it runs there.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

import numpy as np
import torch
from torch import Tensor

from adapt.engine.device import prepare_device
from adapt.evaluation.inference import class_map, upload
from adapt.evaluation.metrics import confusion_matrix
from adapt.models.layers import resize

NUM_CLASSES = 19
Count = Callable[[Tensor, Tensor], np.ndarray | Tensor]


def papers_score(labels: Tensor, logits: Tensor) -> np.ndarray:
    """A copy to the host, argmax and count, all by numpy."""
    predicted = logits.cpu().numpy().transpose(1, 2, 0).argmax(axis=2)
    return papers_count(labels, torch.from_numpy(predicted))


def papers_count(labels: Tensor, predicted: Tensor) -> np.ndarray:
    """The papers' count alone."""
    true, guess = labels.numpy().flatten(), predicted.cpu().numpy().flatten()
    counted = (true >= 0) & (true < NUM_CLASSES)
    cells = NUM_CLASSES * true[counted].astype(int) + guess[counted]
    return np.bincount(cells, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def our_score(labels: Tensor, logits: Tensor) -> Tensor:
    """As `adapt.evaluation.evaluate` does it."""
    return our_count(labels, class_map(logits))


def our_count(labels: Tensor, predicted: Tensor) -> Tensor:
    """Our count alone."""
    return confusion_matrix(upload(labels, predicted.device), predicted, NUM_CLASSES)


def timed(count: Count, labels: list[Tensor], seen: list[Tensor]) -> tuple[float, np.ndarray]:
    """Seconds for all images, and the sum of their matrices on the host."""
    started_s = perf_counter()
    total = sum(count(*pair) for pair in zip(labels, seen, strict=True))
    matrix = total.cpu().numpy() if isinstance(total, Tensor) else np.asarray(total)
    return perf_counter() - started_s, matrix


def some_images(
    number: int, size_hw: tuple[int, int], device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Labels in blocks with a tenth ignored, and smooth logits, as a network's are."""
    labels, logits = [], []
    for _ in range(number):
        blocks = torch.randint(NUM_CLASSES, (1, 1, size_hw[0] // 32, size_hw[1] // 32))
        truth = torch.nn.functional.interpolate(blocks.float(), size_hw)[0, 0].to(torch.uint8)
        labels.append(torch.where(torch.rand(size_hw) < 0.1, 255, truth))
        coarse = torch.randn(1, NUM_CLASSES, size_hw[0] // 8 + 1, size_hw[1] // 8 + 1)
        logits.append(resize(coarse.to(device), size_hw, align_corners=True)[0])
    return labels, logits


def measure(number: int, size_hw: tuple[int, int], rounds: int) -> dict[str, tuple[float, float]]:
    """The papers' time over ours, and our pixels a second, by what is timed."""
    device = prepare_device(0)
    labels, logits = some_images(number, size_hw, device)
    class_maps = [class_map(one) for one in logits]
    pixels = number * size_hw[0] * size_hw[1]
    found = {}
    for name, theirs, ours, seen in (
        ("argmax and count", papers_score, our_score, logits),
        ("count", papers_count, our_count, class_maps),
    ):
        times_s = []
        for _ in range(rounds + 1):
            papers_s, expected = timed(theirs, labels, seen)
            ours_s, matrix = timed(ours, labels, seen)
            assert np.array_equal(matrix, expected), "the matrices differ"
            times_s.append((papers_s, ours_s))
        papers_s, ours_s = map(statistics.median, zip(*times_s[1:], strict=True))  # first: warm-up
        found[name] = (papers_s / ours_s, pixels / ours_s)
    return found


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--size-hw", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found = measure(given.images, tuple(given.size_hw), given.rounds)
    print("| matrices are equal | papers / ours | ours, million pixels/s |\n| :-- | --: | --: |")
    for name, (ratio, speed) in found.items():
        print(f"| {name} | {ratio:.2f} | {speed / 1e6:.1f} |")


if __name__ == "__main__":
    main()
