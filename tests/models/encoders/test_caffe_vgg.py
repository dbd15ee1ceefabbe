"""Caffe's VGG-16: against torchvision's turned into it, its weights, its optimizer."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.encoders.caffe_vgg import CaffeVGG16

torch.set_num_threads(1)
VALUES = {"architecture": "deeplab_v2", "encoder": "caffe_vgg16", "weights": "none"}


@pytest.fixture(scope="module")
def encoder() -> CaffeVGG16:
    return CaffeVGG16("caffe_vgg16")


def test_convolutions_are_torchvisions_but_for_dilation_and_fc(encoder: CaffeVGG16) -> None:
    with torch.device("meta"):
        theirs = [m for m in torchvision.models.vgg16().features if isinstance(m, nn.Conv2d)]
    ours = [module for module in encoder.features if isinstance(module, nn.Conv2d)]
    for mine, their in zip(ours, theirs, strict=False):
        assert mine.weight.shape == their.weight.shape
        assert mine.stride == their.stride == (1, 1)
    dilations = [(conv.dilation[0], conv.padding[0]) for conv in ours]
    assert dilations == [(1, 1)] * 10 + [(2, 2)] * 3 + [(4, 4)] * 2
    assert [tuple(conv.weight.shape[:2]) for conv in ours[13:]] == [(1024, 512), (1024, 1024)]


def test_stages_end_before_the_pools_at_conv5_3_and_at_fc7(encoder: CaffeVGG16) -> None:
    images = torch.randn(1, 3, 37, 50)
    with torch.no_grad():
        stages = encoder(images)
        for stage, end in zip(stages, (4, 9, 16, 29, 33), strict=True):
            assert torch.equal(stage, encoder.features[:end](images))
    pools = [number for number, m in enumerate(encoder.features) if isinstance(m, nn.MaxPool2d)]
    assert pools == [4, 9, 16] and len(encoder.features) == 33
    assert [tuple(stage.shape[2:]) for stage in stages] == [
        (37, 50),
        (18, 25),
        (9, 12),
        (4, 6),
        (4, 6),
    ]


def test_reads_bgr_minus_its_mean(encoder: CaffeVGG16) -> None:
    assert encoder.pixels == ((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), True)


def _imagenet(encoder: CaffeVGG16) -> dict[str, Tensor]:
    return {
        key: torch.full_like(value, 2)
        for key, value in encoder.state_dict().items()
        if key.split(".")[1] not in ("29", "31")
    }


def test_weights_from_imagenet_leave_fc6_and_fc7_as_they_start() -> None:
    torch.manual_seed(0)
    encoder = CaffeVGG16("caffe_vgg16")
    before = encoder.features[31].get_parameter("weight").clone()
    assert encoder.load(_imagenet(encoder)).loaded == 26
    assert torch.equal(encoder.features[31].get_parameter("weight"), before)
    assert (encoder.features[27].get_parameter("weight") == 2).all()


def test_weights_that_are_not_the_papers_are_refused(encoder: CaffeVGG16) -> None:
    imagenet = _imagenet(encoder)
    half = {**imagenet, "features.29.weight": torch.zeros(1024, 512, 3, 3)}
    with torch.device("meta"):
        torchvisions = torchvision.models.vgg16().state_dict()
    cases = {
        "missing: features.29.bias, features.31.weight": half,
        "missing: features.23.weight, .*unexpected: features.24.weight": torchvisions,
        "unexpected: classifier.conv2d_list.0.bias": {
            **imagenet,
            "classifier.conv2d_list.0.bias": torch.zeros(19),
        },
    }
    for message, state in cases.items():
        with pytest.raises(JobError, match=f"model.weights_uri: .*{message}.*import-checkpoint"):
            encoder.load(state)


def test_its_optimizer_lists_everything_once(encoder: CaffeVGG16) -> None:
    names = {name for name, _ in encoder.named_parameters()}
    assert encoder.multiplicities() == dict.fromkeys(names, 1)


def test_an_auxiliary_head_reads_conv5_3() -> None:
    segmenter = build_segmenter(VALUES, num_classes=3)
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        main, auxiliary = segmenter.eval()(images, size_hw=(4, 6)).logits
        stages = segmenter.encoder(images)
        heads = segmenter.decoder.get_submodule("heads")
        for logits, head, stage in ((main, "0", stages[4]), (auxiliary, "1", stages[3])):
            assert torch.equal(logits, heads.get_submodule(head)(stage))


def test_norm_settings_have_nothing_to_do() -> None:
    for norm in ("train", "frozen_affine", "frozen"):
        segmenter = build_segmenter({**VALUES, "norm": norm}, num_classes=3)
        assert not list(segmenter.encoder.norms())
        assert all(parameter.requires_grad for parameter in segmenter.encoder.parameters())
