"""Segmentation networks: one row an architecture, one row an encoder that is not timm's."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from torch import Tensor

from adapt.config.section import one_of
from adapt.config.validation import validate
from adapt.errors import JobError, known_names
from adapt.models.config import SegmenterConfig
from adapt.models.decoders import (
    bisenet,
    deeplab_v2,
    deeplab_v3,
    deeplab_v3_plus,
    dense_decoder_shortcuts,
    denseaspp,
    dfn,
    encnet,
    exfuse,
    fc_densenet,
    frrn,
    gcn,
    icnet,
    pspnet,
    refinenet,
    unet,
)
from adapt.models.demands import PYRAMID, Demands
from adapt.models.encoders.caffe_resnet import CaffeResNet
from adapt.models.encoders.caffe_vgg import CaffeVGG16
from adapt.models.encoders.encoder import Encoder
from adapt.models.encoders.fc_densenet import FCDenseNetEncoder
from adapt.models.encoders.frrn import FRRNEncoder
from adapt.models.encoders.icnet import ICNetEncoder
from adapt.models.encoders.timm import TimmEncoder, timm_knows, timm_names_like
from adapt.models.segmenter import Decoder, Segmenter


class Row(NamedTuple):
    """One architecture: its section of the job spec, its decoder, what it is in one line, and what
    it demands of its encoder."""

    config: type[SegmenterConfig]
    decoder: Callable[..., Decoder]
    description: str
    demands: Demands = Demands()


ARCHITECTURES: dict[str, Row] = {
    "unet": Row(
        unet.UNetConfig,
        unet.UNetDecoder,
        "U-Net: contracting and expanding path, joined at every size",
        unet.DEMANDS,
    ),
    "frrn": Row(
        frrn.FRRNConfig,
        frrn.FRRNDecoder,
        "FRRN: a stream at full resolution beside a pooling one",
        frrn.DEMANDS,
    ),
    "pspnet": Row(
        pspnet.PSPNetConfig, pspnet.PSPNetDecoder, "PSPNet: averages over four grids as context"
    ),
    "fc_densenet": Row(
        fc_densenet.FCDenseNetConfig,
        fc_densenet.FCDenseNetDecoder,
        "FC-DenseNet: dense blocks down and up, the tiramisu",
        fc_densenet.DEMANDS,
    ),
    "deeplab_v2": Row(
        deeplab_v2.DeepLabV2Config,
        deeplab_v2.DeepLabV2Decoder,
        "DeepLabV2: sums of dilated convolutions: the network of the UDA papers",
    ),
    "deeplab_v3": Row(
        deeplab_v3.DeepLabV3Config,
        deeplab_v3.DeepLabV3Decoder,
        "DeepLabV3: dilated convolutions and the image's average, side by side",
    ),
    "deeplab_v3_plus": Row(
        deeplab_v3_plus.DeepLabV3PlusConfig,
        deeplab_v3_plus.DeepLabV3PlusDecoder,
        "DeepLabV3+: DeepLabV3, refined at a quarter of the size",
        deeplab_v3_plus.DEMANDS,
    ),
    "refinenet": Row(
        refinenet.RefineNetConfig,
        refinenet.RefineNetDecoder,
        "RefineNet: a cascade of residual refinements, deep to shallow",
        PYRAMID,
    ),
    "gcn": Row(
        gcn.GCNConfig, gcn.GCNDecoder, "GCN: large separable kernels on score maps", PYRAMID
    ),
    "icnet": Row(
        icnet.ICNetConfig,
        icnet.ICNetDecoder,
        "ICNet: a cascade of three image sizes, for speed",
        icnet.DEMANDS,
    ),
    "dfn": Row(
        dfn.DFNConfig,
        dfn.DFNDecoder,
        "DFN: channel attention, and a second network for borders",
        PYRAMID,
    ),
    "denseaspp": Row(
        denseaspp.DenseASPPConfig,
        denseaspp.DenseASPPDecoder,
        "DenseASPP: dilated convolutions, densely connected",
    ),
    "encnet": Row(
        encnet.EncNetConfig,
        encnet.EncNetDecoder,
        "EncNet: channels weighed by what the scene holds",
        encnet.DEMANDS,
    ),
    "dense_decoder_shortcuts": Row(
        dense_decoder_shortcuts.DenseDecoderShortcutsConfig,
        dense_decoder_shortcuts.DenseDecoderShortcutsDecoder,
        "Dense decoder shortcuts: each decoder level reads all deeper ones",
        PYRAMID,
    ),
    "bisenet": Row(
        bisenet.BiSeNetConfig,
        bisenet.BiSeNetDecoder,
        "BiSeNet: a path for detail beside one for context, for speed",
        bisenet.DEMANDS,
    ),
    "exfuse": Row(
        exfuse.ExFuseConfig,
        exfuse.ExFuseDecoder,
        "ExFuse: GCN with semantics in shallow and detail in deep stages",
        PYRAMID,
    ),
}

ModelSection: Any = one_of((row.config for row in ARCHITECTURES.values()), "architecture")
"""The job spec's `model`: the config of one of `ARCHITECTURES`."""

ENCODERS: dict[str, Callable[[str, int], Encoder]] = {
    "caffe_resnet101": CaffeResNet,
    "caffe_resnet50": CaffeResNet,
    "caffe_resnet14": CaffeResNet,
    "caffe_vgg16": CaffeVGG16,
    "unet": unet.UNetEncoder,
    "frrn_a": FRRNEncoder,
    "frrn_b": FRRNEncoder,
    "fc_densenet56": FCDenseNetEncoder,
    "fc_densenet67": FCDenseNetEncoder,
    "fc_densenet103": FCDenseNetEncoder,
    "icnet_resnet50": ICNetEncoder,
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
    if isinstance(config, Mapping):
        config = cast(SegmenterConfig, validate(ModelSection, dict(config), "model"))
    needs_file = config.weights_uri is not None and config.start_uri is None
    if needs_file and encoder_weights is None:
        raise ValueError("the weights at weights_uri must be read and passed as encoder_weights")
    row = _architecture(config.architecture)
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


def _architecture(name: str) -> Row:
    if name not in ARCHITECTURES:
        known = known_names(name, ARCHITECTURES)
        raise JobError(f"model.architecture: expected a known name, {known}")
    return ARCHITECTURES[name]
