"""The ResNet of DeepLab's Caffe models (He et al., CVPR 2016; Chen et al., TPAMI 2018).

The encoder of AdaptSegNet (CVPR 2018) and ADVENT (CVPR 2019), under their names of weights. Unlike
torchvision's and timm's it takes its strides in a block's first 1x1 convolution, rounds its pooled
size up, dilates all blocks of its last two stages, and reads BGR pixels minus their mean.
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
from adapt.models.layers import BatchNorm, init_convs
from adapt.models.weights import misfit

BLOCKS = {
    "caffe_resnet14": (1, 1, 1, 1),
    "caffe_resnet50": (3, 4, 6, 3),
    "caffe_resnet101": (3, 4, 23, 3),
}
"""Bottlenecks by stage."""

PLANES, STRIDES, DILATIONS = (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4)
EXPANSION, OUTPUT_STRIDE = 4, 8
PAPERS_PREFIX, PAPERS_OLD_HEAD = "Scale.", "layer5."


class Bottleneck(nn.Module):
    """1x1 with the stride, dilated 3x3, 1x1, around a shortcut: C -> 4 * `planes` channels.

    `projected` puts a convolution into the shortcut.
    """

    def __init__(
        self, in_channels: int, planes: int, stride: int, dilation: int, projected: bool
    ) -> None:
        super().__init__()
        out_channels = EXPANSION * planes
        self.conv1 = nn.Conv2d(in_channels, planes, 1, stride, bias=False)
        self.bn1 = BatchNorm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation, bias=False)
        self.bn2 = BatchNorm(planes)
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.bn3 = BatchNorm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if projected:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, BatchNorm(out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 4 * planes, h', w')."""
        branch = self.relu(self.bn1(self.conv1(features)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        return self.relu(self.bn3(self.conv3(branch)) + self.downsample(features))


class CaffeResNet(Encoder):
    """A row of `BLOCKS`; four stages, the last three at output stride 8.

    Convolutions start at N(0, 0.01), as in the programs. `JobError` for another output stride.
    """

    def __init__(self, name: str, output_stride: int = OUTPUT_STRIDE) -> None:
        super().__init__()
        if output_stride != OUTPUT_STRIDE:
            raise wrong_output_stride(name, OUTPUT_STRIDE, output_stride)
        self.name, self.output_stride, self.pixels = name, output_stride, CAFFE_PIXELS
        self.channels = tuple(EXPANSION * planes for planes in PLANES)
        self.reductions = (4, 8, 8, 8)
        self.conv1 = nn.Conv2d(3, PLANES[0], 7, 2, 3, bias=False)
        self.bn1 = BatchNorm(PLANES[0])
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.layer1, self.layer2, self.layer3, self.layer4 = _layers(BLOCKS[name])
        init_convs(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> the outputs of layer1 to layer4, (B, C, h, w)."""
        features = self.pool(self.relu(self.bn1(self.conv1(images))))
        stages = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
            stages.append(features)
        return tuple(stages)

    def load(self, state: Mapping[str, Tensor]) -> LoadReport:
        """As the contract says, for names as in the papers' programs, and for the file that those
        start from: it puts a prefix before all names and has a head of 21 classes, left out.
        """
        given, dropped = _without_prefix(state)
        differences = misfit(self.state_dict(), given)
        if differences:
            raise JobError(
                f"{WEIGHTS_KEY}: expected weights of encoder {self.name!r} as the papers name "
                f"them, got others ({differences})",
                fix="run import-checkpoint on a file of a whole network; for weights of "
                "torchvision or timm, which have their strides elsewhere and read RGB, set a timm "
                "encoder such as resnet101",
            )
        self.load_state_dict(given, strict=False)
        return LoadReport(len(given), dropped)

    def multiplicities(self) -> dict[str, int]:
        """conv1 once, bottlenecks 3 times, their shortcuts 4 times.

        The programs list a module's parameters once for each module around it, itself included:
        that is the number of dots in the parameter's name.
        """
        return {name: name.count(".") for name, _ in self.named_parameters()}


def _layers(blocks: tuple[int, ...]) -> list[nn.Sequential]:
    layers, in_channels = [], PLANES[0]
    for count, planes, stride, dilation in zip(blocks, PLANES, STRIDES, DILATIONS, strict=True):
        layer = nn.Sequential(Bottleneck(in_channels, planes, stride, dilation, projected=True))
        in_channels = EXPANSION * planes
        for _ in range(count - 1):
            layer.append(Bottleneck(in_channels, planes, 1, dilation, projected=False))
        layers.append(layer)
    return layers


def _without_prefix(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The papers' start without the prefix of its names and its old head; all else as it is.

    A prefix alone is no mark of theirs: many files have torchvision's weights under `backbone.`.
    """
    prefixes = {key.partition(".")[0] + "." for key in state}
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    inner = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    dropped = [key for key in inner if key.startswith(PAPERS_OLD_HEAD)]
    if prefix != PAPERS_PREFIX and not (prefix and dropped):
        return dict(state), ()
    for key in dropped:
        del inner[key]
    return inner, tuple(prefix + key for key in dropped)
