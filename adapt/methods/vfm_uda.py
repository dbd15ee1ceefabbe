"""VFM-UDA (Englert et al., Exploring the Benefits of Vision Foundation Models for Unsupervised
Domain Adaptation, CVPR workshops 2024) and the training of VFM-UDA++ (ICCV workshops 2025).

DAFormer's self-training for encoders that know the world already: without the feature distance,
which harms them, with a teacher that averages an image with its mirror image, with margins whose
labels do not count, with masked images, and with augmentation decided for each image. VFM-UDA++
also changes the source's images and the target's before they are mixed, which are keys here; its
distillation is an add-on of any method (`adapt.methods.distillation`).
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from adapt.batch import Batch
from adapt.config.section import Section
from adapt.errors import JobError
from adapt.methods.block_masks import block_mask, check_block
from adapt.methods.method import Term, weighted
from adapt.methods.pseudo_labels import PseudoLabelConfig
from adapt.methods.self_training import SelfTraining, SelfTrainingConfig, pseudo_label_losses
from adapt.methods.strong_augmentation import StrongAugmentationConfig, strongly_augmented
from adapt.methods.teacher import TeacherConfig
from adapt.models.segmenter import Segmenter

EACH_IMAGE = StrongAugmentationConfig(decided_per="image")
MARGINS = (0.03, 0.25, 0.03, 0.03)


class MasksConfig(Section):
    """Masked target images, from which the teacher's labels of whole ones are learned."""

    unit: Literal["pixels", "tokens"] = Field(
        "pixels",
        description="Pixels that are hidden together. pixels: squares of block_px (VFM-UDA++); "
        "tokens: the patches of a vision transformer (VFM-UDA), of which it sees the mean colour, "
        "since timm's weights have no mask token.",
    )
    block_px: int = Field(
        64, ge=1, description="Side of a hidden square in pixels (VFM-UDA++); of unit pixels."
    )
    ratio: float = Field(0.7, ge=0, lt=1, description="Share of blocks that are hidden (both).")
    weight: float = Field(1.0, ge=0, description="Weight of the loss on masked images (both).")
    augmentation: StrongAugmentationConfig = Field(
        EACH_IMAGE, description="Changes of the image before it is masked (both: by image)."
    )


class VFMUDAConfig(SelfTrainingConfig):
    """Self-training for foundation encoders."""

    name: Literal["vfm_uda"] = Field(
        "vfm_uda", description="Self-training for vision foundation models (VFM-UDA, 2024)."
    )
    teacher: TeacherConfig = Field(
        TeacherConfig(mirror=True), description="The EMA teacher (both: with the mirror image)."
    )
    pseudo_labels: PseudoLabelConfig = Field(
        PseudoLabelConfig(margins=MARGINS),
        description="Quality weights of the teacher's labels (both: margins of 3 % at the top and "
        "the sides and 25 % at the bottom).",
    )
    augmentation: StrongAugmentationConfig = Field(
        EACH_IMAGE, description="Changes of the mixed image (both: decided for each image)."
    )
    masks: MasksConfig | None = Field(
        MasksConfig(), description="Masked target images; null: none, as under masktwins."
    )
    source_augmentation: StrongAugmentationConfig | None = Field(
        None,
        description="Changes of the source image of the segmentation loss, not of the mixed one "
        "(VFM-UDA++: jitter 0.8, hue 0.4, grey_chance 0.1, blur_sigma_px [0.15, 3.0], "
        "by image); null: none.",
    )
    target_augmentation: StrongAugmentationConfig | None = Field(
        None,
        description="Weak changes of the target image before the mix, which its teacher does not "
        "see (VFM-UDA++: jitter 0.5, brightness 0.125, hue 0.05, jitter_chance 0.9, blur_chance 0, "
        "by image); null: none.",
    )


class VFMUDA(SelfTraining):
    """Losses on the source, on mixed images and on masked ones."""

    Config: ClassVar[type[Section]] = VFMUDAConfig

    def __init__(self, config: VFMUDAConfig, segmenter: Segmenter) -> None:
        super().__init__(config, segmenter)
        self._block_px = None if config.masks is None else _block_px(config.masks, segmenter)

    @classmethod
    def check_size(cls, config: Any, key: str, size_hw: tuple[int, int]) -> None:
        """On the target, more than one block must fit each side."""
        super().check_size(config, key, size_hw)
        if config.masks is not None and config.masks.unit == "pixels":
            block_px, of_patches = config.masks.block_px, "method.masks: {unit: tokens}"
            fix = f"set {of_patches}, a vision transformer's patches"
            check_block(block_px, "method.masks.block_px", key, size_hw, fix)

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """Self-training's terms, then that of masked images."""
        yield from super().losses(source, target)
        assert target is not None
        if self.config.masks is not None:
            yield self._on_masked(target, self.config.masks)

    def _on_masked(self, target: Batch, masks: MasksConfig) -> Term:
        assert self._block_px is not None
        pseudo = self.target_labels(target)
        visible = block_mask(target, self._block_px, masks.ratio, self.draws)
        images = self._changed(target, masks.augmentation, "masked images")
        prediction = self.segmenter(images * visible)
        return weighted(
            pseudo_label_losses(self.segmenter, prediction, pseudo, masks.weight, "masked/")
        )

    def seen_source(self, source: Batch) -> Tensor:
        """The source images, changed where the spec says so."""
        return self._changed(source, self.config.source_augmentation, "source images")

    def mixed_into(self, target: Batch) -> Batch:
        """The target with its images changed where the spec says so."""
        changed = self._changed(target, self.config.target_augmentation, "target images")
        return target._replace(images=changed)

    def _changed(
        self, batch: Batch, config: StrongAugmentationConfig | None, purpose: str
    ) -> Tensor:
        if config is None:
            return batch.images
        pixels = self.segmenter.pixels
        return strongly_augmented(batch.images, pixels, config, batch.keys, self.draws, purpose)


def _block_px(masks: MasksConfig, segmenter: Segmenter) -> int:
    encoder = segmenter.encoder
    if masks.unit == "pixels":
        return masks.block_px
    if encoder.multiple_px == 1:
        raise JobError(
            f"method.masks.unit: expected pixels with encoder {segmenter.config.encoder!r}, which "
            "has no patches, got tokens",
            fix="write pixels, or take a vision transformer",
        )
    return encoder.multiple_px
