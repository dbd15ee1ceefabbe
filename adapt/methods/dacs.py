"""DACS (Tranheden et al., Domain Adaptation via Cross-domain mixed Sampling, WACV 2021).

Pseudo-labels of target images alone drift: what a network confuses, it learns to confuse. DACS
pastes source pixels with true labels into target images, so that every step's target batch has some
truth in it. Losses are the source's and the mixed image's, Eq. 1; a mixed image's target pixels
weigh as much as the share of pixels of which the teacher is sure.
"""

from typing import ClassVar, Literal

from pydantic import Field

from adapt.config.section import Section
from adapt.methods.self_training import SelfTraining, SelfTrainingConfig
from adapt.methods.strong_augmentation import StrongAugmentationConfig
from adapt.methods.teacher import TeacherConfig


class DACSConfig(SelfTrainingConfig):
    """The teacher's average is shorter than DAFormer's, the jitter stronger."""

    name: Literal["dacs"] = Field(
        "dacs", description="Self-training on mixed images, ClassMix (WACV 2021)."
    )
    teacher: TeacherConfig = Field(
        TeacherConfig(alpha=0.99), description="The EMA teacher (the program: alpha 0.99)."
    )
    augmentation: StrongAugmentationConfig = Field(
        StrongAugmentationConfig(jitter=0.25),
        description="Changes of the images that the student sees (the program: jitter 0.25).",
    )


class DACS(SelfTraining):
    """Self-training with cross-domain mixed sampling."""

    Config: ClassVar[type[Section]] = DACSConfig
