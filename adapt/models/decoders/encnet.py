"""EncNet (Zhang, Dana, Shi, Zhang, Wang, Tyagi & Agrawal, Context Encoding ..., CVPR 2018).

Features are described by how they deviate, in sum, from 32 learned codewords; that description of
the whole image weighs the features' channels, and must also tell which classes are present: the
semantic encoding loss, weight 0.2. A pixel belongs softly to the codewords near it: smoothing
factors start below 0 and multiply squared distances. Distances are expanded, |x|^2 - 2xc + |c|^2,
so that no tensor of pixels x codewords x channels is ever made.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from adapt.batch import Prediction
from adapt.losses import at_least_float32, presence_loss
from adapt.models.config import AuxiliaryConfig, SegmenterConfig
from adapt.models.demands import Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.layers import FCNHead, conv_bn_relu, full_precision, resize_to
from adapt.models.segmenter import Decoder, Heads, Stages, WeightedLosses

WIDTH, NUM_CODEWORDS = 512, 32


class EncNetConfig(AuxiliaryConfig):
    """EncNet's own choices."""

    architecture: Literal["encnet"] = Field(
        "encnet", description="Context encoding and class presence (CVPR 2018)."
    )
    encoder: str = Field("resnet101s", description="A backbone; the authors' is resnet101s.")
    lateral: bool = Field(
        False, description="Join the two stages before the deepest (an option of the program)."
    )
    weight_aux: float = Field(
        0.2, ge=0, description="Weight of the auxiliary cross entropy (the program: 0.2)."
    )
    weight_presence: float = Field(
        0.2, ge=0, description="Weight of the semantic encoding loss (the program: 0.2)."
    )


class CodewordEncoding(nn.Module):
    """Residual sums to codewords: (B, D, h, w) -> (B, K, D), K codewords of D channels."""

    def __init__(self, channels: int, num_codewords: int) -> None:
        super().__init__()
        bound = (num_codewords * channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(num_codewords, channels).uniform_(-bound, bound))
        self.smoothing = nn.Parameter(torch.empty(num_codewords).uniform_(-1, 0))

    def forward(self, features: Tensor) -> Tensor:
        """e_k = sum over pixels i of a_ik (x_i - c_k); a_i = softmax over k of s_k |x_i - c_k|^2.

        In at least float32, because squares of half-precision features overflow.
        """
        pixels = at_least_float32(features).flatten(start_dim=2).transpose(1, 2)
        codewords = self.codewords.to(pixels)
        with full_precision(pixels.device):
            products = pixels @ codewords.T
            squares = pixels.square().sum(dim=2, keepdim=True) + codewords.square().sum(dim=1)
            weights = F.softmax(self.smoothing.to(pixels) * (squares - 2 * products), dim=2)
            sums = weights.transpose(1, 2) @ pixels
            return sums - weights.sum(dim=1).unsqueeze(2) * codewords


class ContextEncoding(nn.Module):
    """(B, D, h, w) -> the same with weighed channels, and the image's description (B, D)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = conv_bn_relu(channels, channels, 1)
        self.encoding = CodewordEncoding(channels, NUM_CODEWORDS)
        self.norm = nn.BatchNorm1d(NUM_CODEWORDS)
        self.weigh = nn.Sequential(nn.Linear(channels, channels), nn.Sigmoid())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        described = F.relu(self.norm(self.encoding(self.project(features)))).mean(dim=1)
        weights = self.weigh(described)[:, :, None, None]
        return F.relu(features + features * weights), described


class EncNetDecoder(Decoder):
    """EncNet: channels weighed by what the scene holds.

    Context encoding on the deepest stage, an auxiliary head on the one before.
    """

    Config: ClassVar[type[SegmenterConfig]] = EncNetConfig
    demands: ClassVar[Demands] = Demands(num_stages=3)

    def __init__(self, config: EncNetConfig, encoder: Encoder, num_classes: int) -> None:
        super().__init__(config.heads())
        self.weight_presence = config.weight_presence
        self.deepest = conv_bn_relu(encoder.channels[-1], WIDTH)
        lateral = encoder.channels[-3:-1] if config.lateral else ()
        self.lateral = nn.ModuleList(conv_bn_relu(channels, WIDTH, 1) for channels in lateral)
        self.fuse = conv_bn_relu(3 * WIDTH, WIDTH) if config.lateral else None
        self.context = ContextEncoding(WIDTH)
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(WIDTH, num_classes, 1))
        self.presence = nn.Linear(WIDTH, num_classes)
        self.aux = FCNHead(encoder.channels[-2], num_classes) if config.aux else None

    def forward(self, images: Tensor, features: Stages) -> Heads:
        """Stages -> [main logits, auxiliary ones]; `presence`: logits of classes, (B, K)."""
        deepest = self.deepest(features[-1])
        if self.fuse is not None:
            pairs = zip(self.lateral, features[-3:-1], strict=True)
            joined = [resize_to(project(stage), deepest) for project, stage in pairs]
            deepest = self.fuse(torch.cat([deepest, *joined], dim=1))
        weighed, described = self.context(deepest)
        logits = [self.classifier(weighed)]
        if self.aux is not None:
            logits.append(self.aux(features[-2]))
        return logits, {"presence": self.presence(described)}

    def segmentation_losses(self, prediction: Prediction, labels: Tensor) -> WeightedLosses:
        """Cross entropies, and the binary one of which classes an image's labels contain."""
        presence = presence_loss(prediction.extra["presence"], labels)
        losses = super().segmentation_losses(prediction, labels)
        return {**losses, "presence": (self.weight_presence, presence)}
