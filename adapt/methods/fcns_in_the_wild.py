"""FCNs in the Wild (Hoffman et al., Pixel-level Adversarial and Constraint-based Adaptation, 2016).

The first adversarial adaptation of segmentation (arXiv 1612.02649): L = L_seg + L_da + L_mi. Global
alignment, L_da: a domain classifier looks at every spatial unit of the last features and minimises
L_D; the network minimises 1/2 (L_D + L_Dinv), the mean with right and with swapped labels, on both
domains: it wants the classifier undecided. Category alignment, L_mi: classes in target images must
have sizes as in the source (`class_sizes.py`).

No program was ever released. The classifier's layers, all weights and rates are ours, and guesses;
sums over units are means here. The class sizes are taken from the softmax at the features' size.
They mean nothing before the network can segment the source: start from trained weights
(`model.start_uri`).
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.batch import Batch
from adapt.config.section import Section
from adapt.errors import JobError
from adapt.losses import adversarial_vanilla, class_probabilities, confusion_loss
from adapt.methods.adversaries import SOURCE, TARGET
from adapt.methods.class_sizes import ClassSizes, class_sizes, size_loss
from adapt.methods.method import Method, Term, frozen, weighted
from adapt.models.discriminators import DomainClassifier
from adapt.models.segmenter import Segmenter


class FCNsInTheWildConfig(Section):
    """Weights of the alignments."""

    name: Literal["fcns_in_the_wild"] = Field(
        "fcns_in_the_wild", description="Confused features, plausible class sizes (2016)."
    )
    weight_confusion: float = Field(
        0.01, ge=0, description="Weight of the global alignment, L_da (a guess: not published)."
    )
    weight_sizes: float = Field(
        0.1,
        ge=0,
        description="Weight of the category alignment, L_mi (a guess); 0: global alignment alone, "
        "the paper's GA.",
    )
    slack: float = Field(
        2.0, gt=0, description="Price of missing a class's lower size (a guess); more is stricter."
    )
    discriminator_width: int = Field(
        512, ge=1, description="Channels of the domain classifier (not published)."
    )


class FCNsInTheWild(Method):
    """Global and category alignment."""

    Config: ClassVar[type[Section]] = FCNsInTheWildConfig
    sizes: Tensor

    def __init__(self, config: FCNsInTheWildConfig, segmenter: Segmenter) -> None:
        super().__init__(config, segmenter)
        segmenter.require_learning_encoder("a classifier of the features' domain")
        width = config.discriminator_width
        self.classifier = DomainClassifier(segmenter.encoder.channels[-1], width)
        self.register_buffer("sizes", torch.zeros(3, segmenter.num_classes))
        self._sizes_known = False

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """Segmentation and confusion on source, confusion and sizes on target, the classifier."""
        assert source.labels is not None and target is not None
        prediction = self.segmenter(source.images)
        segmentation = self.segmenter.segmentation_losses(prediction, source.labels)
        named = {f"segmentation/{name}": loss for name, loss in segmentation.items()}
        source_features = prediction.features[-1]
        yield weighted({**named, "confusion/source": self._confusion(source_features)})
        source_features = source_features.detach()
        del prediction

        prediction = self.segmenter(target.images)
        target_features = prediction.features[-1]
        terms = {"confusion/target": self._confusion(target_features)}
        if self.config.weight_sizes:
            terms["sizes/main"] = self._size_loss(prediction.logits[0], target_features)
        yield weighted(terms)
        target_features = target_features.detach()
        del prediction

        for name, features, domain in (
            ("source", source_features, SOURCE),
            ("target", target_features, TARGET),
        ):
            loss = adversarial_vanilla(self.classifier(features), domain)
            yield weighted({f"discriminator_{name}/features": (1.0, loss)})

    def adversaries(self) -> dict[str, nn.Module]:
        """`discriminator_features`, the domain classifier."""
        return {"discriminator_features": self.classifier}

    def observe_source(self, label_pixels: Tensor) -> None:
        """(N, K) pixels: the sizes of classes in source images."""
        self.sizes.copy_(torch.stack(class_sizes(label_pixels)))

    def _confusion(self, features: Tensor) -> tuple[float, Tensor]:
        with frozen(self.classifier):
            return self.config.weight_confusion, confusion_loss(self.classifier(features))

    def _size_loss(self, logits: Tensor, features: Tensor) -> tuple[float, Tensor]:
        # waits for the device in the first step alone
        self._sizes_known = self._sizes_known or bool(self.sizes.any())
        if not self._sizes_known:
            raise JobError(
                "method.weight_sizes: expected the sizes of classes in the source, got none",
                fix="call method.observe_source with the pixels of each class in each source image",
            )
        height, width = features.shape[-2:]
        pooled = F.adaptive_avg_pool2d(class_probabilities(logits), (height, width))
        sizes = ClassSizes(*self.sizes.unbind())
        return self.config.weight_sizes, size_loss(pooled, sizes, self.config.slack)
