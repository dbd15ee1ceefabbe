"""FDA (Yang and Soatto, FDA: Fourier Domain Adaptation for Semantic Segmentation, CVPR 2020).

Source images take over the look of target images (Eq. 3), then supervised training on them, with
a penalty on the target's entropy (Eq. 5): the Charbonnier function rho(x) = (x^2 + 0.001^2)^eta of
each pixel's entropy, which weighs unsure pixels above sure ones. The paper then averages three
networks for a round of pseudo-labels (MBT), which is a job of its own.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from adapt.batch import Batch
from adapt.config.section import Section
from adapt.losses import class_probabilities, weighted_self_information
from adapt.methods.fourier import with_low_amplitudes_of
from adapt.methods.method import Method, Term, weighted
from adapt.methods.strong_augmentation import network_input, unit_rgb
from adapt.models.layers import resize


class FDAConfig(Section):
    """Reach of the exchange, and the entropy penalty."""

    name: Literal["fda"] = Field("fda", description="Fourier exchange of styles (CVPR 2020).")
    beta: float = Field(
        0.01,
        ge=0,
        lt=0.5,
        description="Reach of the exchanged frequencies over the image's shorter side (the paper: "
        "0.01, 0.05 and 0.09).",
    )
    weight_ent: float = Field(0.005, ge=0, description="Weight of the entropy penalty (paper).")
    eta: float = Field(2.0, gt=0, description="Exponent of the Charbonnier penalty (paper).")


class FDA(Method):
    """Training on source images with the target's look, and the target's entropy penalty."""

    Config: ClassVar[type[Section]] = FDAConfig

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """Segmentation on changed source images, entropy on the target."""
        assert source.labels is not None and target is not None
        prediction = self.segmenter(self.restyled(source, target))
        yield weighted(
            self.segmenter.segmentation_losses(prediction, source.labels), "segmentation/"
        )
        del prediction

        logits = self.segmenter(target.images).logits[0]
        penalty = charbonnier_entropy(class_probabilities(logits), self.config.eta)
        yield weighted({"entropy/main": (self.config.weight_ent, penalty)})

    def restyled(self, source: Batch, target: Batch) -> Tensor:
        """Source images (B, 3, H, W) with the look of target images, which are taken in turn and
        brought to the same size."""
        pixels = self.segmenter.pixels
        size_hw = (source.images.shape[-2], source.images.shape[-1])
        style = resize(
            unit_rgb(target.in_turn(len(source.keys)).images, pixels), size_hw, align_corners=False
        )
        rgb = unit_rgb(source.images, pixels)
        return network_input(with_low_amplitudes_of(style, rgb, self.config.beta), pixels)


def charbonnier_entropy(probabilities: Tensor, eta: float) -> Tensor:
    """Mean over pixels of (h^2 + 1e-8)^eta, h the normalised entropy: (B, K, H, W) -> scalar.

    The program's constant 1e-8; the paper's Eq. 5 has 1e-6.
    """
    entropies = weighted_self_information(probabilities).sum(dim=1)
    return (entropies.square() + 1e-8).pow(eta).mean()
