"""How long a model takes for one image on this CPU: in PyTorch, in onnxruntime, in 8 bits."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from adapt.export.compare import example_images
from adapt.export.programs import Run

_WARM, _RUNS = 2, 10


class Latency(NamedTuple):
    """Milliseconds for one image of a size, over how many passes."""

    runtime: str
    size_hw: tuple[int, int]
    median_ms: float
    p95_ms: float
    passes: int


def latencies(
    runs: Mapping[str, Run],
    sizes: list[tuple[int, int]],
    passes: int = _RUNS,
    on_pass: Callable[[int, int], None] = lambda _done, _total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Latency]:
    """Time each runtime at each size, after two passes that do not count."""
    found, done, total = [], 0, len(runs) * len(sizes) * (passes + _WARM)
    for size_hw in sizes:
        images = example_images((1, *size_hw))
        for name, run in runs.items():
            times = []
            for _ in range(passes + _WARM):
                start = clock()
                run(images, size_hw)
                times.append(1000 * (clock() - start))
                done += 1
                on_pass(done, total)
            median, p95 = np.percentile(times[_WARM:], [50, 95])
            found.append(Latency(name, size_hw, float(median), float(p95), passes))
    return found


def latency_sizes(size_hw: tuple[int, int] | None, smallest_side_px: int) -> list[tuple[int, int]]:
    """The model's size and half of it, no side below the smallest; without one usual sizes."""
    height, width = size_hw or (512, 1024)
    half = (max(smallest_side_px, height // 2), max(smallest_side_px, width // 2))
    return [half, (max(smallest_side_px, height), max(smallest_side_px, width))]
