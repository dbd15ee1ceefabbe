"""IntraDA (Pan et al., Unsupervised Intra-domain Adaptation for Semantic Segmentation through
Self-Supervision, CVPR 2020).

A network that was adapted by AdvEnt is sure of some target images and unsure of others. They are
ranked by the mean of their entropy map, R(X_t) (Eq. 4); the first lambda of them are easy. Easy
images with the network's predictions for labels take the source's place, hard ones the target's,
and a new network is trained on them by AdvEnt (Eq. 5 to 7). The paper's first step is a job of its
own, with method advent. The program's option to weigh entropies by rare classes was off.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from adapt.batch import Prediction
from adapt.config.section import Section
from adapt.errors import JobError
from adapt.losses import adversarial_vanilla, class_probabilities, entropy_loss
from adapt.methods.advent import entropy_maps
from adapt.methods.adversaries import AdversarialConfig, AdversarialMaps, output_discriminators
from adapt.methods.labeller import Facts, Labeller, LabellingConfig, Part, argmax_labels
from adapt.models.segmenter import Segmenter
from adapt.ranks import sum_over_ranks


class EasyImagesConfig(LabellingConfig):
    """The split of the target into easy and hard images."""

    easy_share: float = Field(
        0.67,
        gt=0,
        lt=1,
        description="Share of the target's images, those of least entropy, that are easy (lambda; "
        "the program: 0.67).",
    )


class IntraDAConfig(AdversarialConfig):
    """The stage, and the weights of the adversarial losses between easy and hard images."""

    name: Literal["intra_da"] = Field(
        "intra_da", description="AdvEnt from easy to hard target images (CVPR 2020)."
    )
    pseudo_labels: EasyImagesConfig = Field(
        EasyImagesConfig(), description="The labelling stage before training."
    )


class EasyImages(Labeller):
    """Easy images, with their predictions for labels, are the source, hard ones the target."""

    labelled: ClassVar[Mapping[str, bool]] = {"source": True, "target": False}

    def __init__(
        self, config: Any, num_classes: int, num_samples: int, round_number: int = 0
    ) -> None:
        super().__init__(config, num_classes, num_samples, round_number)
        self._entropies: dict[int, Tensor] = {}

    def observe(self, sample: int, logits: Tensor) -> None:
        """Keep the image's mean normalised entropy."""
        self._entropies[sample] = entropy_loss(class_probabilities(logits[None])).double()

    def facts(self) -> Facts:
        """The `entropies` of all images."""
        device = next(iter(self._entropies.values())).device if self._entropies else None
        entropies = torch.zeros(self.num_samples, dtype=torch.float64, device=device)
        for sample, entropy in self._entropies.items():
            entropies[sample] = entropy
        return {"entropies": sum_over_ranks(entropies).tolist()}

    def parts(self, facts: Facts) -> Mapping[str, Part]:
        """Easy images by `easy_share`, of equal entropies the first packed; the others are hard.

        Raises `JobError` where either would be empty.
        """
        ranked = sorted(range(self.num_samples), key=lambda sample: facts["entropies"][sample])
        num_easy = int(self.num_samples * self.config.easy_share)
        if not 0 < num_easy < self.num_samples:
            raise JobError(
                f"method.pseudo_labels.easy_share: expected easy and hard images, got {num_easy} "
                f"easy ones of {self.num_samples}",
                fix="set it nearer to 0.5, or give the target more images",
            )
        easy, hard = sorted(ranked[:num_easy]), sorted(ranked[num_easy:])
        return {"source": Part("easy", tuple(easy)), "target": Part("hard", tuple(hard))}

    def labels(self, facts: Facts, logits: Tensor) -> Tensor:  # noqa: ARG002, no threshold
        """The most probable class of every pixel."""
        return argmax_labels(logits)


class IntraDA(AdversarialMaps):
    """AdvEnt whose source are the easy target images."""

    Config: ClassVar[type[Section]] = IntraDAConfig
    labeller: ClassVar[type[Labeller] | None] = EasyImages

    def __init__(self, config: IntraDAConfig, segmenter: Segmenter) -> None:
        discriminators = output_discriminators(config, segmenter, adversarial_vanilla)
        super().__init__(config, segmenter, discriminators)

    def discriminator_inputs(self, prediction: Prediction) -> list[Tensor]:
        """As AdvEnt's."""
        return entropy_maps(prediction, len(self.discriminators))
