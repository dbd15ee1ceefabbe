"""Segmentation networks: one row an architecture, one row an encoder that is not timm's."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor

from adapt.batch import IGNORED
from adapt.config.section import one_of
from adapt.config.validation import validate
from adapt.errors import JobError, known_names
from adapt.models.adapters.attach import attach
from adapt.models.config import SegmenterConfig
from adapt.models.decoders.bisenet import BiSeNetDecoder
from adapt.models.decoders.daformer_head import DAFormerHeadDecoder
from adapt.models.decoders.deeplab_v2 import DeepLabV2Decoder
from adapt.models.decoders.deeplab_v3 import DeepLabV3Decoder
from adapt.models.decoders.deeplab_v3_plus import DeepLabV3PlusDecoder
from adapt.models.decoders.dense_decoder_shortcuts import DenseDecoderShortcutsDecoder
from adapt.models.decoders.denseaspp import DenseASPPDecoder
from adapt.models.decoders.dfn import DFNDecoder
from adapt.models.decoders.encnet import EncNetDecoder
from adapt.models.decoders.exfuse import ExFuseDecoder
from adapt.models.decoders.fc_densenet import FCDenseNetDecoder
from adapt.models.decoders.frrn import FRRNDecoder
from adapt.models.decoders.gcn import GCNDecoder
from adapt.models.decoders.icnet import ICNetDecoder
from adapt.models.decoders.linear import LinearDecoder
from adapt.models.decoders.pspnet import PSPNetDecoder
from adapt.models.decoders.refinenet import RefineNetDecoder
from adapt.models.decoders.segformer import SegFormerDecoder
from adapt.models.decoders.unet import UNetDecoder, UNetEncoder
from adapt.models.decoders.vfm_head import VFMHeadDecoder
from adapt.models.encoders.caffe_resnet import CaffeResNet
from adapt.models.encoders.caffe_vgg import CaffeVGG16
from adapt.models.encoders.encoder import Encoder
from adapt.models.encoders.fc_densenet import FCDenseNetEncoder
from adapt.models.encoders.frrn import FRRNEncoder
from adapt.models.encoders.icnet import ICNetEncoder
from adapt.models.encoders.mit import SIZES as MIT_SIZES
from adapt.models.encoders.mit import MiT
from adapt.models.encoders.resize_pyramid import ResizePyramid
from adapt.models.encoders.timm import TimmEncoder, timm_knows, timm_names_like
from adapt.models.encoders.vit import ViTEncoder, is_vit
from adapt.models.licences import check_licence
from adapt.models.segmenter import Decoder, Segmenter

ARCHITECTURES: dict[str, type[Decoder]] = {
    "unet": UNetDecoder,
    "frrn": FRRNDecoder,
    "pspnet": PSPNetDecoder,
    "fc_densenet": FCDenseNetDecoder,
    "deeplab_v2": DeepLabV2Decoder,
    "deeplab_v3": DeepLabV3Decoder,
    "deeplab_v3_plus": DeepLabV3PlusDecoder,
    "refinenet": RefineNetDecoder,
    "gcn": GCNDecoder,
    "icnet": ICNetDecoder,
    "dfn": DFNDecoder,
    "denseaspp": DenseASPPDecoder,
    "encnet": EncNetDecoder,
    "dense_decoder_shortcuts": DenseDecoderShortcutsDecoder,
    "bisenet": BiSeNetDecoder,
    "exfuse": ExFuseDecoder,
    "segformer": SegFormerDecoder,
    "daformer_head": DAFormerHeadDecoder,
    "linear": LinearDecoder,
    "vfm_head": VFMHeadDecoder,
}
"""By the spec's `model.architecture`."""

ModelSection: Any = one_of((row.Config for row in ARCHITECTURES.values()), "architecture")
"""The job spec's `model`: the config of one of `ARCHITECTURES`."""

ENCODERS: dict[str, Callable[[str, int], Encoder]] = {
    "caffe_resnet101": CaffeResNet,
    "caffe_resnet50": CaffeResNet,
    "caffe_resnet14": CaffeResNet,
    "caffe_vgg16": CaffeVGG16,
    "unet": UNetEncoder,
    "frrn_a": FRRNEncoder,
    "frrn_b": FRRNEncoder,
    "fc_densenet56": FCDenseNetEncoder,
    "fc_densenet67": FCDenseNetEncoder,
    "fc_densenet103": FCDenseNetEncoder,
    "icnet_resnet50": ICNetEncoder,
    **dict.fromkeys(MIT_SIZES, MiT),
}
"""Encoders of our own, as the papers have them; any other name is timm's."""


def build_segmenter(
    config: SegmenterConfig | Mapping[str, Any],
    num_classes: int = 19,
    encoder_weights: Mapping[str, Tensor] | None = None,
    start_adapters: bool = True,
) -> Segmenter:
    """The segmentation network that the job spec's `model` describes, on the CPU.

    `config` may be plain values, such as `{"architecture": "deeplab_v2", "weights": "none"}`.
    `encoder_weights`, what `read_weights` found at `config.weights_uri`, go before
    `config.weights`. With `config.start_uri` the network is left random, for
    `Segmenter.load_weights`; its adapters are started later then, as without `start_adapters`.
    Raises `JobError` for values that do not make a config, for an unknown architecture or encoder,
    for more classes than train ids count or none, where the encoder has no layers for the adapters,
    and where the pretrained weights do not fit or cannot be had.
    """
    if not isinstance(config, SegmenterConfig):
        values = dict(config) if isinstance(config, Mapping) else config
        config = cast(SegmenterConfig, validate(ModelSection, values, "model"))
    _check_num_classes(num_classes)
    needs_file = config.weights_uri is not None and config.start_uri is None
    if needs_file and encoder_weights is None:
        raise ValueError("the weights at weights_uri must be read and passed as encoder_weights")
    row = _architecture(config.architecture)
    check_licence(config)
    encoder = build_encoder(
        config.encoder, config.output_stride, row.demands.equal_strides, config.drop_path
    )
    row.demands.check(config.architecture, encoder)
    if encoder_weights is None and config.weights == "imagenet" and config.start_uri is None:
        encoder_weights = encoder.imagenet_weights()
    if encoder_weights is not None:
        encoder.load(encoder_weights)
    decoder = cast(Callable[..., Decoder], row)(config, encoder, num_classes)
    segmenter = Segmenter(config, encoder, decoder, num_classes)
    if config.adapters is not None:
        attach(encoder, config.adapters)
    if start_adapters and config.start_uri is None:
        segmenter.start_adapters()
    return segmenter


def build_encoder(
    name: str,
    output_stride: int | None,
    equal_strides: bool = False,
    drop_path: float | None = None,
) -> Encoder:
    """The encoder of this name with random weights: a row of `ENCODERS`, or one of timm's.

    `equal_strides`: a vision transformer's own stages, with patches of `output_stride` pixels, by
    default its own; else they are resized to a pyramid down to it. `drop_path`: stochastic depth,
    by default the encoder's own. Raises `JobError` for a name that neither has, and for an output
    stride or stochastic depth that it cannot have.
    """
    transformer = is_transformer(name)
    if equal_strides and not transformer and (name in ENCODERS or timm_knows(name)):
        raise JobError(
            f"model.encoder: expected a vision transformer, whose stages are of one stride, got "
            f"{name!r}",
            fix="set model.encoder: vit_base_patch14_dinov2, or choose another architecture",
        )
    if name in ENCODERS:
        encoder = ENCODERS[name](name, _stride(output_stride))
        if drop_path is not None:
            encoder.set_drop_path(drop_path)
        return encoder
    if not timm_knows(name):
        raise JobError(
            "model.encoder: expected one of the papers' or a name that timm knows, "
            f"{known_names(name, [*ENCODERS, *timm_names_like(name)])}"
        )
    if equal_strides:
        return ViTEncoder(name, output_stride, drop_path)
    if transformer:
        return ResizePyramid(name, _stride(output_stride), drop_path)
    return TimmEncoder(name, _stride(output_stride), drop_path)


def is_transformer(name: str) -> bool:
    """True for the name of a vision transformer, which gives stages of one stride or a pyramid."""
    return name not in ENCODERS and timm_knows(name) and is_vit(name)


def _stride(output_stride: int | None) -> int:
    """`JobError` where the architecture has a default for vision transformers alone."""
    if output_stride is None:
        raise JobError("model.output_stride: expected 8, 16 or 32, got null")
    return output_stride


def _check_num_classes(number: int) -> None:
    if type(number) is not int or not 1 <= number <= IGNORED:
        raise JobError(f"num_classes: expected an integer from 1 to {IGNORED}, got {number!r}")


def _architecture(name: str) -> type[Decoder]:
    if name not in ARCHITECTURES:
        raise JobError(
            f"model.architecture: expected a known name, {known_names(name, ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]
