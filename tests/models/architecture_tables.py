"""What each architecture costs: its convolutions, one by one, at the sizes its paper gives them.

Written from the papers and from counts of their authors' programs, never from our networks. A row
is a convolution or matrix product with its parameters and its multiply-accumulates on an image of
`IMAGE_HW`. A table whose parameters add up to the published count has the right rows; its
multiply-accumulates then hold the strides and the order of convolution and upsampling. Left out is
DDSC, of which nobody but its authors knows the widths.
"""

from typing import NamedTuple

IMAGE_HW = (128, 256)
CLASSES = 19
ONE_PIXEL = 1
RESNET_WIDTHS = (256, 512, 1024, 2048)
"""Channels of the stages of a ResNet with bottlenecks."""

RESNET_REDUCTIONS = (4, 8, 16, 32)
"""How much each is reduced where nothing is dilated."""


class Cost(NamedTuple):
    """One row: parameters, and multiply-accumulates on one image."""

    parameters: int
    macs: int


Rows = list[Cost]
"""A part of a network. Parts are joined by `+` and repeated by `*`."""


def at(reduction: int) -> int:
    """Pixels of a map that is reduced so much a side."""
    return IMAGE_HW[0] * IMAGE_HW[1] // reduction**2


def conv(kernel: int | tuple[int, int], in_channels: int, out_channels: int, pixels: int) -> Rows:
    """A convolution without bias that writes `pixels` (a transposed one: that reads them)."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    weights = height * width * in_channels * out_channels
    return [Cost(weights, weights * pixels)]


def conv_bias(
    kernel: int | tuple[int, int], in_channels: int, out_channels: int, pixels: int
) -> Rows:
    """A convolution with bias; a fully connected layer is one of 1x1 on one pixel."""
    return [*conv(kernel, in_channels, out_channels, pixels), Cost(out_channels, 0)]


def conv_norm(kernel: int, in_channels: int, out_channels: int, pixels: int) -> Rows:
    """A convolution without bias, and its batch norm."""
    return conv(kernel, in_channels, out_channels, pixels) + norm(out_channels)


def norm(channels: int) -> Rows:
    """A batch norm: gamma and beta."""
    return [Cost(2 * channels, 0)]


def fcn_head(in_channels: int, pixels: int) -> Rows:
    """The auxiliary head of PSPNet, DeepLabV3 and EncNet."""
    width = in_channels // 4
    return conv_norm(3, in_channels, width, pixels) + conv_bias(1, width, CLASSES, pixels)


def unet() -> Rows:
    """Biases, no batch norm, 2x2 transposed convolutions that halve the channels."""
    rows, in_channels = [], 3
    for level, width in enumerate((64, 128, 256, 512, 1024)):
        rows += _conv_pair(in_channels, width, at(2**level))
        in_channels = width
    for level, width in ((3, 512), (2, 256), (1, 128), (0, 64)):
        rows += conv_bias(2, 2 * width, width, at(2 ** (level + 1)))
        rows += _conv_pair(2 * width, width, at(2**level))
    return rows + conv_bias(1, 64, CLASSES, at(1))


def _conv_pair(in_channels: int, width: int, pixels: int) -> Rows:
    return conv_bias(3, in_channels, width, pixels) + conv_bias(3, width, width, pixels)


FRRN_A = ((3, 96, 2), (4, 192, 4), (2, 384, 8), (2, 384, 16), (2, 192, 8), (2, 192, 4), (2, 96, 2))
FRRN_B = (*FRRN_A[:4], (2, 384, 32), (2, 192, 16), *FRRN_A[4:])
"""Full-resolution units of each stage: how many, their channels, their reduction."""


def frrn(stages: tuple[tuple[int, int, int], ...], base: int = 48, lanes: int = 32) -> Rows:
    """The residual stream of `lanes` channels stays at full size; units pool it to read it."""
    residual_unit = 2 * conv_norm(3, base, base, at(1))
    rows = conv_norm(5, 3, base, at(1)) + 3 * residual_unit + conv_norm(1, base, lanes, at(1))
    channels = base
    for units, width, reduction in stages:
        for _ in range(units):
            rows += conv_norm(3, channels + lanes, width, at(reduction))
            rows += conv_norm(3, width, width, at(reduction))
            rows += conv_bias(1, width, lanes, at(reduction))
            channels = width
    rows += conv_norm(3, channels + lanes, base, at(1)) + conv_norm(3, base, base, at(1))
    rows += conv(1, channels + lanes, base, at(1))  # the identity's projection
    return rows + 2 * residual_unit + conv_bias(1, base, CLASSES, at(1))


def fc_densenet(growth: int, down: tuple[int, ...], bottleneck: int, up: tuple[int, ...]) -> Rows:
    """Transitions up carry only what the last block made, and so do not grow."""
    rows, channels, skips = conv_bias(3, 3, 48, at(1)), 48, []
    for level, layers in enumerate(down):
        rows += _dense_block(channels, growth, layers, at(2**level))
        channels += growth * layers
        skips.append(channels)
        rows += norm(channels) + conv_bias(1, channels, channels, at(2**level))
    rows += _dense_block(channels, growth, bottleneck, at(2 ** len(down)))
    made = growth * bottleneck
    for level, layers in zip(reversed(range(len(down))), up, strict=True):
        rows += conv_bias(3, made, made, at(2 ** (level + 1)))
        channels = made + skips[level]
        rows += _dense_block(channels, growth, layers, at(2**level))
        made = growth * layers
    return rows + conv_bias(1, channels + made, CLASSES, at(1))


def fc_densenet_56() -> Rows:
    """4 layers a block."""
    return fc_densenet(12, 5 * (4,), 4, 5 * (4,))


def fc_densenet_67() -> Rows:
    """5 layers a block."""
    return fc_densenet(16, 5 * (5,), 5, 5 * (5,))


def fc_densenet_103() -> Rows:
    """Deeper blocks where the map is smaller."""
    return fc_densenet(16, (4, 5, 7, 10, 12), 15, (12, 10, 7, 5, 4))


def _dense_block(channels: int, growth: int, layers: int, pixels: int) -> Rows:
    rows: Rows = []
    for layer in range(layers):
        width = channels + layer * growth
        rows += norm(width) + conv_bias(3, width, growth, pixels)
    return rows


def pspnet() -> Rows:
    """Four pooled maps of 1x1, 2x2, 3x3 and 6x6 pixels are convolved before they are resized."""
    rows: Rows = []
    for bins in (1, 2, 3, 6):
        rows += conv_norm(1, 2048, 512, bins**2)
    return rows + conv_norm(3, 4096, 512, at(8)) + conv_bias(1, 512, CLASSES, at(8))


def deeplab_v2(in_channels: int) -> Rows:
    """Four dilated convolutions straight to classes; Caffe's pool rounds 16x32 up to 17x33."""
    return 4 * conv_bias(3, in_channels, CLASSES, 17 * 33)


def deeplab_v3(reduction: int) -> Rows:
    """torchvision's head, with a 3x3 before the classes."""
    pixels = at(reduction)
    head = conv_norm(3, 256, 256, pixels) + conv_bias(1, 256, CLASSES, pixels)
    return _atrous_pyramid(pixels) + head


def _atrous_pyramid(pixels: int) -> Rows:
    branches = conv_norm(1, 2048, 256, pixels) + 3 * conv_norm(3, 2048, 256, pixels)
    image_pooling = conv_norm(1, 2048, 256, ONE_PIXEL)
    return branches + image_pooling + conv_norm(1, 5 * 256, 256, pixels)


def deeplab_v3_plus(reduction: int) -> Rows:
    """Encoder output and 48 channels of stage 1 meet at 1/4, then two 3x3."""
    rows = _atrous_pyramid(at(reduction)) + conv_norm(1, 256, 48, at(4))
    rows += conv_norm(3, 256 + 48, 256, at(4)) + conv_norm(3, 256, 256, at(4))
    return rows + conv_bias(1, 256, CLASSES, at(4))


def refinenet() -> Rows:
    """Each path is convolved for the fusion before it is resized; no batch norm anywhere."""
    rows: Rows = []
    for in_channels, reduction in zip(RESNET_WIDTHS, RESNET_REDUCTIONS, strict=True):
        width, pixels = 512 if reduction == 32 else 256, at(reduction)
        residual_unit = conv_bias(3, width, width, pixels) + conv(3, width, width, pixels)
        rows += conv(3, in_channels, width, pixels) + 2 * residual_unit
        if reduction < 32:
            rows += conv(3, width, 256, pixels)  # fusion: this path's part
        rows += 4 * conv(3, width, width, pixels) + 3 * residual_unit
        if reduction > 4:
            rows += conv(3, width, 256, pixels)  # fusion: the next, larger path's part
    return rows + conv_bias(3, 256, CLASSES, at(4))


def gcn(kernel_size: int) -> Rows:
    """Global convolutions on four stages; boundary refinements there, on each sum, at 1/2, at 1."""
    rows: Rows = []
    for width, reduction in zip(RESNET_WIDTHS, RESNET_REDUCTIONS, strict=True):
        for first, second in ((kernel_size, 1), (1, kernel_size)):
            rows += conv_bias((first, second), width, CLASSES, at(reduction))
            rows += conv_bias((second, first), CLASSES, CLASSES, at(reduction))
    for reduction in (4, 8, 16, 32, 16, 8, 4, 2, 1):
        rows += 2 * conv_bias(3, CLASSES, CLASSES, at(reduction))
    return rows


def icnet() -> Rows:
    """A PSPNet50 of half its channels on the half image, and three convolutions on the whole one.

    The pooled maps are summed and have no parameters. Each fusion resizes its deeper input first.
    """
    rows = _icnet_resnet() + conv_norm(1, 1024, 256, at(32))
    rows += conv_norm(3, 3, 32, at(2)) + conv_norm(3, 32, 32, at(4)) + conv_norm(3, 32, 64, at(8))
    for deeper, shallower, reduction in ((256, 256, 16), (128, 64, 8)):
        rows += conv_norm(3, deeper, 128, at(reduction))
        rows += conv_norm(1, shallower, 128, at(reduction))
    return rows + conv_bias(1, 128, CLASSES, at(4))


def _icnet_resnet() -> Rows:
    """conv3_1 is at 1/16 and all after it at 1/32: it is halved there, and then dilated."""
    rows = conv_norm(3, 3, 32, at(4)) + conv_norm(3, 32, 32, at(4)) + conv_norm(3, 32, 64, at(4))
    rows += _icnet_block(64, 32, at(8)) + 2 * _icnet_block(128, 32, at(8))
    rows += _icnet_block(128, 64, at(16)) + 3 * _icnet_block(256, 64, at(32))
    rows += _icnet_block(256, 128, at(32)) + 5 * _icnet_block(512, 128, at(32))
    return rows + _icnet_block(512, 256, at(32)) + 2 * _icnet_block(1024, 256, at(32))


def _icnet_block(in_channels: int, width: int, pixels: int) -> Rows:
    """As in Caffe, a block's stride is in its first 1x1."""
    rows = conv_norm(1, in_channels, width, pixels) + conv_norm(3, width, width, pixels)
    rows += conv_norm(1, width, 4 * width, pixels)
    return rows if in_channels == 4 * width else rows + conv_norm(1, in_channels, 4 * width, pixels)


def icnet_aux() -> Rows:
    """Classifiers on the two fusions' deeper inputs, resized."""
    return conv_bias(1, 256, CLASSES, at(16)) + conv_bias(1, 128, CLASSES, at(8))


def dfn() -> Rows:
    """Smooth network, a head at each stage; border network, resized to 1/4 after its first blocks.

    TorchSeg never runs the first of the border's four blocks on sums; here all parameters are used.
    """
    rows = conv_norm(1, 2048, 512, ONE_PIXEL)
    for width, reduction in zip(RESNET_WIDTHS, RESNET_REDUCTIONS, strict=True):
        pixels = at(reduction)
        rows += _refinement(width, 512, pixels) + _refinement(512, 512, pixels)
        rows += conv_bias(1, 2 * 512, 512, ONE_PIXEL) + conv_bias(1, 512, 512, ONE_PIXEL)
        rows += _dfn_head(512, CLASSES, pixels)
        rows += _refinement(width, 21, pixels)
    return rows + 4 * (_refinement(21, 21, at(4)) + _dfn_head(21, 1, at(4)))


def _refinement(in_channels: int, width: int, pixels: int) -> Rows:
    first = conv(1, in_channels, width, pixels)
    return first + conv_norm(3, width, width, pixels) + conv(3, width, width, pixels)


def _dfn_head(in_channels: int, out_channels: int, pixels: int) -> Rows:
    width = 9 * out_channels
    return _refinement(in_channels, width, pixels) + conv_bias(1, width, out_channels, pixels)


def denseaspp(in_channels: int, bottleneck: int, growth: int) -> Rows:
    """A transition that halves the channels, whose leading norm is the encoder's last, then five
    dilated layers, of which the first has no leading norm.
    """
    channels = in_channels // 2
    rows = conv_norm(1, in_channels, channels, at(8))
    for layer in range(5):
        rows += norm(channels) if layer else []
        rows += conv_bias(1, channels, bottleneck, at(8)) + norm(bottleneck)
        rows += conv_bias(3, bottleneck, growth, at(8))
        channels += growth
    return rows + conv_bias(1, channels, CLASSES, at(8))


def encnet(lateral: bool) -> Rows:
    """Without the products within the encoding, which an implementation may order as it likes."""
    rows = conv_norm(3, 2048, 512, at(8))
    if lateral:
        rows += conv_norm(1, 512, 512, at(8)) + conv_norm(1, 1024, 512, at(8))
        rows += conv_norm(3, 3 * 512, 512, at(8))
    rows += conv_norm(1, 512, 512, at(8))
    rows += [Cost(32 * 512 + 32, 0), *norm(32)]  # codewords and their scales
    rows += conv_bias(1, 512, 512, ONE_PIXEL) + conv_bias(1, 512, CLASSES, ONE_PIXEL)
    return rows + conv_bias(1, 512, CLASSES, at(8))


def bisenet() -> Rows:
    """On ResNet-18; refinements are resized before the 3x3 that follows them."""
    rows = conv_norm(7, 3, 64, at(2)) + conv_norm(3, 64, 64, at(4)) + conv_norm(3, 64, 64, at(8))
    rows += conv_norm(1, 64, 128, at(8)) + conv_norm(1, 512, 128, ONE_PIXEL)
    for in_channels, reduction in ((512, 32), (256, 16)):
        rows += conv_norm(3, in_channels, 128, at(reduction)) + conv_norm(1, 128, 128, ONE_PIXEL)
        rows += conv_norm(3, 128, 128, at(reduction // 2))
    rows += conv_norm(1, 2 * 128, 256, at(8)) + 2 * conv(1, 256, 256, ONE_PIXEL)
    return rows + conv_norm(3, 256, 64, at(8)) + conv_bias(1, 64, CLASSES, at(8))


def bisenet_aux() -> Rows:
    """Heads on the context path at 1/16 and 1/8."""
    rows: Rows = []
    for reduction in (16, 8):
        rows += conv_norm(3, 128, 256, at(reduction)) + conv_bias(1, 256, CLASSES, at(reduction))
    return rows


MIT_WIDTHS = {"mit_b0": (32, 64, 160, 256), "mit_b5": (64, 128, 320, 512)}
"""Channels of the stages of MiT."""


def segformer(widths: tuple[int, ...], width: int) -> Rows:
    """Stages are projected before they are enlarged; 1x1 convolutions at 1/4."""
    rows = _projected(widths, width) + conv_norm(1, 4 * width, width, at(4))
    return rows + conv_bias(1, width, CLASSES, at(4))


def daformer_head(widths: tuple[int, ...]) -> Rows:
    """A 1x1 beside three separable 3x3, then a 3x3 over all four."""
    rows = _projected(widths, 256) + conv_norm(1, 1024, 256, at(4))
    within_channels = [Cost(9 * 1024, 9 * 1024 * at(4)), *norm(1024)]
    rows += 3 * (within_channels + conv_norm(1, 1024, 256, at(4)))
    return rows + conv_norm(3, 1024, 256, at(4)) + conv_bias(1, 256, CLASSES, at(4))


def _projected(widths: tuple[int, ...], width: int) -> Rows:
    rows: Rows = []
    for channels, reduction in zip(widths, RESNET_REDUCTIONS, strict=True):
        rows += conv_bias(1, channels, width, at(reduction))
    return rows


def linear(width: int, stages: int) -> Rows:
    """On patches of 16 pixels."""
    return norm(stages * width) + conv_bias(1, stages * width, CLASSES, at(16))


def vfm_head(width: int) -> Rows:
    """Transposed convolutions from 1/16 and 1/8; a 3x3 and the classes at 1/4."""
    rows = conv(2, width, width // 2, at(16)) + norm(width // 2)
    rows += conv(2, width // 2, width // 4, at(8)) + norm(width // 4)
    rows += conv(3, width // 4, width // 4, at(4)) + norm(width // 4)
    return rows + conv(1, width // 4, CLASSES, at(4))


def exfuse_embedding() -> Rows:
    """Semantic embedding: each higher stage's 3x3 is applied before it is resized."""
    rows: Rows = []
    for level in range(3):
        for higher in range(level + 1, 4):
            pixels = at(4 * 2**higher)
            rows += conv_bias(3, RESNET_WIDTHS[higher], RESNET_WIDTHS[level], pixels)
    return rows
