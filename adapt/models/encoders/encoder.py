"""An encoder: images (B, 3, H, W) in, stages out, shallow to deep.

Each kind of encoder defines how it takes weights, because names and shapes do not suffice:
Caffe's ResNet-101 and torchvision's share both and compute different things.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.batch import PixelFormat
from adapt.errors import JobError
from adapt.models.weights import misfit

CAFFE_PIXELS = PixelFormat(
    mean=(104.00698793, 116.66876762, 122.67891434), std=(1.0, 1.0, 1.0), bgr=True
)
"""Input of the networks whose weights come from Caffe: BGR from 0 to 255, minus ImageNet's mean."""

IMAGENET_PIXELS = PixelFormat(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Input of most networks: RGB from 0 to 1, standardised by ImageNet's statistics."""

UNDILATED_STRIDE = 32
"""Output stride of most networks for classification, before any stride becomes dilation."""

WEIGHTS_KEY = "model.weights_uri"


class LoadReport(NamedTuple):
    """How many tensors an encoder took, and the names of those that it knowingly left out."""

    loaded: int
    dropped: tuple[str, ...]


class Encoder(nn.Module, ABC):
    """A network that returns its stages, with random weights at first.

    `channels` and `reductions` (input pixels per output pixel, a side) describe the stages, shallow
    to deep; no stage is reduced by more than `output_stride`. `pixels` is the input its pretrained
    weights expect. `left_out` names the frozen parameters that checkpoints do not have.
    """

    name: str
    output_stride: int
    channels: tuple[int, ...]
    reductions: tuple[int, ...]
    pixels: PixelFormat
    left_out: frozenset[str] = frozenset()

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> stages (B, C, h, w), shallow to deep."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> LoadReport:
        """Copy pretrained weights, by name.

        Raises `JobError` naming the first keys that are missing, unexpected or of another shape.
        """

    @abstractmethod
    def multiplicities(self) -> dict[str, int]:
        """How often the papers' optimizer lists each parameter, by its name within the encoder.

        Raises `JobError` where no program of the papers trains this encoder.
        """

    @property
    def smallest_side_px(self) -> int:
        """The shortest side of images of which a pixel is left in the deepest stage."""
        return max(self.reductions)

    @property
    def multiple_px(self) -> int:
        """Sides of images are padded to multiples of it."""
        return 1

    def blocks(self) -> list[nn.Module]:
        """The blocks of a transformer or a CNN (its convolutions where it has none), shallow to
        deep.

        Adapters, layer-wise learning rates and activation checkpointing go by them.
        """
        return blocks_of(self)

    def imagenet_weights(self) -> Mapping[str, Tensor]:
        """Weights for `load` that can be had without a file. Raises `JobError` where there are
        none.
        """
        raise JobError(
            f"model.weights: expected none with encoder {self.name!r}, got imagenet: no hub has "
            "its weights",
            fix="set model.weights_uri to a file that import-checkpoint made of the papers', or "
            "model.weights: none to start from random ones",
        )

    def set_drop_path(self, chance: float) -> None:
        """Set the stochastic depth of the last block; it rises from 0 at the first.

        Raises `JobError` for an encoder without.
        """
        raise no_drop_path(self.name, chance)

    def stage_at(self, reduction: int) -> int:
        """Number of the deepest stage with this reduction, counted from the shallowest, 0.

        What an architecture needs is in its `Demands`, so the stage is there.
        """
        return max(index for index, own in enumerate(self.reductions) if own == reduction)

    def channels_at(self, reduction: int) -> int:
        """Channels of that stage."""
        return self.channels[self.stage_at(reduction)]

    def spread(self, units: Sequence[int]) -> None:
        """Multi-grid (Chen et al., DeepLabV3, 2017): dilate the last convolutions unequally.

        The last `len(units)` convolutions of 3x3 or more, three in a ResNet's last stage, get
        `units` times the dilation that the very last one has.
        """
        convs = [one for one in self.modules() if isinstance(one, nn.Conv2d)]
        spatial = [conv for conv in convs if max(conv.kernel_size) > 2]
        rate = spatial[-1].dilation[0]
        for conv, unit in zip(spatial[-len(units) :], units, strict=True):
            conv.dilation = (unit * rate, unit * rate)
            conv.padding = tuple(unit * rate * (size - 1) // 2 for size in conv.kernel_size)

    def norms(self) -> Iterator[_BatchNorm]:
        """Every batch normalisation."""
        return (module for module in self.modules() if isinstance(module, _BatchNorm))


class PlainEncoder(Encoder):
    """An encoder that its paper trains from scratch, with the rest of its network.

    `JobError` for another output stride than its own, of which there is one.
    """

    def __init__(
        self, name: str, output_stride: int, channels: tuple[int, ...], reductions: tuple[int, ...]
    ) -> None:
        super().__init__()
        if output_stride != reductions[-1]:
            raise wrong_output_stride(name, reductions[-1], output_stride)
        self.name, self.output_stride, self.pixels = name, output_stride, IMAGENET_PIXELS
        self.channels, self.reductions = channels, reductions

    def load(self, state: Mapping[str, Tensor]) -> LoadReport:
        """As the contract says; all tensors under their own names."""
        differences = misfit(self.state_dict(), state)
        if differences:
            raise JobError(
                f"{WEIGHTS_KEY}: expected weights of encoder {self.name!r}, got others "
                f"({differences})"
            )
        self.load_state_dict(state, strict=False)
        return LoadReport(len(state), ())

    def multiplicities(self) -> dict[str, int]:
        """There are none: the papers' programs train Caffe's networks alone."""
        raise no_multiplicity(self.name)

    def imagenet_weights(self) -> Mapping[str, Tensor]:
        """There are none anywhere: `JobError`."""
        raise JobError(
            f"model.weights: expected none with encoder {self.name!r}, got imagenet: its paper "
            "trains it from scratch and no hub has its weights",
            fix="set model.weights: none",
        )


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network, or its convolutions where it has none, shallow to deep."""
    parts = [part for part in _without_containers(network) if [*part.parameters()]]
    blocks = [part for part in parts if [*part.children()]]
    return blocks or [part for part in parts if isinstance(part, nn.Conv2d)]


def _without_containers(module: nn.Module) -> Iterator[nn.Module]:
    """The modules below a network that are no plain lists of others."""
    for child in module.children():
        if type(child) in (nn.Sequential, nn.ModuleList):
            yield from _without_containers(child)
        else:
            yield child


def no_multiplicity(name: str) -> JobError:
    """The error to raise for an encoder that no program of the papers trains."""
    return JobError(
        f"optim.sgd_multiplicity: expected none with encoder {name!r}, got another: the "
        "papers' programs train only the encoders caffe_*"
    )


def no_drop_path(name: str, found: float) -> JobError:
    """The error to raise for an encoder whose blocks are never left out."""
    return JobError(
        f"model.drop_path: expected null with encoder {name!r}, which has no stochastic depth, "
        f"got {found}",
        fix="remove it, or choose one of timm's transformers, ConvNeXts or ResNets",
    )


def wrong_output_stride(name: str, only: int, found: int) -> JobError:
    """The error to raise where encoder `name` has one output stride and the spec asks for
    another.
    """
    return JobError(
        f"model.output_stride: expected {only}, the only one of encoder {name!r}, got {found}"
    )
