"""Methods on small networks and random batches, for the tests of methods."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from adapt.batch import Batch
from adapt.methods import build_method
from adapt.methods.method import Method, Term
from adapt.models import build_segmenter
from tests.networks import NEEDED, tiny_model

NUM_CLASSES = 5
LABEL_PIXELS = torch.tensor([[900, 50, 50, 0, 24], [700, 200, 0, 100, 24], [10, 500, 400, 90, 24]])


def built_method(
    name: str, architecture: str = "deeplab_v2", model: Any = None, **options: Any
) -> Method:
    torch.manual_seed(0)
    values = {**tiny_model(architecture), "norm": "frozen", **(model or {})}
    method = build_method(
        {"name": name, **NEEDED.get(name, {}), **options}, build_segmenter(values, NUM_CLASSES)
    )
    method.observe_source(LABEL_PIXELS)
    return method.train()


def random_batch(
    seed: int, labelled: bool, size_hw: tuple[int, int] = (64, 64), size: int = 1
) -> Batch:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (size, *size_hw), generator=random)
    images = torch.randn(size, 3, *size_hw, generator=random)
    return Batch(images, labels if labelled else None, ("key",) * size)


def target_batch(method: Method, seed: int, size: int = 1) -> Batch:
    """Of random images, with labels where the method's labelling stage makes such."""
    return random_batch(seed, type(method).labels_target(), size=size)


def back_propagated(method: Method, source: Batch, target: Batch | None) -> Iterator[Term]:
    """As the engine does: each term back-propagated before the next is asked for."""
    for term in method.losses(source, target):
        term.loss.backward()
        yield term


def with_gradient(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}


def logged(terms: Iterator[Term]) -> dict[str, Tensor]:
    return {name: value for term in terms for name, value in term.logged.items()}
