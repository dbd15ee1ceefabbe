"""DAFormer (Hoyer et al., DAFormer: Improving Network Architectures and Training Strategies for
Domain-Adaptive Semantic Segmentation, CVPR 2022): its training, over any network.

DACS with three strategies: rare classes are drawn more often (`stream.order: rare_classes`),
features of things stay near to ImageNet's (Eq. 9 to 11), and the learning rate warms up
(`optim.warmup_steps`). The margins of a crop whose pseudo-labels the car or the rectification
spoils do not count.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from adapt.batch import Batch, Prediction
from adapt.config.section import Section
from adapt.methods.feature_distance import FeatureDistance, FeatureDistanceConfig
from adapt.methods.self_training import SelfTraining, SelfTrainingConfig
from adapt.models.segmenter import Segmenter


class DAFormerConfig(SelfTrainingConfig):
    """Self-training with the feature distance."""

    name: Literal["daformer"] = Field(
        "daformer", description="DACS with ImageNet feature distance (CVPR 2022)."
    )
    feature_distance: FeatureDistanceConfig | None = Field(
        FeatureDistanceConfig(),
        description="Nearness to the encoder's first features; null for foundation encoders, which "
        "it harms (VFM-UDA).",
    )


class DAFormer(SelfTraining):
    """Self-training as DAFormer trains."""

    Config: ClassVar[type[Section]] = DAFormerConfig

    def __init__(self, config: DAFormerConfig, segmenter: Segmenter) -> None:
        super().__init__(config, segmenter)
        distance = config.feature_distance
        self.feature_distance = None if distance is None else FeatureDistance(distance, segmenter)

    def on_source(
        self, source: Batch, prediction: Prediction
    ) -> Mapping[str, tuple[float, Tensor]]:
        """The feature distance, where the spec has it."""
        if self.feature_distance is None:
            return {}
        assert source.labels is not None
        deepest = prediction.features[-1]
        return {"feature_distance": self.feature_distance(source.images, source.labels, deepest)}
