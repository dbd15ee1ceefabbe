"""Encoders of timm (Wightman, PyTorch Image Models) behind the contract of `Encoder`.

timm dilates most families itself. VGG and DenseNet, which it leaves at output stride 32, are
dilated here: their last pools go, and the convolutions after them reach as far as before. Weights
are found under their names with dots and underscores taken for the same, because timm flattens
names (`features.0` -> `features_0`) where it cuts a network into stages.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from adapt.batch import PixelFormat
from adapt.errors import JobError
from adapt.models.encoders.dilation import dilate
from adapt.models.encoders.encoder import (
    UNDILATED_STRIDE,
    WEIGHTS_KEY,
    Encoder,
    LoadReport,
    blocks_of,
    no_drop_path,
    no_multiplicity,
    wrong_output_stride,
)
from adapt.models.encoders.timm_families import family_of
from adapt.models.layers import enlarged, rounded_up, spare_single_values
from adapt.models.weights import misfit

USUAL_ENCODERS = ("resnet18", "resnet50", "resnet101", "tf_efficientnet_lite0", "mobilenetv2_100")
TESTED_ENCODERS: tuple[str, ...] = (
    *("vgg16", "vgg16_bn"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnet50s", "resnet101s"),  # the stem of three convolutions that PSPNet's authors use
    *("resnext50_32x4d", "resnext101_32x8d"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    *("nasnetalarge", "pnasnet5large"),
    *("efficientnet_lite0", "tf_efficientnet_lite0", "efficientnet_b0"),
    *("convnext_atto", "convnext_tiny"),
)
"""Backbones that the tests run; timm's other backbones go the same way."""

POOLS_TO_REMOVE: dict[str, type[nn.Module]] = {"vgg": nn.MaxPool2d, "densenet": nn.AvgPool2d}
"""Families dilated here, by how their names begin, and the kind of pool between their stages."""

STAGES_WHEN_DILATED = (0, 1, 2, 3, 4)
"""timm counts VGG's last pool as a sixth stage: dilated it would be the fifth stage again."""

OUTPUT_STRIDES = (8, 16, UNDILATED_STRIDE)

WHY_UNDILATED = dict.fromkeys(("nasnet", "pnasnet"), ": its cells reduce inside, branch by branch")
"""Families that are not dilated, by how their names begin, and the reason."""

PAPERS_MARKS = ("Scale.", "conv2d_list")
"""Parts of names that only the papers' files have: their start's prefix, their heads."""

PROBE_HW = (97, 161)


class TimmEncoder(Encoder):
    """A timm backbone with random weights that returns its stages.

    Raises `JobError` for a backbone without stages, or an output stride or stochastic depth that it
    cannot have; on the meta device, where it costs nothing, also for one that takes no images of
    any size.
    """

    def __init__(
        self, name: str, output_stride: int = UNDILATED_STRIDE, drop_path: float | None = None
    ) -> None:
        super().__init__()
        self.name, self.output_stride = name, output_stride
        backbone = _create_backbone(name, output_stride, drop_path)
        self.backbone: nn.Module = backbone
        self.channels = tuple(backbone.feature_info.channels())
        self.reductions = tuple(backbone.feature_info.reduction())
        self._open_residual_branches()
        for norm in self.norms():
            spare_single_values(norm)
        pretrained = backbone.default_cfg
        self.pixels = PixelFormat(tuple(pretrained["mean"]), tuple(pretrained["std"]), bgr=False)
        self._channels_last = getattr(backbone, "output_fmt", "") == "NHWC"
        self._multiple_px = family_of(name).multiple_px
        if next(backbone.parameters()).is_meta:
            _check_stages(self)

    @property
    def multiple_px(self) -> int:
        """Of most backbones 1: they take any size."""
        return self._multiple_px

    def blocks(self) -> list[nn.Module]:
        """The backbone's blocks."""
        return blocks_of(self.backbone)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> stages (B, C, h, w), shallow to deep."""
        stages = self.backbone(enlarged(images, 0, self.multiple_px))
        if self._channels_last:
            stages = [stage.permute(0, 3, 1, 2).contiguous() for stage in stages]
        if self.multiple_px == 1:
            return tuple(stages)
        height, width = images.shape[-2:]
        return tuple(
            stage[..., : rounded_up(height, step), : rounded_up(width, step)]
            for stage, step in zip(stages, self.reductions, strict=True)
        )

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
                f"got others ({differences})",
                fix=_papers_hint(fitting),
            )
        self.backbone.load_state_dict(fitting, strict=False)
        return LoadReport(len(fitting), tuple(dropped))

    def multiplicities(self) -> dict[str, int]:
        """There are none: the papers' programs train Caffe's networks alone."""
        raise no_multiplicity(self.name)

    def imagenet_weights(self) -> Mapping[str, Tensor]:
        """ImageNet weights, classifier included, from a package or timm's hub."""
        from adapt.models.encoders.pretrained import imagenet_weights  # imports timm: seconds

        return imagenet_weights(self.name)

    def _open_residual_branches(self) -> None:
        """Start every gamma at 1; timm's 0 at a branch's end, if fixed, shuts it for ever."""
        for norm in self.norms():
            if norm.affine:
                nn.init.ones_(norm.weight)


def timm_knows(name: str) -> bool:
    """True where `name`, with or without a tag for its weights, is one of timm's."""
    import timm  # seconds that reading a job spec is spared

    return timm.is_model(name)


def known_output_strides(name: str) -> tuple[int, ...]:
    """Those of a tested encoder, without building it; none for another one."""
    if name not in TESTED_ENCODERS:
        return ()
    undilated = name.startswith(tuple(WHY_UNDILATED))
    return (UNDILATED_STRIDE,) if undilated else OUTPUT_STRIDES


def timm_names_like(name: str) -> list[str]:
    """Names of timm's that look like `name`, closest first; usual ones where none does."""
    import timm

    close = get_close_matches(name, timm.list_models(), n=5, cutoff=0.6)
    return close or list(USUAL_ENCODERS)


def _create_backbone(name: str, output_stride: int, drop_path: float | None) -> Any:
    """Raises `JobError` for what is no encoder of this output stride and stochastic depth."""
    options = {} if drop_path is None else {"drop_path_rate": drop_path}
    try:
        backbone = _dilated_or_as_it_is(name, output_stride, options)
    except TypeError as error:
        if drop_path is not None and "drop_path_rate" in str(error):
            raise no_drop_path(name, drop_path) from error
        raise
    except RuntimeError as error:
        raise JobError(
            f"model.encoder: expected an encoder of stages, got {name!r}: {error}"
        ) from error
    deepest: int = backbone.feature_info.reduction()[-1]
    if deepest != output_stride:
        reason = next((why for start, why in WHY_UNDILATED.items() if name.startswith(start)), "")
        raise JobError(f"{wrong_output_stride(name, deepest, output_stride)}{reason}")
    return backbone


def _dilated_or_as_it_is(name: str, output_stride: int, options: dict[str, Any]) -> Any:
    """Dilated by timm or here; as it is where neither can."""
    if output_stride == UNDILATED_STRIDE:
        return _cut(name, **options)
    pools = next((kind for start, kind in POOLS_TO_REMOVE.items() if name.startswith(start)), None)
    if pools is not None:
        backbone = _cut(name, out_indices=STAGES_WHEN_DILATED, **options)
        dilate(backbone, pools, output_stride)
        return backbone
    with suppress(AssertionError, TypeError, NotImplementedError):  # how timm's families refuse
        return _cut(name, output_stride=output_stride, **options)
    return _cut(name, **options)


def _cut(name: str, **options: Any) -> Any:
    """timm's network cut into stages, with the input format of the weights that the name gets."""
    import timm

    from adapt.models.encoders.pretrained import default_weights

    options = {**family_of(name).options, **options}
    return timm.create_model(default_weights(name), features_only=True, **options)


def _check_stages(encoder: TimmEncoder) -> None:
    """Raise `JobError` unless odd sizes give stages as declared; on the meta device alone."""
    name, channels = encoder.name, list(encoder.channels)
    try:
        with torch.no_grad():
            stages = encoder.eval()(torch.empty(1, 3, *PROBE_HW, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise JobError(
            f"model.encoder: expected an encoder of images of any size, got {name!r}, which "
            f"refuses {PROBE_HW[0]}x{PROBE_HW[1]} ({error})"
        ) from error
    if [stage.shape[1] for stage in stages] != channels:
        raise JobError(
            f"model.encoder: expected stages of {', '.join(map(str, channels))} channels, got "
            f"{[tuple(stage.shape) for stage in stages]} with {name!r}"
        )
    encoder.train()


def _whole_network_keys(name: str) -> set[str]:
    """Keys of timm's whole network, classifier included, without allocating it."""
    import timm

    with torch.device("meta"):
        return {_canonical(key) for key in timm.create_model(name).state_dict()}


def _papers_hint(given: Mapping[str, Tensor]) -> str:
    if not any(mark in key for key in given for mark in PAPERS_MARKS):
        return ""
    return (
        "set model.encoder to caffe_resnet101 or caffe_vgg16, whose names these are, and convert "
        "trained networks with import-checkpoint"
    )


def _canonical(key: str) -> str:
    """One name for what timm's whole networks, its stages and torchvision's files each name.

    Stages may stand in a wrapper `body` or `model`; torchvision's DenseNets say `norm.1`.
    """
    bare = re.sub(r"^(body|model)\.", "", key).replace(".", "_")
    return re.sub(r"(norm|conv)_(\d)", r"\1\2", bare)
