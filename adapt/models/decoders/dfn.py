"""DFN (Yu, Wang, Peng, Gao, Yu & Sun, Learning a Discriminative Feature Network ..., CVPR 2018).

Two networks on one encoder. The smooth one starts from the image's average and goes from deep to
shallow: a channel attention block chooses among the shallow features by what the deep ones say, and
every stage is supervised. The border one goes from shallow to deep and learns where classes meet,
by a focal loss of weight 0.1: it is there to shape the features. The paper takes borders from the
labels by Canny's detector; here they are the pixels whose neighbour has another label, as wide.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.batch import Prediction
from adapt.losses import border_loss
from adapt.models.config import SegmenterConfig
from adapt.models.demands import PYRAMID, QUARTERS, Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import conv_bn_relu, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages, WeightedLosses

WIDTH, BORDER_WIDTH = 512, 21
HEADS = ("main", "aux_8", "aux_16", "aux_32")


class DFNConfig(SegmenterConfig):
    """DFN's own choices."""

    architecture: Literal["dfn"] = Field(
        "dfn", description="Channel attention from deep to shallow, and borders (CVPR 2018)."
    )
    encoder: str = Field("resnet101s", description="A backbone; the authors' is resnet101s.")
    output_stride: Literal[32] = Field(32, description="Reads stages from 1/4 to 1/32.")
    weight_aux: float = Field(
        1.0, ge=0, description="Weight of the cross entropy at 1/8, 1/16 and 1/32 (the paper: 1)."
    )
    weight_border: float = Field(
        0.1, ge=0, description="Weight of the border's focal loss (the paper's lambda: 0.1)."
    )

    def heads(self) -> dict[str, float]:
        """Weight of the cross entropy of each stage's head, the shallowest, main, first."""
        return {**dict.fromkeys(HEADS, self.weight_aux), "main": 1.0}


class RefinementResidualBlock(nn.Module):
    """1x1 to `channels`, then a residual branch: (B, C, h, w) -> (B, `channels`, h, w)."""

    def __init__(self, in_channels: int, channels: int, last_relu: bool = True) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.branch = nn.Sequential(
            *conv_bn_relu(channels, channels), nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        )
        self.last = nn.ReLU(inplace=True) if last_relu else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        projected = self.project(features)
        return self.last(projected + self.branch(projected))


class ChannelAttention(nn.Module):
    """Low-stage features, weighted by channel, plus high-stage ones: two (B, C, h, w) -> one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Linear(2 * channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.Sigmoid(),
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        averages = torch.cat([low, high], dim=1).mean(dim=(2, 3))
        return low * self.weigh(averages)[:, :, None, None] + high


class SmoothStage(nn.Module):
    """One stage of the smooth network: block, attention, block; and its head."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.before = RefinementResidualBlock(in_channels, WIDTH)
        self.attention = ChannelAttention(WIDTH)
        self.after = RefinementResidualBlock(WIDTH, WIDTH)
        self.head = _head(WIDTH, num_classes)

    def forward(self, stage: Tensor, deeper: Tensor) -> tuple[Tensor, Tensor]:
        """Stage (B, C, h, w), features (B, 512, h', w') -> (B, 512, h, w), logits (B, K, h, w)."""
        low = self.before(stage)
        features = self.after(self.attention(low, resize_to(deeper, low)))
        return features, self.head(features)


class BorderStage(nn.Module):
    """One stage of the border network, and its head of one map."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.before = RefinementResidualBlock(in_channels, BORDER_WIDTH)
        self.after = RefinementResidualBlock(BORDER_WIDTH, BORDER_WIDTH)
        self.head = _head(BORDER_WIDTH, 1)

    def forward(self, stage: Tensor, shallower: Tensor | None) -> tuple[Tensor, Tensor]:
        """Stage, features so far (B, 21, H / 4, W / 4) -> the same, logits (B, 1, H / 4, W / 4)."""
        features = self.before(stage)
        if shallower is not None:
            features = shallower + resize_to(features, shallower)
        features = self.after(features)
        return features, self.head(features)


class DFNDecoder(Decoder):
    """DFN: channel attention, and a second network for borders.

    Smooth and border network on four stages.
    """

    Config: ClassVar[type[SegmenterConfig]] = DFNConfig
    demands: ClassVar[Demands] = PYRAMID

    def __init__(self, config: DFNConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.weight_border = config.weight_border
        self.stages = [encoder.stage_at(reduction) for reduction in QUARTERS]
        channels = [encoder.channels[stage] for stage in self.stages]
        self.global_context = conv_bn_relu(channels[-1], WIDTH, 1)
        self.smooth = nn.ModuleList(SmoothStage(one, num_classes) for one in channels)
        self.border = nn.ModuleList(BorderStage(one) for one in channels)

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> logits at 1/4 to 1/32 of the size; `border`, one map a stage, (B, 4, h, w)."""
        stages = [features[stage] for stage in self.stages]
        smooth = self.global_context(F.adaptive_avg_pool2d(stages[-1], 1))
        logits = []
        for block, stage in zip(self.smooth[::-1], stages[::-1], strict=True):
            smooth, scores = block(stage, smooth)
            logits.append(scores)
        border, borders = None, []
        for block, stage in zip(self.border, stages, strict=True):
            border, scores = block(stage, border)
            borders.append(scores)
        return logits[::-1], {"border": torch.cat(borders, dim=1)}

    def segmentation_losses(self, prediction: Prediction, labels: Tensor) -> WeightedLosses:
        """A cross entropy for each stage, and the sum of the border network's focal losses."""
        losses = super().segmentation_losses(prediction, labels)
        focal = border_loss(prediction.extra["border"], labels)
        return {**losses, "border": (self.weight_border, focal)}


def _head(in_channels: int, num_maps: int) -> nn.Sequential:
    return nn.Sequential(
        RefinementResidualBlock(in_channels, 9 * num_maps, last_relu=False),
        nn.Conv2d(9 * num_maps, num_maps, 1),
    )
