"""Encoders of timm (Wightman, PyTorch Image Models) behind the contract of `Encoder`.

Weights are found under their names with dots and underscores taken for the same, because timm
flattens names (`features.0` -> `features_0`) where it cuts a network into stages.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from adapt.batch import PixelFormat
from adapt.errors import JobError
from adapt.models.encoder import (
    WEIGHTS_KEY,
    Encoder,
    LoadReport,
    no_multiplicity,
    wrong_output_stride,
)
from adapt.models.weights import misfit

USUAL_ENCODERS = ("resnet18", "resnet50", "resnet101", "tf_efficientnet_lite0", "mobilenetv2_100")
PAPERS_MARKS = ("Scale.", "conv2d_list")
"""Parts of names that only the papers' files have: their start's prefix, their heads."""


class TimmEncoder(Encoder):
    """A timm backbone with random weights that returns its stages.

    Raises `JobError` for a backbone without stages, or an output stride that it cannot have.
    """

    def __init__(self, name: str, output_stride: int = 32) -> None:
        super().__init__()
        self.name, self.output_stride = name, output_stride
        backbone = _create_backbone(name, output_stride)
        self.backbone: nn.Module = backbone
        self.channels = tuple(backbone.feature_info.channels())
        self.reductions = tuple(backbone.feature_info.reduction())
        self._open_residual_branches()
        pretrained = backbone.default_cfg
        self.pixels = PixelFormat(tuple(pretrained["mean"]), tuple(pretrained["std"]), bgr=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> stages (B, C, h, w), shallow to deep."""
        return tuple(self.backbone(images))

    def load(self, state: Mapping[str, Tensor]) -> LoadReport:
        """As the contract says; weights of the backbone's own classifier are left out."""
        names = {_canonical(key): key for key in self.backbone.state_dict()}
        given = {names.get(_canonical(key), key): tensor for key, tensor in state.items()}
        whole_network = _whole_network_keys(self.name)
        dropped = [
            key
            for key in given
            if _canonical(key) not in names and _canonical(key) in whole_network
        ]
        fitting = {key: tensor for key, tensor in given.items() if key not in dropped}
        differences = misfit(self.backbone.state_dict(), fitting)
        if differences:
            raise JobError(
                f"{WEIGHTS_KEY}: expected weights of encoder {self.name!r}, "
                f"found others ({differences}){_papers_hint(fitting)}"
            )
        self.backbone.load_state_dict(fitting, strict=False)
        return LoadReport(len(fitting), tuple(dropped))

    def multiplicities(self) -> dict[str, int]:
        """There are none: the papers' programs train Caffe's networks alone."""
        raise no_multiplicity(self.name)

    def imagenet_weights(self) -> Mapping[str, Tensor]:
        """ImageNet weights, classifier included, from a package or timm's hub."""
        from adapt.models.pretrained import imagenet_weights  # imports timm: seconds

        return imagenet_weights(self.name)

    def _open_residual_branches(self) -> None:
        """Start every gamma at 1; timm's 0 at a branch's end, if fixed, shuts it for ever."""
        for norm in self.norms():
            if norm.affine:
                nn.init.ones_(norm.weight)


def timm_knows(name: str) -> bool:
    """Whether `name`, with or without a tag for its weights, is one of timm's."""
    import timm  # seconds that reading a job spec is spared

    return timm.is_model(name)


def timm_names_like(name: str) -> list[str]:
    """Names of timm's that look like `name`, closest first; usual ones where none does."""
    import timm

    close = get_close_matches(name, timm.list_models(), n=5, cutoff=0.6)
    return close or list(USUAL_ENCODERS)


def _create_backbone(name: str, output_stride: int) -> Any:
    import timm

    stride: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        backbone: Any = timm.create_model(name, features_only=True, **stride)
    except (AssertionError, TypeError, NotImplementedError) as error:
        raise wrong_output_stride(name, 32, output_stride) from error
    except RuntimeError as error:
        raise JobError(
            f"model.encoder: expected an encoder of stages, found {name!r}: {error}"
        ) from error
    deepest: int = backbone.feature_info.reduction()[-1]
    if deepest != output_stride:
        raise wrong_output_stride(name, deepest, output_stride)
    return backbone


def _whole_network_keys(name: str) -> set[str]:
    """Keys of timm's whole network, classifier included, without allocating it."""
    import timm

    with torch.device("meta"):
        return {_canonical(key) for key in timm.create_model(name).state_dict()}


def _papers_hint(given: Mapping[str, Tensor]) -> str:
    if not any(mark in key for key in given for mark in PAPERS_MARKS):
        return ""
    return (
        "; these are names of the papers' networks: set model.encoder to caffe_resnet101 or "
        "caffe_vgg16, and bring trained networks into shape with import-checkpoint"
    )


def _canonical(key: str) -> str:
    return key.replace(".", "_")
