"""MIC (Hoyer et al., MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation, CVPR
2023), over any other method.

A network that must name what it cannot see learns to read the context. The student sees a target
image without most of its blocks, and learns the labels that the teacher gives the whole image
(Eq. 5 to 9). Everything else is the base method's, its teacher too where it has one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from adapt.batch import Batch
from adapt.config.section import Section, one_of
from adapt.config.validation import Mistake
from adapt.methods.adaptsegnet import AdaptSegNet
from adapt.methods.advent import AdvEnt
from adapt.methods.block_masks import block_mask, check_block
from adapt.methods.dacs import DACS
from adapt.methods.daformer import DAFormer, DAFormerConfig
from adapt.methods.draws import Draws
from adapt.methods.fda import FDA
from adapt.methods.method import Method, Term, weighted
from adapt.methods.minent import MinEnt
from adapt.methods.pseudo_labels import PseudoLabelConfig, PseudoLabels
from adapt.methods.self_training import pseudo_label_losses
from adapt.methods.source_only import SourceOnly
from adapt.methods.strong_augmentation import StrongAugmentationConfig, strongly_augmented
from adapt.methods.teacher import Teacher, TeacherConfig
from adapt.methods.vfm_uda import VFMUDA
from adapt.models.segmenter import Segmenter

HOSTS: dict[str, type[Method]] = {
    "source_only": SourceOnly,
    "adaptsegnet": AdaptSegNet,
    "minent": MinEnt,
    "advent": AdvEnt,
    "fda": FDA,
    "dacs": DACS,
    "daformer": DAFormer,
    "vfm_uda": VFMUDA,
}
"""The methods that can be trained with masked images."""


class MICConfig(Section):
    """Masks, and the base method."""

    name: Literal["mic"] = Field("mic", description="Masked image consistency (CVPR 2023).")
    host: one_of((row.Config for row in HOSTS.values()), "name") = Field(  # type: ignore[valid-type]
        DAFormerConfig(), description="The base method, to which masked images are added."
    )
    weight: float = Field(1.0, ge=0, description="Weight of the loss on masked images (paper).")
    ratio: float = Field(0.7, ge=0, lt=1, description="Share of blocks that are hidden (paper).")
    block_px: int = Field(
        64, ge=1, description="Side of a block in pixels (paper: 64; 32 on crops of 512)."
    )
    augmentation: StrongAugmentationConfig = Field(
        StrongAugmentationConfig(), description="Changes of the image before it is masked."
    )
    teacher: TeacherConfig | None = Field(
        None,
        description="The EMA teacher, for base methods that have none of their own; null: its "
        "defaults.",
    )
    pseudo_labels: PseudoLabelConfig | None = Field(
        None,
        description="Quality weights of its labels, for base methods without a teacher; null: its "
        "defaults.",
    )

    @model_validator(mode="after")
    def _one_teacher(self) -> "MICConfig":
        for key, section in (("teacher", TeacherConfig), ("pseudo_labels", PseudoLabelConfig)):
            given = getattr(self, key)
            if not HOSTS[self.host.name].has_teacher:
                object.__setattr__(self, key, given or section())  # resolved specs have defaults
            elif given is not None:
                raise Mistake(
                    f"{key}: expected null over base method {self.host.name}, whose own is used, "
                    "got a section",
                    fix=f"write it as method.host.{key}",
                )
        return self

    @model_validator(mode="after")
    def _masked_once(self) -> "MICConfig":
        if getattr(self.host, "masks", None) is not None:
            raise Mistake(
                f"host.masks: expected null under {self.name}, which masks images itself, got a "
                "section",
                fix="write host.masks: null, or method.name: vfm_uda",
            )
        return self

    @property
    def discriminator_uris(self) -> dict[str, str]:
        """The base method's."""
        return getattr(self.host, "discriminator_uris", {})


class MIC(Method):
    """The base method's losses, then consistency of masked images with a teacher's labels."""

    Config: ClassVar[type[Section]] = MICConfig
    has_teacher: ClassVar[bool] = True

    def __init__(self, config: Any, segmenter: Segmenter) -> None:
        super().__init__(config, segmenter)
        host = HOSTS[config.host.name](config.host, segmenter)
        self._host = (host,)  # not a sub-module: the checkpoint would have the segmenter twice
        children = host.named_children()
        self.host = nn.ModuleDict({name: one for name, one in children if name != "segmenter"})
        self.teacher: Teacher | None = None
        if not host.has_teacher:
            self.teacher = Teacher(config.teacher, config.pseudo_labels, segmenter)

    @classmethod
    def check_size(cls, config: Any, key: str, size_hw: tuple[int, int]) -> None:
        """As the base method's; on the target, more than one block must fit each side: a block as
        large as the image hides all of it or nothing."""
        HOSTS[config.host.name].check_size(config.host, key, size_hw)
        check_block(config.block_px, "method.block_px", key, size_hw)

    def losses(self, source: Batch, target: Batch | None) -> Iterator[Term]:
        """The base method's terms, then those of masked images."""
        assert target is not None
        yield from self._host[0].losses(source, target)
        yield from self.on_masked(target, self.target_labels(target))

    def on_masked(self, target: Batch, pseudo: PseudoLabels) -> Iterator[Term]:
        """One term: the labels that the teacher gives the whole image, from what is not hidden."""
        visible = block_mask(target, self.config.block_px, self.config.ratio, self.draws)
        prediction = self.segmenter(self.augmented(target) * visible)
        yield weighted(
            pseudo_label_losses(self.segmenter, prediction, pseudo, self.config.weight, "masked/")
        )

    def augmented(self, target: Batch) -> Tensor:
        """The target's images (B, 3, H, W), strongly augmented before they are masked."""
        config, pixels = self.config.augmentation, self.segmenter.pixels
        return strongly_augmented(
            target.images, pixels, config, target.keys, self.draws, "masked images"
        )

    def target_labels(self, target: Batch) -> PseudoLabels:
        """Labels of the base method's teacher, or the own teacher's."""
        if self.teacher is None:
            return self._host[0].target_labels(target)
        return self.teacher.labels(target, self.targets)

    def teacher_network(self) -> Segmenter | None:
        """The network of the base method's teacher, or of the own one."""
        return self._host[0].teacher_network() if self.teacher is None else self.teacher.network

    def start_step(self, draws: Draws, targets: Sequence[Batch] = ()) -> None:
        """Take the step's draws and targets, the base method too."""
        super().start_step(draws, targets)
        self._host[0].start_step(draws, targets)

    def adversaries(self) -> dict[str, nn.Module]:
        """The base method's."""
        return self._host[0].adversaries()

    def observe_source(self, label_pixels: Tensor) -> None:
        """(N, K) pixels of each class in each image, for the base method."""
        self._host[0].observe_source(label_pixels)

    def after_step(self, step: int, taken: Tensor) -> None:
        """Move the teacher."""
        self._host[0].after_step(step, taken)
        if self.teacher is not None:
            self.teacher.follow(self.segmenter, step, taken)
