"""Two-sided distillation to a frozen foundation encoder (VFM-UDA++, ICCV workshops 2025), beside
the terms of any method.

Fine-tuning on a simulator makes an encoder forget what it knew of the real world. The deepest stage
of the student's encoder is projected, resized, and held near to that of a foundation encoder, on
images of the source and of the target alike. The foundation encoder sees the image as it is, the
student a weakly changed one; each domain is a term with a backward pass of its own.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.batch import Batch
from adapt.config.section import Section
from adapt.data.packed.manifest import Side
from adapt.losses import at_least_float32
from adapt.methods.draws import Draws
from adapt.methods.method import AddOn, Term, weighted
from adapt.methods.pinned import Pinned
from adapt.methods.strong_augmentation import (
    StrongAugmentationConfig,
    network_input,
    strongly_augmented,
    unit_rgb,
)
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import ChannelNorm, enlarged, laid_out_for_step, resize
from adapt.models.segmenter import Segmenter

SMOOTH_L1_SHARE, COSINE_SHARE = 0.1, 0.9
"""Of the two parts of the loss (VFM-UDA++)."""

WIDENING = 4
"""Channels inside the projection over those of the student's stage (VFM-UDA++)."""

WEAKLY = StrongAugmentationConfig(
    jitter=0.5, brightness=0.125, hue=0.05, jitter_chance=0.9, blur_chance=0, decided_per="image"
)


class DistillationConfig(Section):
    """Nearness of the encoder's deepest stage to that of a frozen foundation encoder."""

    encoder: str = Field(
        "vit_large_patch14_reg4_dinov2",
        description="The frozen encoder, as model.encoder (VFM-UDA++: DINOv2 ViT-L with "
        "registers).",
    )
    weights: Literal["imagenet", "none"] = Field(
        "imagenet", description="Its weights without weights_uri: timm's, or random."
    )
    weights_uri: str | None = Field(
        None, description="A file of safetensors or torch.save with its weights, in any store."
    )
    weights_sha256: str | None = Field(
        None,
        pattern="^[0-9a-fA-F]{64}$",
        description="SHA-256 that the file at weights_uri must have. Checkpoints keep that of the "
        "tensors in place of them.",
    )
    accept_license: str | None = Field(
        None,
        description="Name of the licence of its weights, where those are gated or for "
        "non-commercial use alone, as model.accept_license.",
    )
    size_hw: tuple[Side, Side] = Field(
        (406, 406),
        description="Height and width in pixels to which images are resized for it (VFM-UDA++: "
        "406, which are 29 patches of 14).",
    )
    weight_source: float = Field(
        0.1, ge=0, description="Weight of the term on source images (VFM-UDA++)."
    )
    weight_target: float = Field(
        0.1,
        ge=0,
        description="Weight of the term on target images (VFM-UDA++); of methods that read them.",
    )
    augmentation: StrongAugmentationConfig | None = Field(
        WEAKLY,
        description="Changes of the images that the student sees for it (VFM-UDA++: weak ones); "
        "null: none.",
    )


class Distillation(AddOn):
    """A term for each domain, and the projection that learns with the student."""

    def __init__(self, config: DistillationConfig, segmenter: Segmenter, teacher: Encoder) -> None:
        super().__init__()
        segmenter.require_learning_encoder("distillation")
        self.config = config
        self.teacher = Pinned(teacher, "distillation")
        channels = segmenter.encoder.channels[-1]
        self.projection = nn.Sequential(
            nn.Conv2d(channels, WIDENING * channels, 1),
            ChannelNorm(WIDENING * channels),
            nn.GELU(),
            nn.Conv2d(WIDENING * channels, teacher.channels[-1], 1),
        )

    def losses(
        self, segmenter: Segmenter, source: Batch, target: Batch | None, draws: Draws
    ) -> Iterator[Term]:
        """The source's term, then the target's where the method reads it."""
        sides = {
            "source": (self.config.weight_source, source),
            "target": (self.config.weight_target, target),
        }
        for domain, (weight, batch) in sides.items():
            if batch is not None and weight > 0:
                loss = self._of(segmenter, batch, draws, f"distillation {domain} images")
                yield weighted({domain: (weight, loss)}, prefix="distillation/")

    def _of(self, segmenter: Segmenter, batch: Batch, draws: Draws, purpose: str) -> Tensor:
        aim, images = self._aim(batch.images, segmenter), batch.images
        if self.config.augmentation is not None:
            images = strongly_augmented(
                images, segmenter.pixels, self.config.augmentation, batch.keys, draws, purpose
            )
        encoder = segmenter.encoder
        images = enlarged(images, encoder.smallest_side_px, encoder.multiple_px)
        deepest = encoder(laid_out_for_step(images))[-1]
        size_hw = (aim.shape[-2], aim.shape[-1])
        return distillation_loss(resize(self.projection(deepest), size_hw, False), aim)

    @torch.no_grad()
    def _aim(self, images: Tensor, segmenter: Segmenter) -> Tensor:
        """The frozen encoder's deepest stage of images as the student's network takes them."""
        teacher: Encoder = self.teacher.network
        rgb = unit_rgb(images, segmenter.pixels)
        resized = F.interpolate(rgb, size=self.config.size_hw, mode="bilinear", antialias=True)
        return teacher(network_input(resized, teacher.pixels))[-1]


def distillation_loss(features: Tensor, aim: Tensor) -> Tensor:
    """0.1 smooth L1 + 0.9 (1 - cosine) of features (B, C, h, w) to those aimed at -> mean."""
    features, aim = at_least_float32(features), at_least_float32(aim)
    cosines = F.cosine_similarity(features, aim, dim=1)
    near = F.smooth_l1_loss(features, aim)
    return SMOOTH_L1_SHARE * near + COSINE_SHARE * (1 - cosines).mean()
