"""A frozen encoder: no gradients, evaluation mode, no graph, no state of the optimizer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adapt.engine.adamw import AdamW
from adapt.errors import JobError
from adapt.methods import build_method
from adapt.models import build_encoder, build_segmenter
from tests.networks import tiny_model

torch.set_num_threads(1)
ENCODERS = ["test_vit", "test_resnet"]


def _segmenter(encoder: str = "test_vit", **keys: Any) -> Any:
    torch.manual_seed(0)
    values = {**tiny_model("deeplab_v2"), "encoder": encoder, "frozen_encoder": True}
    return build_segmenter({**values, "norm": "train", **keys}, 4)


def _learn(segmenter: Any, images: Tensor) -> Any:
    prediction = segmenter.train()(images)
    labels = torch.zeros(len(images), *images.shape[-2:], dtype=torch.int64)
    losses = segmenter.segmentation_losses(prediction, labels).values()
    torch.stack([weight * loss for weight, loss in losses]).sum().backward()
    return prediction


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_head_alone_learns(encoder: str) -> None:
    segmenter = _segmenter(encoder, drop_path=0.5)
    before = {key: value.clone() for key, value in segmenter.encoder.state_dict().items()}
    prediction = _learn(segmenter, torch.randn(2, 3, 64, 64))
    assert all(stage.grad_fn is None for stage in prediction.features)
    assert all(parameter.grad is None for parameter in segmenter.encoder.parameters())
    assert all(parameter.grad is not None for parameter in segmenter.decoder.parameters())
    assert not any(module.training for module in segmenter.encoder.modules())
    assert segmenter.decoder.training
    for key, value in segmenter.encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_optimizer_keeps_no_state_of_it() -> None:
    segmenter = _segmenter()
    assert segmenter.parameter_groups()["encoder"] == []
    optimizer = AdamW.build(AdamW.Config(name="adamw"), segmenter)
    _learn(segmenter, torch.randn(1, 3, 64, 64))
    optimizer.step()
    assert [group["name"] for group in optimizer.param_groups] == ["head"]
    assert len(optimizer.state) == len(list(segmenter.decoder.parameters()))


def test_other_encoders_keep_their_graph() -> None:
    segmenter = _segmenter(frozen_encoder=False)
    prediction = _learn(segmenter, torch.randn(1, 3, 64, 64))
    assert prediction.features[-1].grad_fn is not None
    assert segmenter.encoder.training


@pytest.mark.parametrize(
    "method",
    [
        {"name": "daformer"},
        {"name": "fcns_in_the_wild"},
        {"name": "adaptsegnet", "space": "features"},
    ],
    ids=str,
)
def test_terms_that_reach_the_encoder_alone_are_refused(method: dict[str, Any]) -> None:
    message = r"model.frozen_encoder: expected false with .*, which moves the encoder alone"
    with pytest.raises(JobError, match=message):
        build_method(method, _segmenter())
    build_method(method, _segmenter(frozen_encoder=False))


@pytest.mark.parametrize("name", ["test_vit", "convnext_atto"])
def test_drop_path_leaves_blocks_out_in_training_alone(name: str) -> None:
    torch.manual_seed(0)
    encoder: Any = build_encoder(name, 32, drop_path=0.9)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        first, second = encoder.train()(images)[-1], encoder(images)[-1]
        assert not torch.equal(first, second)
        assert torch.equal(encoder.eval()(images)[-1], encoder(images)[-1])
    rates = {m.drop_prob for m in encoder.modules() if type(m).__name__ == "DropPath"}
    assert max(rates) == pytest.approx(0.9)


@pytest.mark.parametrize("name", ["vgg11", "unet"])
def test_encoders_without_stochastic_depth_say_so(name: str) -> None:
    message = f"drop_path: expected null with encoder '{name}', which has no .* depth, got 0.1"
    with pytest.raises(JobError, match=message):
        build_encoder(name, 16, drop_path=0.1)
