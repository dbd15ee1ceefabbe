"""Segmentation networks: one row an architecture."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from adapt.errors import JobError, known_names
from adapt.models.deeplab_v2 import DeepLabV2Config, DeepLabV2Decoder
from adapt.models.encoder import Encoder, load_encoder_weights
from adapt.models.segmenter import Decoder, Segmenter, SegmenterConfig


class Row(NamedTuple):
    """One architecture: its section of the job spec, its decoder, and what it is in one line."""

    config: type[SegmenterConfig]
    decoder: Callable[..., Decoder]
    description: str


ARCHITECTURES: dict[str, Row] = {
    "deeplab_v2": Row(
        DeepLabV2Config,
        DeepLabV2Decoder,
        "DeepLabV2 with an auxiliary head: the network of the UDA papers",
    ),
}


def build_segmenter(
    config: SegmenterConfig, num_classes: int, encoder_weights: Mapping[str, Tensor] | None = None
) -> Segmenter:
    """The network that the job spec's `model` describes, on the CPU.

    `encoder_weights`, what `read_weights` found at `config.weights_uri`, go before
    `config.weights`. With `config.start_uri` the network is left random, for
    `Segmenter.load_weights`. Raises `JobError` for an unknown architecture or encoder, and where
    the pretrained weights do not fit or cannot be had.
    """
    needs_file = config.weights_uri is not None and config.start_uri is None
    if needs_file and encoder_weights is None:
        raise ValueError("the weights at weights_uri must be read and passed as encoder_weights")
    if config.architecture not in ARCHITECTURES:
        raise JobError(f"model.architecture: {known_names(config.architecture, ARCHITECTURES)}")
    encoder = Encoder(config.encoder, config.output_stride)
    if encoder_weights is None and config.weights == "imagenet" and config.start_uri is None:
        from adapt.models.pretrained import imagenet_weights

        encoder_weights = imagenet_weights(config.encoder)
    if encoder_weights is not None:
        load_encoder_weights(encoder, encoder_weights)
    decoder = ARCHITECTURES[config.architecture].decoder(config, encoder, num_classes)
    return Segmenter(config, encoder, decoder, num_classes)
