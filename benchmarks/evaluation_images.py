"""A whole evaluation of images but for the network's own passes: the papers' way over ours.

Theirs decodes an image's PNG, resizes it and subtracts the mean, brings the logits to the label's
size, copies them to the host, takes numpy's argmax over the last axis and counts pairs picked by a
mask, one image after another. Ours is `adapt.evaluation.evaluate` on a split that is packed with
the owners' images and labels (`pack --original`), as for validation. A network that gives the same
logits for every image stands in both, since it takes the same time in both.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.writing.pack import pack
from adapt.evaluation.evaluate import evaluate
from adapt.models.segmenter import Decoder
from benchmarks.stream_data import OWNERS_NOISE, pictures, write_raw
from storage.shards.cache import ShardCache
from storage.stores import open_store
from tests.networks import network

CLASSES = LABEL_SPACES["cityscapes19"]
MEAN = np.array((104.00698793, 116.66876762, 122.67891434), np.float32)
"""The papers', of BGR."""


class Spent(NamedTuple):
    """Seconds by the clock and of all threads, and the matrix."""

    wall_s: float
    cpu_s: float
    matrix: np.ndarray


class SameLogits(Decoder):
    """Two heads that give the same smooth logits for every image, at an eighth of its size."""

    align_corners = True
    head_names = ("main", "aux")

    def __init__(self, image_hw: tuple[int, int]) -> None:
        super().__init__()
        size_hw = (image_hw[0] // 8 + 1, image_hw[1] // 8 + 1)
        drawn = torch.randn(1, CLASSES.num_classes, *size_hw, generator=torch.manual_seed(1))
        self.register_buffer("coarse", drawn)

    def forward(
        self,
        images: Tensor,
        features: tuple[Tensor, ...],  # noqa: ARG002 - of decoders that look at them
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The heads, whatever the image."""
        return [self.get_buffer("coarse").expand(len(images), -1, -1, -1)] * 2, {}


def papers_way(raw: Path, image_hw: tuple[int, int], coarse: Tensor) -> np.ndarray:
    """The matrix of a raw folder's images."""
    table, total = CLASSES.table("cityscapes"), np.zeros((CLASSES.num_classes,) * 2, np.int64)
    for path in sorted((raw / "images").iterdir()):
        with Image.open(path) as file:
            small = file.convert("RGB").resize(image_hw[::-1], Image.Resampling.BICUBIC)
        pixels = np.asarray(small, np.float32)[:, :, ::-1] - MEAN
        image = torch.from_numpy(pixels.transpose((2, 0, 1)).copy())[None].to(coarse.device)
        assert image.shape[-2:] == image_hw
        with Image.open(raw / "labels" / path.name) as file:
            labels = table[np.asarray(file)]
        whole = nn.Upsample(size=labels.shape, mode="bilinear", align_corners=True)(coarse)
        logits = whole.cpu().numpy()[0].transpose(1, 2, 0)
        total += counted(labels.flatten(), np.argmax(logits, axis=2).flatten())
    return total


def counted(true: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The papers' count of pairs."""
    classes = CLASSES.num_classes
    kept = (true >= 0) & (true < classes)
    cells = classes * true[kept].astype(int) + guess[kept]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def timed(score: Callable[[], np.ndarray]) -> Spent:
    """One run of either way."""
    wall_s, cpu_s = perf_counter(), process_time()
    matrix = score()
    return Spent(perf_counter() - wall_s, process_time() - cpu_s, matrix)


def measure_images(
    folder: Path,
    number: int,
    size_hw: tuple[int, int],
    device: torch.device,
    rounds: int,
) -> list[tuple[Spent, Spent]]:
    """Both ways in turns on `number` images of this size, which networks see at half of it; the
    first round, in which files are opened and pages come into memory, is left out."""
    image_hw = (size_hw[0] // 2, size_hw[1] // 2)
    raw, store = folder / "raw", open_store(str(folder / "packed"))
    write_raw(raw, pictures(None, size_hw, first_seed=1, noise=OWNERS_NOISE), number)
    pack(
        "folders", raw, store, "train", name="cityscapes", encoding="original", label_space=CLASSES
    )
    decoder = SameLogits(image_hw).to(device)
    segmenter = network(decoder, CLASSES.num_classes).to(device).eval()
    table, cache = CLASSES.table("cityscapes"), ShardCache(folder / "cache")
    split = PackedSplit(store, "train", cache, table, image_hw)

    def ours() -> np.ndarray:
        return evaluate(segmenter, split, device).score.matrix.numpy()

    def theirs() -> np.ndarray:
        return papers_way(raw, image_hw, decoder.get_buffer("coarse"))

    found = [(timed(theirs), timed(ours)) for _ in range(rounds + 1)][1:]
    split.close()
    for papers, own in found:
        assert np.array_equal(papers.matrix, own.matrix), "the matrices differ"
    return found


def medians(found: list[tuple[Spent, Spent]]) -> tuple[float, float]:
    """The papers' time over ours, by the clock and by CPU time."""
    wall = statistics.median(papers.wall_s / own.wall_s for papers, own in found)
    return wall, statistics.median(papers.cpu_s / own.cpu_s for papers, own in found)
