"""Segmentation networks: one row an architecture, one row an encoder that is not timm's."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from adapt.errors import JobError, known_names
from adapt.models.caffe_resnet import CaffeResNet
from adapt.models.caffe_vgg import CaffeVGG16
from adapt.models.deeplab_v2 import DeepLabV2Config, DeepLabV2Decoder
from adapt.models.demands import Demands
from adapt.models.encoder import Encoder
from adapt.models.segmenter import Decoder, Segmenter, SegmenterConfig
from adapt.models.timm_encoder import TimmEncoder, timm_knows, timm_names_like


class Row(NamedTuple):
    """One architecture: its section of the job spec, its decoder, what it is in one line, and what
    it demands of its encoder."""

    config: type[SegmenterConfig]
    decoder: Callable[..., Decoder]
    description: str
    demands: Demands = Demands()


ARCHITECTURES: dict[str, Row] = {
    "deeplab_v2": Row(
        DeepLabV2Config,
        DeepLabV2Decoder,
        "DeepLabV2 with an auxiliary head: the network of the UDA papers",
    ),
}

ENCODERS: dict[str, Callable[[str, int], Encoder]] = {
    "caffe_resnet101": CaffeResNet,
    "caffe_resnet50": CaffeResNet,
    "caffe_resnet14": CaffeResNet,
    "caffe_vgg16": CaffeVGG16,
}
"""Encoders of our own, as the papers have them; any other name is timm's."""


def build_segmenter(
    config: SegmenterConfig | Mapping[str, Any],
    num_classes: int = 19,
    encoder_weights: Mapping[str, Tensor] | None = None,
) -> Segmenter:
    """The segmentation network that the job spec's `model` describes, on the CPU.

    `config` may be plain values, such as `{"architecture": "deeplab_v2", "weights": "none"}`.
    `encoder_weights`, what `read_weights` found at `config.weights_uri`, go before
    `config.weights`. With `config.start_uri` the network is left random, for
    `Segmenter.load_weights`. Raises `JobError` for values that do not make a config, for an unknown
    architecture or encoder, and where the pretrained weights do not fit or cannot be had.
    """
    if not isinstance(config, SegmenterConfig):
        config = _row(config.get("architecture")).config.from_values(config, "model")
    needs_file = config.weights_uri is not None and config.start_uri is None
    if needs_file and encoder_weights is None:
        raise ValueError("the weights at weights_uri must be read and passed as encoder_weights")
    row = _row(config.architecture)
    encoder = build_encoder(config.encoder, config.output_stride)
    row.demands.check(config.architecture, encoder)
    if encoder_weights is None and config.weights == "imagenet" and config.start_uri is None:
        encoder_weights = encoder.imagenet_weights()
    if encoder_weights is not None:
        encoder.load(encoder_weights)
    return Segmenter(config, encoder, row.decoder(config, encoder, num_classes), num_classes)


def build_encoder(name: str, output_stride: int) -> Encoder:
    """The encoder of this name with random weights: a row of `ENCODERS`, or one of timm's.

    Raises `JobError` for a name that neither has, and for an output stride it cannot have.
    """
    if name in ENCODERS:
        return ENCODERS[name](name, output_stride)
    if not timm_knows(name):
        raise JobError(
            "model.encoder: expected one of the papers' or a name that timm knows, "
            f"{known_names(name, [*ENCODERS, *timm_names_like(name)])}"
        )
    return TimmEncoder(name, output_stride)


def _row(architecture: Any) -> Row:
    if architecture not in ARCHITECTURES:
        raise JobError(f"model.architecture: {known_names(architecture, ARCHITECTURES)}")
    return ARCHITECTURES[architecture]
