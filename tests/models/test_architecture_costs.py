"""Every architecture's parameters, multiply-accumulates and dilations against its paper's table."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adapt.models import build_segmenter
from adapt.models.segmenter import Segmenter
from tests.models import architecture_tables as tables
from tests.models.architecture_tables import Rows, at, fcn_head

torch.set_num_threads(1)

ENCODER_PARAMETERS = {
    "caffe_resnet101": 42_500_160,
    "resnet18": 11_176_512,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
    "resnet50s": 23_631_808,
    "resnet101s": 42_623_936,
    "densenet121": 6_953_856,
    "densenet161": 26_472_000,
    "densenet169": 12_484_480,
    "densenet201": 18_092_928,
    "vit_tiny_patch16_224": 5_524_416,
    "mit_b0": 3_319_392,
    "mit_b5": 81_443_008,
}
"""Of encoders that many architectures share; a network with one of its own is measured whole."""

NO_MEMORY = torch.device("meta")
"""Tensors of shapes alone."""

COUNTED = (torch.ops.aten.convolution, torch.ops.aten.addmm)
"""Convolutions and fully connected layers: products within EncNet's encoding are neither."""


class Case(NamedTuple):
    """One network: what `build_segmenter` is asked for, its published parameters, its table."""

    architecture: str
    encoder: str
    output_stride: int
    parameters: int
    rows: Rows
    options: dict[str, Any]

    def __str__(self) -> str:
        values = (self.encoder, self.output_stride, *self.options.values())
        return "-".join(map(str, (self.architecture, *values)))


WITH, WITHOUT = {"aux": True}, {"aux": False}
ALL_STAGES = {"aux": False, "stages": "all"}
PSPNET, PSPNET_AUX = tables.pspnet(), tables.pspnet() + fcn_head(1024, at(8))
V2, V2_AUX = tables.deeplab_v2(2048), tables.deeplab_v2(2048) + tables.deeplab_v2(1024)
V3, V3_AUX = tables.deeplab_v3(8), tables.deeplab_v3(8) + fcn_head(1024, at(8))
ENCNET, LATERAL = (tables.encnet(lateral) + fcn_head(1024, at(8)) for lateral in (False, True))
SEGFORMER_B0 = tables.segformer(tables.MIT_WIDTHS["mit_b0"], 256)
SEGFORMER_B5 = tables.segformer(tables.MIT_WIDTHS["mit_b5"], 768)
DAFORMER_HEAD = tables.daformer_head(tables.MIT_WIDTHS["mit_b5"])
DAFORMER_RESNET = tables.daformer_head(tables.RESNET_WIDTHS)
ENCNET_OPTIONS, LATERAL_OPTIONS = ({"aux": True, "lateral": one} for one in (False, True))

CASES = (
    Case("unet", "unet", 16, 31_032_915, tables.unet(), WITHOUT),
    Case("frrn", "frrn_a", 16, 17_746_803, tables.frrn(tables.FRRN_A), WITHOUT),
    Case("frrn", "frrn_b", 32, 24_755_699, tables.frrn(tables.FRRN_B), WITHOUT),
    Case("fc_densenet", "fc_densenet56", 32, 1_378_339, tables.fc_densenet_56(), WITHOUT),
    Case("fc_densenet", "fc_densenet67", 32, 3_465_555, tables.fc_densenet_67(), WITHOUT),
    Case("fc_densenet", "fc_densenet103", 32, 9_324_147, tables.fc_densenet_103(), WITHOUT),
    Case("pspnet", "resnet50s", 8, 46_715_347, PSPNET, WITHOUT),
    Case("pspnet", "resnet50s", 8, 49_080_038, PSPNET_AUX, WITH),
    Case("pspnet", "resnet50", 8, 46_591_571, PSPNET, WITHOUT),
    Case("pspnet", "resnet50", 8, 48_956_262, PSPNET_AUX, WITH),
    Case("pspnet", "resnet101s", 8, 68_072_166, PSPNET_AUX, WITH),
    Case("deeplab_v2", "caffe_resnet101", 8, 43_901_068, V2, WITHOUT),
    Case("deeplab_v2", "caffe_resnet101", 8, 44_601_560, V2_AUX, WITH),
    Case("deeplab_v3", "resnet50", 8, 39_638_355, V3, WITHOUT),
    Case("deeplab_v3", "resnet50", 16, 39_638_355, tables.deeplab_v3(16), WITHOUT),
    Case("deeplab_v3", "resnet50", 8, 42_003_046, V3_AUX, WITH),
    Case("deeplab_v3", "resnet101", 8, 60_995_174, V3_AUX, WITH),
    Case("deeplab_v3_plus", "resnet50", 16, 40_351_667, tables.deeplab_v3_plus(16), WITHOUT),
    Case("deeplab_v3_plus", "resnet50", 8, 40_351_667, tables.deeplab_v3_plus(8), WITHOUT),
    Case("deeplab_v3_plus", "resnet101", 16, 59_343_795, tables.deeplab_v3_plus(16), WITHOUT),
    Case("refinenet", "resnet50", 32, 99_055_699, tables.refinenet(), WITHOUT),
    Case("refinenet", "resnet101", 32, 118_047_827, tables.refinenet(), WITHOUT),
    Case("refinenet", "resnet152", 32, 133_691_475, tables.refinenet(), WITHOUT),
    Case("gcn", "resnet50", 32, 24_608_816, tables.gcn(7), {"kernel_size": 7}),
    Case("gcn", "resnet50", 32, 25_799_280, tables.gcn(15), {"kernel_size": 15}),
    Case("gcn", "resnet101", 32, 43_600_944, tables.gcn(7), {"kernel_size": 7}),
    Case("gcn", "resnet152", 32, 59_244_592, tables.gcn(7), {"kernel_size": 7}),
    Case("icnet", "icnet_resnet50", 32, 6_699_987, tables.icnet(), WITHOUT),
    Case("icnet", "icnet_resnet50", 32, 6_707_321, tables.icnet() + tables.icnet_aux(), WITH),
    Case("dfn", "resnet50s", 32, 71_225_760, tables.dfn(), {}),
    Case("dfn", "resnet101s", 32, 90_217_888, tables.dfn(), {}),
    Case("denseaspp", "densenet121", 8, 8_280_851, tables.denseaspp(1024, 128, 64), WITHOUT),
    Case("denseaspp", "densenet161", 8, 35_395_427, tables.denseaspp(2208, 512, 128), WITHOUT),
    Case("denseaspp", "densenet169", 8, 18_420_675, tables.denseaspp(1664, 336, 168), WITHOUT),
    Case("denseaspp", "densenet201", 8, 28_639_987, tables.denseaspp(1920, 480, 240), WITHOUT),
    Case("encnet", "resnet50", 8, 35_872_729, ENCNET, ENCNET_OPTIONS),
    Case("encnet", "resnet50", 8, 43_740_121, LATERAL, LATERAL_OPTIONS),
    Case("encnet", "resnet50s", 8, 35_996_505, ENCNET, ENCNET_OPTIONS),
    Case("encnet", "resnet50s", 8, 43_863_897, LATERAL, LATERAL_OPTIONS),
    Case("encnet", "resnet101s", 8, 54_988_633, ENCNET, ENCNET_OPTIONS),
    Case("encnet", "resnet101s", 8, 62_856_025, LATERAL, LATERAL_OPTIONS),
    Case("bisenet", "resnet18", 32, 13_494_777, tables.bisenet() + tables.bisenet_aux(), WITH),
    Case("segformer", "mit_b0", 32, 3_719_027, SEGFORMER_B0, WITHOUT),
    Case("segformer", "mit_b5", 32, 84_607_955, SEGFORMER_B5, WITHOUT),
    Case("daformer_head", "mit_b5", 32, 85_155_283, DAFORMER_HEAD, WITHOUT),
    Case("daformer_head", "resnet101", 32, 46_933_331, DAFORMER_RESNET, WITHOUT),
    Case("linear", "vit_tiny_patch16_224", 16, 5_528_467, tables.linear(192, 1), WITHOUT),
    Case("linear", "vit_tiny_patch16_224", 16, 5_540_563, tables.linear(192, 4), ALL_STAGES),
    Case("vfm_head", "vit_tiny_patch16_224", 16, 5_638_608, tables.vfm_head(192), WITHOUT),
)


def _build(architecture: str, encoder: str, output_stride: int, **options: Any) -> Segmenter:
    values = {"architecture": architecture, "encoder": encoder, "output_stride": output_stride}
    with NO_MEMORY:
        return build_segmenter({**values, "weights": "none", **options}, tables.CLASSES).eval()


def _images() -> Tensor:
    return torch.empty(1, 3, *tables.IMAGE_HW)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def _decoder_macs(segmenter: Segmenter) -> int:
    with NO_MEMORY:
        images = _images()
        features = segmenter.encoder(images)
        with FlopCounterMode(display=False) as counter:
            segmenter.decoder(images, features)
    return _counted_macs(counter)


@torch.no_grad()
def _whole_macs(segmenter: Segmenter) -> int:
    with NO_MEMORY, FlopCounterMode(display=False) as counter:
        segmenter(_images())
    return _counted_macs(counter)


def _counted_macs(counter: FlopCounterMode) -> int:
    by_operation = counter.get_flop_counts()["Global"]
    return sum(by_operation.get(operation, 0) for operation in COUNTED) // 2


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def segmenter(case: Case) -> Segmenter:
    return _build(case.architecture, case.encoder, case.output_stride, **case.options)


def test_the_table_has_the_published_parameters(case: Case) -> None:
    in_table = sum(row.parameters for row in case.rows)
    assert in_table + ENCODER_PARAMETERS.get(case.encoder, 0) == case.parameters


@pytest.mark.slow
def test_parameters_are_the_published_ones(case: Case, segmenter: Segmenter) -> None:
    assert _parameters(segmenter) == case.parameters
    if case.encoder in ENCODER_PARAMETERS:
        assert _parameters(segmenter.encoder) == ENCODER_PARAMETERS[case.encoder]


@pytest.mark.slow
def test_multiply_accumulates_are_the_tables(case: Case, segmenter: Segmenter) -> None:
    shared = case.encoder in ENCODER_PARAMETERS
    found = _decoder_macs(segmenter) if shared else _whole_macs(segmenter)
    assert found == sum(row.macs for row in case.rows)


def _dilations(module: nn.Module) -> list[int]:
    return [conv.dilation[0] for conv in _convs_3x3(module) if conv.dilation != (1, 1)]


def _convs_3x3(module: nn.Module) -> Iterator[nn.Conv2d]:
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            assert conv.padding == conv.dilation, conv  # else sizes shrink
            yield conv


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "encoder", "output_stride", "dilations"),
    [
        ("deeplab_v2", "caffe_resnet101", 8, [6, 12, 18, 24]),
        ("deeplab_v3", "resnet50", 16, [6, 12, 18]),
        ("deeplab_v3", "resnet50", 8, [12, 24, 36]),
        ("deeplab_v3_plus", "resnet50", 16, [6, 12, 18]),
        ("deeplab_v3_plus", "resnet50", 8, [12, 24, 36]),
        ("denseaspp", "densenet121", 8, [3, 6, 12, 18, 24]),
        ("icnet", "icnet_resnet50", 32, [2, 2]),
        ("daformer_head", "mit_b0", 32, [6, 12, 18]),
    ],
)
def test_decoder_dilations_are_the_papers(
    architecture: str, encoder: str, output_stride: int, dilations: list[int]
) -> None:
    segmenter = _build(architecture, encoder, output_stride, aux=False)
    assert _dilations(segmenter.decoder) == dilations


@pytest.mark.parametrize(
    ("architecture", "encoder", "output_stride", "dilations"),
    [
        ("denseaspp", "densenet121", 8, 24 * [2] + 16 * [4]),
        ("icnet", "icnet_resnet50", 32, 6 * [2] + 3 * [4]),
    ],
)
def test_encoder_dilations_are_the_papers(
    architecture: str, encoder: str, output_stride: int, dilations: list[int]
) -> None:
    segmenter = _build(architecture, encoder, output_stride, aux=False)
    assert _dilations(segmenter.encoder) == dilations


@torch.no_grad()
def test_exfuse_embeds_each_higher_stage_at_its_own_size() -> None:
    """The paper determines these convolutions alone; a batch norm may stand for the bias."""
    segmenter = _build("exfuse", "resnet101s", 32)
    macs, weights, widths = [], 0, tables.RESNET_WIDTHS
    for conv in _convs_3x3(segmenter.decoder):
        if conv.in_channels in widths and conv.out_channels in widths:
            weights += conv.weight.numel() + conv.out_channels
            conv.register_forward_hook(
                lambda conv, _, out: macs.append(conv.weight.numel() * out[0, 0].numel())
            )
    with NO_MEMORY:
        segmenter(_images())
    rows = tables.exfuse_embedding()
    assert weights == sum(row.parameters for row in rows) == 41_290_496
    assert sorted(macs) == sorted(row.macs for row in rows if row.macs)
