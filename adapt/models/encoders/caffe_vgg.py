"""The VGG-16 of DeepLab's Caffe models (Simonyan & Zisserman, ICLR 2015; Chen et al., ICLR 2015).

The encoder of AdaptSegNet's VGG network (CVPR 2018), under its names of weights: VGG-16 without its
last two pools, conv5 dilated instead, and fc6 and fc7 as dilated 3x3 convolutions of 1024 channels.
No batch norm, no dropout; BGR pixels minus their mean.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models.encoders.encoder import (
    CAFFE_PIXELS,
    WEIGHTS_KEY,
    Encoder,
    LoadReport,
    wrong_output_stride,
)
from adapt.models.weights import misfit

BLOCKS = ((2, 64, 1), (2, 128, 1), (3, 256, 1), (3, 512, 1), (3, 512, 2), (2, 1024, 4))
"""Number, channels and dilation of the convolutions of conv1 to conv5, then of fc6 and fc7."""

POOLED_BLOCKS, OUTPUT_STRIDE = 3, 8
STAGE_ENDS = (3, 8, 15, 28, 32)
"""Layers whose outputs are the stages: the last before each pool, conv5_3, fc7."""

FC6_FC7 = ("features.29.", "features.31.")


class CaffeVGG16(Encoder):
    """Five stages, the last two at output stride 8; PyTorch's initialisation.

    `JobError` for another output stride.
    """

    def __init__(self, name: str, output_stride: int = OUTPUT_STRIDE) -> None:
        super().__init__()
        if output_stride != OUTPUT_STRIDE:
            raise wrong_output_stride(name, OUTPUT_STRIDE, output_stride)
        self.name, self.output_stride, self.pixels = name, output_stride, CAFFE_PIXELS
        self.channels, self.reductions = (64, 128, 256, 512, 1024), (1, 2, 4, 8, 8)
        self.features = _features()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> the outputs of conv1_2, conv2_2, conv3_3, conv5_3 and fc7."""
        features, stages = images, []
        for index, layer in enumerate(self.features):
            features = layer(features)
            if index in STAGE_ENDS:
                stages.append(features)
        return tuple(stages)

    def load(self, state: Mapping[str, Tensor]) -> LoadReport:
        """As the contract says, for names as in the papers' program.

        fc6 and fc7 may be absent: weights from ImageNet have none of their shape, and the program
        starts them at random.
        """
        own = self.state_dict()
        if not any(key.startswith(FC6_FC7) for key in state):
            own = {key: value for key, value in own.items() if not key.startswith(FC6_FC7)}
        differences = misfit(own, state)
        if differences:
            raise JobError(
                f"{WEIGHTS_KEY}: expected weights of encoder {self.name!r} as the papers name "
                f"them, got others ({differences})",
                fix="run import-checkpoint on a file of a whole network or of ImageNet's VGG-16; "
                "for torchvision's and timm's, which read RGB, set a timm encoder such as vgg16 "
                "with model.output_stride: 32",
            )
        self.load_state_dict(state, strict=False)
        return LoadReport(len(state), ())

    def multiplicities(self) -> dict[str, int]:
        """All once: the program hands the whole network to its optimizer in one group."""
        return {name: 1 for name, _ in self.named_parameters()}


def _features() -> nn.Sequential:
    features, in_channels = nn.Sequential(), 3
    for number, (count, channels, dilation) in enumerate(BLOCKS):
        for _ in range(count):
            features.append(nn.Conv2d(in_channels, channels, 3, 1, dilation, dilation))
            features.append(nn.ReLU(inplace=True))
            in_channels = channels
        if number < POOLED_BLOCKS:
            features.append(nn.MaxPool2d(2))
    return features
