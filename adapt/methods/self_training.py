"""Self-training with a teacher and ClassMix, as DACS and DAFormer share it.

A step learns from a labelled source batch, then from target images onto which half of the source's
classes are pasted: pasted pixels have the source's labels, all others the teacher's, at a weight of
how sure the teacher is. The teacher sees target images as they are, the student strongly augmented.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from adapt.batch import Batch, Prediction
from adapt.config.section import Section
from adapt.losses import weighted_cross_entropy
from adapt.methods.class_mix import Mixed, class_mix
from adapt.methods.method import Method, Term, weighted
from adapt.methods.pseudo_labels import PseudoLabelConfig, PseudoLabels
from adapt.methods.strong_augmentation import StrongAugmentationConfig, strongly_augmented
from adapt.methods.teacher import Teacher, TeacherConfig
from adapt.models.segmenter import Segmenter


class SelfTrainingConfig(Section):
    """Keys of methods with a teacher and mixed images."""

    teacher: TeacherConfig = Field(TeacherConfig(), description="The EMA teacher.")
    pseudo_labels: PseudoLabelConfig = Field(
        PseudoLabelConfig(), description="Quality weights of the teacher's labels."
    )
    augmentation: StrongAugmentationConfig = Field(
        StrongAugmentationConfig(), description="Changes of the images that the student sees."
    )
    weight_mix: float = Field(1.0, ge=0, description="Weight of the loss on mixed images.")


class SelfTraining(Method):
    """Losses on the source and on mixed images; `on_source` adds a paper's own."""

    has_teacher: ClassVar[bool] = True

    def __init__(self, config: SelfTrainingConfig, segmenter: Segmenter) -> None:
        super().__init__(config, segmenter)
        self.teacher = Teacher(config.teacher, config.pseudo_labels, segmenter)

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """Segmentation on the source, then on mixed images."""
        assert source.labels is not None and target is not None
        prediction = self.segmenter(self.seen_source(source))
        segmentation = self.segmenter.segmentation_losses(prediction, source.labels)
        named = {f"segmentation/{name}": loss for name, loss in segmentation.items()}
        yield weighted({**named, **self.on_source(source, prediction)})
        del prediction

        mixed = self._mixed(source, target)
        prediction, labels = self.segmenter(mixed.images), PseudoLabels(*mixed[1:])
        yield weighted(
            pseudo_label_losses(self.segmenter, prediction, labels, self.config.weight_mix, "mix/")
        )

    def on_source(
        self,
        source: Batch,  # noqa: ARG002
        prediction: Prediction,  # noqa: ARG002
    ) -> Mapping[str, tuple[float, Tensor]]:
        """Further losses on the source's prediction: name -> (weight, scalar)."""
        return {}

    def seen_source(self, source: Batch) -> Tensor:
        """The source images (B, 3, H, W) of the segmentation loss: as they are, unless a paper
        changes them."""
        return source.images

    def mixed_into(self, target: Batch) -> Batch:
        """The target images that source pixels are pasted onto: as they are, unless a paper
        changes them."""
        return target

    def target_labels(self, target: Batch) -> PseudoLabels:
        """The teacher's labels of a target batch."""
        return self.teacher.labels(target, self.targets)

    def teacher_network(self) -> Segmenter:
        """The teacher's network."""
        return self.teacher.network

    def _mixed(self, source: Batch, target: Batch) -> Mixed:
        pseudo = self.target_labels(target)
        onto = self.mixed_into(target)
        mixed = class_mix(source, onto, pseudo, self.segmenter.num_classes, self.draws)
        images = strongly_augmented(
            mixed.images,
            self.segmenter.pixels,
            self.config.augmentation,
            target.keys,
            self.draws,
            "mixed images",
        )
        return mixed._replace(images=images)

    def after_step(self, step: int, taken: Tensor) -> None:
        """Move the teacher."""
        self.teacher.follow(self.segmenter, step, taken)


def pseudo_label_losses(
    segmenter: Segmenter, prediction: Prediction, pseudo: PseudoLabels, weight: float, prefix: str
) -> dict[str, tuple[float, Tensor]]:
    """Cross entropy of each head against weighted labels, at `weight` times the head's own."""
    decoder = segmenter.decoder
    named = zip(decoder.head_names, decoder.head_weights, prediction.logits, strict=True)
    return {
        prefix + name: (
            weight * share,
            weighted_cross_entropy(logits, pseudo.labels, pseudo.weights),
        )
        for name, share, logits in named
    }
