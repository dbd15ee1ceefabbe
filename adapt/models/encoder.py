"""What an encoder is: images (B, 3, H, W) in, stages out, shallow to deep.

Each kind of encoder says itself how it takes weights, because names and shapes do not tell all:
Caffe's ResNet-101 and torchvision's share both and compute different things.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.batch import PixelFormat
from adapt.errors import JobError

CAFFE_PIXELS = PixelFormat(
    mean=(104.00698793, 116.66876762, 122.67891434), std=(1.0, 1.0, 1.0), bgr=True
)
"""Input of the networks whose weights come from Caffe: BGR from 0 to 255, minus ImageNet's mean."""

WEIGHTS_KEY = "model.weights_uri"


class LoadReport(NamedTuple):
    """How many tensors an encoder took, and the names of those that it knowingly left out."""

    loaded: int
    dropped: tuple[str, ...]


class Encoder(nn.Module, ABC):
    """A network that returns its stages, with random weights at first.

    `channels` and `reductions` (input pixels per output pixel, a side) describe the stages, shallow
    to deep; no stage is reduced by more than `output_stride`. `pixels` is the input its pretrained
    weights expect.
    """

    name: str
    output_stride: int
    channels: tuple[int, ...]
    reductions: tuple[int, ...]
    pixels: PixelFormat

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

    def imagenet_weights(self) -> Mapping[str, Tensor]:
        """Weights for `load` that can be had without a file. Raises `JobError` where there are
        none.
        """
        raise JobError(
            f"model.weights: expected none with encoder {self.name!r}, found imagenet: no hub has "
            "its weights; set model.weights_uri to a file that import-checkpoint made of the "
            "papers', or model.weights: none to start from random ones"
        )

    def norms(self) -> Iterator[_BatchNorm]:
        """Every batch normalisation."""
        return (module for module in self.modules() if isinstance(module, _BatchNorm))


def wrong_output_stride(name: str, only: int, found: int) -> JobError:
    """The error to raise where encoder `name` has one output stride and the spec asks for
    another.
    """
    return JobError(
        f"model.output_stride: expected {only}, the only one of encoder {name!r}, found {found}"
    )
