"""An adaptation method: a module whose one generator is the paper.

`losses` yields weighted terms one after another. The engine back-propagates each
before it requests the next, so that one graph is freed before another is built; a method never
calls `backward` and never sees an optimizer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from adapt.batch import Batch
from adapt.config.section import Section
from adapt.errors import JobError
from adapt.methods.draws import Draws
from adapt.methods.labeller import Labeller
from adapt.methods.moving_average import averages
from adapt.methods.pseudo_labels import PseudoLabels
from adapt.models.segmenter import Segmenter


class Term(NamedTuple):
    """One part of the objective.

    `loss` is a weighted scalar with its graph; `logged` its parts by name, unweighted and detached.
    """

    loss: Tensor
    logged: dict[str, Tensor]


class AddOn(nn.Module, ABC):
    """Terms that a job adds to those of any method. Its trainable parameters learn at the head's
    rate."""

    @abstractmethod
    def losses(
        self, segmenter: Segmenter, source: Batch, target: Batch | None, draws: Draws
    ) -> Iterator[Term]:
        """One step's terms, after the method's; `target` is None where the method reads none."""


class Method(nn.Module, ABC):
    """An adaptation method over a segmentation network, which is its sub-module `segmenter`.

    `Config` is its section of the job spec; without `needs_target` the method never reads target
    images. With `has_teacher` its `target_labels` are those of the `teacher_network`. `draws` and
    `targets` are those of the step, `add_ons` have terms of their own, by the job spec's section.
    """

    Config: ClassVar[type[Section]]
    needs_target: ClassVar[bool] = True
    has_teacher: ClassVar[bool] = False
    labeller: ClassVar[type[Labeller] | None] = None

    def __init__(self, config: Any, segmenter: Segmenter) -> None:
        super().__init__()
        self.config = config
        self.segmenter = segmenter
        self.draws = Draws(0)
        self.targets: Sequence[Batch] = ()
        self.add_ons = nn.ModuleDict()

    @classmethod
    def smallest_side_px(cls, config: Any) -> int:  # noqa: ARG003 - for methods that have one
        """The shortest side of images to learn from; 1 unless its adversaries need more."""
        return 1

    @classmethod
    def fills(cls, domain: str) -> bool:
        """True where the labelling stage fills a domain with samples of the target."""
        return cls.labeller is not None and domain in cls.labeller.labelled

    @classmethod
    def labels_target(cls) -> bool:
        """True where batches of the target have labels, those of the labelling stage."""
        return cls.labeller is not None and cls.labeller.labelled.get("target", False)

    @classmethod
    def check_size(cls, config: Any, key: str, size_hw: tuple[int, int]) -> None:
        """Raise `JobError` for images of a domain too small to learn from; `key`, such as
        `target.augment.crop_hw`, sets their size."""
        least = cls.smallest_side_px(config)
        if min(size_hw) < least:
            raise JobError(
                f"{key}: expected at least {least} pixels a side for the discriminators of method "
                f"{config.name}, got {size_hw[0]}x{size_hw[1]}",
                fix=f"set {key} to [{least}, {least}] or more",
            )

    @abstractmethod
    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """One step's terms in the paper's order; `target` may be None without `needs_target`."""

    def terms(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """One step's terms: the method's, then those of its add-ons."""
        yield from self.losses(source, target)
        for add_on in self.add_ons.values():
            assert isinstance(add_on, AddOn)
            yield from add_on.losses(self.segmenter, source, target, self.draws)

    def start_step(self, draws: Draws, targets: Sequence[Batch] = ()) -> None:
        """Take the step's random draws, the same on all ranks, and the parts of this rank's target
        batch, of which `losses` is called with one after another."""
        self.draws, self.targets = draws, targets

    def target_labels(self, target: Batch) -> PseudoLabels:
        """Labels of a target batch by the method's teacher, where it `has_teacher`."""
        raise NotImplementedError

    def teacher_network(self) -> Segmenter | None:
        """The network of the method's teacher; None where it has none."""
        return None

    def teaching_network(self) -> Segmenter | None:
        """A network of another kind that teaches the segmenter, evaluated beside it; None where
        there is none."""
        return None

    @property
    def teacher_is_fixed(self) -> bool:
        """True where the `teaching_network` never changes."""
        return False

    def learners(self) -> dict[str, tuple[Segmenter, float]]:
        """Networks that learn beside the segmenter, by name: each with an optimizer of the
        segmenter's kind, and its learning rates over the job's."""
        return {}

    def learning(self) -> list[Segmenter]:
        """The segmenter, and the networks that learn beside it."""
        return [self.segmenter, *(network for network, _ in self.learners().values())]

    def share_fixed(self) -> None:
        """Have moving averages hold their network's parameters in place of equal ones that never
        move."""
        for average in averages(self):
            average.share(self.segmenter)

    def adversaries(self) -> dict[str, nn.Module]:
        """Networks that learn against the segmenter, each with its own optimizer, by name."""
        return {}

    def observe_source(self, label_pixels: Tensor) -> None:
        """Learn from the source's label statistics: (N, K) pixels of each class in each image.

        Called once, before training. What a method keeps of it is a buffer, hence in checkpoints.
        """

    def after_step(self, step: int, taken: Tensor) -> None:
        """Called when `step` optimizer steps are done: the place to move a teacher, by
        `MovingAverage.follow`. taken: a bool on the device, false where the last one was refused
        and nothing may move; reading it would wait for the device."""


def weighted(losses: Mapping[str, tuple[float, Tensor]], prefix: str = "") -> Term:
    """Sum name -> (weight, scalar) into one term; losses are logged as `prefix` + name."""
    total = torch.stack([weight * loss for weight, loss in losses.values()]).sum()
    return Term(total, {prefix + name: loss.detach() for name, (_, loss) in losses.items()})


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it the module is a fixed function: gradients pass through, its parameters get none."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
