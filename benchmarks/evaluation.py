"""What an evaluation costs beside the network: the papers' way over ours, from logits and labels to
a confusion matrix, and whole, from files to the matrix (benchmarks/evaluation_images.py).

    python benchmarks/evaluation.py --images 3 --rounds 5 --write

`--write` puts the table into docs/performance.md.

The papers' programs copy an image's logits to the host, take numpy's argmax over the last axis and
count pairs picked by a mask; ours stay on the device and wait for it once, at the end. Both see the
same logits of 19 classes at 1024x2048, in one process and in turns, so that a busy machine slows
both alike; the medians over rounds are printed. With a GPU it runs there.
"""

import argparse
import os
import statistics
import sys
import tempfile
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
from benchmarks.evaluation_images import measure_images, medians
from benchmarks.methods import write_block

NUM_CLASSES = 19
PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
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
    parser.add_argument("--write", action="store_true", help="put the table into the docs")
    given = parser.parse_args()
    size_hw = tuple(given.size_hw)
    found = measure(given.images, size_hw, given.rounds)
    rows = [("", "papers / ours", "by CPU time", "ours, million pixels/s")]
    rows += [
        (name, f"{ratio:.2f}", "", f"{speed / 1e6:.1f}") for name, (ratio, speed) in found.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        device = prepare_device(0)
        whole = measure_images(Path(folder), given.images, size_hw, device, given.rounds)
    wall, cpu = medians(whole)
    ours_s = statistics.median(own.wall_s for _, own in whole)
    speed = given.images * size_hw[0] * size_hw[1] / ours_s
    rows.append(("files to matrix", f"{wall:.2f}", f"{cpu:.2f}", f"{speed / 1e6:.1f}"))
    text = table(rows, f"{given.images} images of {size_hw[0]}x{size_hw[1]} on {machine(device)}")
    print(text, end="")
    if given.write:
        write_block(PAGE, "evaluation", text)


def table(rows: list[tuple[str, ...]], where: str) -> str:
    """Rows in Markdown, the first as their head, and a line of where they were measured."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "| :-- | --: | --: | --: |", *lines[1:], "", f"{where}.", ""])


def machine(device: torch.device) -> str:
    """The device, and how busy the machine is."""
    load = f"load average {os.getloadavg()[0]:.1f}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {load}"
    return f"{torch.get_num_threads()} threads of a CPU, {load}"


if __name__ == "__main__":
    main()
