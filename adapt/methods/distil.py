"""Distillation of a large teacher into a small student, in one job (Hinton, Vinyals and Dean,
Distilling the Knowledge in a Neural Network, 2015; across domains in DUDA, arXiv 2504.09814).

The job's `model` is the student, which is evaluated, saved and deployed. The teacher is another
network: trained before, and then frozen and in no checkpoint, or trained in the same job by a
self-training method, whose moving average teaches. The student learns the source's labels, the
teacher's probabilities on both domains, and its labels on the target. DUDA's constants cannot be
read in its abstract: the weights are ours.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.batch import Batch, PixelFormat
from adapt.config.section import Section
from adapt.errors import keys_renamed
from adapt.losses import at_least_float32, class_probabilities
from adapt.methods.draws import Draws
from adapt.methods.method import Method, Term, weighted
from adapt.methods.pinned import Pinned
from adapt.methods.pseudo_labels import PseudoLabelConfig, PseudoLabels, pseudo_labels
from adapt.methods.self_training import pseudo_label_losses
from adapt.methods.strong_augmentation import (
    StrongAugmentationConfig,
    network_input,
    strongly_augmented,
    unit_rgb,
)
from adapt.methods.teacher_network import TRAINED_BY, TRAINERS, TeacherNetworkConfig
from adapt.models import build_segmenter
from adapt.models.config import without_weights
from adapt.models.segmenter import Segmenter


class DistilConfig(Section):
    """The teacher, and what the student learns from it."""

    name: Literal["distil"] = Field(
        "distil", description="A large teacher teaches a small student in one job."
    )
    teacher: TeacherNetworkConfig = Field(description="The network that teaches.")
    temperature: float = Field(
        1.0, gt=0, description="Both networks' logits are divided by it in the divergence."
    )
    weight_source: float = Field(
        1.0, ge=0, description="Weight of the divergence on source images (ours)."
    )
    weight_target: float = Field(
        1.0, ge=0, description="Weight of the divergence on target images (ours)."
    )
    weight_labels: float = Field(
        1.0, ge=0, description="Weight of the teacher's labels on target images (ours)."
    )
    pseudo_labels: PseudoLabelConfig = Field(
        PseudoLabelConfig(), description="Quality weights of the teacher's labels."
    )
    mirror: bool = Field(
        False,
        description="Average the teacher's probabilities over an image and its mirror image; costs "
        "one more forward pass for each.",
    )
    augmentation: StrongAugmentationConfig = Field(
        StrongAugmentationConfig(decided_per="image"),
        description="Changes of the target images that the student sees.",
    )
    max_gap_points: float | None = Field(
        None,
        ge=0,
        description="mIoU points that the student may be below its teacher at the last evaluation; "
        "with more the report and the job's last lines say so. null: no limit.",
    )


class _Taught(NamedTuple):
    """A part of the step's target: the teacher's probabilities (B, K, H, W), and its labels."""

    part: Batch
    probabilities: Tensor
    labels: PseudoLabels


class Distil(Method):
    """The terms of the teacher where it learns, then the student's on source and target."""

    Config: ClassVar[type[Section]] = DistilConfig

    def __init__(
        self, config: DistilConfig, segmenter: Segmenter, teacher: Segmenter | None = None
    ) -> None:
        super().__init__(config, segmenter)
        if teacher is None:
            teacher = build_segmenter(without_weights(config.teacher.model), segmenter.num_classes)
        self.pinned: Pinned | None = None
        self.trainer: Method | None = None
        trained_by = config.teacher.trained_by
        if trained_by is None:
            self.pinned = Pinned(teacher, "method.teacher")
        else:
            with keys_renamed("method.", TRAINED_BY):
                self.trainer = TRAINERS[trained_by.name](trained_by, teacher)
        self._known: list[_Taught] = []
        self._converted: list[tuple[Batch, Batch]] = []

    @classmethod
    def check_size(cls, config: Any, key: str, size_hw: tuple[int, int]) -> None:
        """As the method that trains the teacher."""
        trained_by = config.teacher.trained_by
        if trained_by is not None:
            with keys_renamed("method.", TRAINED_BY):
                TRAINERS[trained_by.name].check_size(trained_by, key, size_hw)

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """The teacher's terms, the student's on the source, the student's on the target."""
        assert source.labels is not None and target is not None
        if self.trainer is not None:
            for term in self.trainer.losses(self._for_teacher(source), self._for_teacher(target)):
                named = {f"teacher/{name}": value for name, value in term.logged.items()}
                yield Term(term.loss, named)
        yield self._on_source(source, source.labels)
        yield self._on_target(target)

    def _on_source(self, source: Batch, labels: Tensor) -> Term:
        prediction = self.segmenter(source.images)
        segmentation = self.segmenter.segmentation_losses(prediction, labels)
        named = {f"segmentation/{name}": loss for name, loss in segmentation.items()}
        if self.config.weight_source > 0:
            aim = self._probabilities(self._for_teacher(source).images)
            loss = divergence(prediction.logits[0], aim, self.config.temperature)
            named["distillation/source"] = (self.config.weight_source, loss)
        return weighted(named)

    def _on_target(self, target: Batch) -> Term:
        taught, config = self._taught(target), self.config
        images = strongly_augmented(
            target.images,
            self.segmenter.pixels,
            config.augmentation,
            target.keys,
            self.draws,
            "student's images",
        )
        prediction = self.segmenter(images)
        loss = divergence(prediction.logits[0], taught.probabilities, config.temperature)
        labels = pseudo_label_losses(
            self.segmenter, prediction, taught.labels, config.weight_labels, "taught/"
        )
        return weighted({**labels, "distillation/target": (config.weight_target, loss)})

    def _taught(self, target: Batch) -> _Taught:
        """All parts of the step's target are labelled at the first: the teacher's certainty may be
        a mean over them."""
        if not any(known.part is target for known in self._known):
            whole = self.targets if any(part is target for part in self.targets) else (target,)
            found = [self._probabilities(self._for_teacher(part).images) for part in whole]
            made = pseudo_labels(found, self.config.pseudo_labels)
            self._known = [_Taught(*one) for one in zip(whole, found, made, strict=True)]
        return next(known for known in self._known if known.part is target)

    @torch.no_grad()
    def _probabilities(self, images: Tensor) -> Tensor:
        """The teacher's class probabilities: (B, 3, H, W) in its pixels -> (B, K, H, W)."""
        teacher = self.teaching_network()
        found = class_probabilities(teacher(images).logits[0])
        if self.config.mirror:
            mirrored = class_probabilities(teacher(images.flip(-1)).logits[0])
            found = (found + mirrored.flip(-1)) / 2
        return found

    def teaching_network(self) -> Segmenter:
        """The frozen teacher, or the moving average of the one that learns."""
        if self.pinned is not None:
            held: Segmenter = self.pinned.network
            return held
        assert self.trainer is not None
        average = self.trainer.teacher_network()
        assert average is not None, "the rows of TRAINERS have one"
        return average

    @property
    def teacher_is_fixed(self) -> bool:
        """True for a teacher that was trained before."""
        return self.pinned is not None

    def learners(self) -> dict[str, tuple[Segmenter, float]]:
        """The teacher where it learns, with its rates over the job's."""
        if self.trainer is None:
            return {}
        return {"teacher": (self.trainer.segmenter, self.config.teacher.lr_factor)}

    def share_fixed(self) -> None:
        """The moving average is that of the teacher."""
        if self.trainer is not None:
            self.trainer.share_fixed()

    def adversaries(self) -> dict[str, nn.Module]:
        """Those of the method that trains the teacher."""
        return {} if self.trainer is None else self.trainer.adversaries()

    def observe_source(self, label_pixels: Tensor) -> None:
        """(N, K) pixels of each class in each image, for the method that trains the teacher."""
        if self.trainer is not None:
            self.trainer.observe_source(label_pixels)

    def start_step(self, draws: Draws, targets: Sequence[Batch] = ()) -> None:
        """Take the step's draws and targets, the method that trains the teacher too."""
        super().start_step(draws, targets)
        self._known = []
        if self.trainer is not None:
            self._converted = [(part, self._in_its_pixels(part)) for part in targets]
            self.trainer.start_step(draws, [one for _, one in self._converted])

    def after_step(self, step: int, taken: Tensor) -> None:
        """Move the teacher's moving average; forget its labels."""
        self._known, self._converted = [], []
        if self.trainer is not None:
            self.trainer.after_step(step, taken)

    def _for_teacher(self, batch: Batch) -> Batch:
        """A batch in the teacher's pixels; parts of the target are the same objects each time."""
        known = (converted for part, converted in self._converted if part is batch)
        return next(known, None) or self._in_its_pixels(batch)

    def _in_its_pixels(self, batch: Batch) -> Batch:
        own, wanted = self.segmenter.pixels, self.teaching_network().pixels
        return batch._replace(images=in_pixels(batch.images, own, wanted))


def divergence(logits: Tensor, aim: Tensor, temperature: float) -> Tensor:
    """KL divergence from a teacher's probabilities, both softened: logits and aim (B, K, H, W) ->
    mean over pixels, times the temperature's square, which keeps the size of gradients."""
    logits = at_least_float32(logits)
    tiny = torch.finfo(aim.dtype).tiny
    softened = F.softmax(aim.clamp(min=tiny).log() / temperature, dim=1)
    own = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(own, softened, reduction="none").sum(dim=1).mean() * temperature**2


def in_pixels(images: Tensor, own: PixelFormat, wanted: PixelFormat) -> Tensor:
    """Images (B, 3, H, W) of one network's input as another's."""
    return images if own == wanted else network_input(unit_rgb(images, own), wanted)
