"""Names of weights in the papers' programs, and ours for the same tensors.

AdaptSegNet (CVPR 2018) and ADVENT (CVPR 2019) name a network's tensors alike; their discriminators
differ. Ours put `encoder.` before the backbone's names and call heads by number, main head first.
Only DeepLabV2 over the `caffe_*` encoders has names in those programs.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from adapt.errors import JobError
from adapt.models.encoders.caffe_resnet import BLOCKS

Style = Literal["adaptsegnet", "advent"]

DISCRIMINATOR_LAYERS: dict[Style, tuple[str, ...]] = {
    "adaptsegnet": ("conv1", "conv2", "conv3", "conv4", "classifier"),
    "advent": ("0", "2", "4", "6", "8"),
}
"""Names of a discriminator's five convolutions."""

DISCRIMINATOR_FILES: dict[Style, dict[str, str]] = {
    "adaptsegnet": {"main": "D2", "aux": "D1"},
    "advent": {"main": "D_main", "aux": "D_aux"},
}
"""Suffix of the programs to a network's file name, for the discriminator of each head."""

VGG_HEAD = ("classifier",)
MULTI_LEVEL_HEADS = ("layer6", "layer5")
SINGLE_LEVEL_HEADS: dict[Style, tuple[str, ...]] = {
    "adaptsegnet": ("layer5",),
    "advent": ("layer6",),
}
"""AdaptSegNet's single-level network puts its head on layer4 and calls it layer5."""

VGG_LAYERS = {24: 23, 26: 25, 28: 27} | {
    index: index for index in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
}
"""Layers of torchvision's VGG-16 -> of the papers', which lacks the last two pools."""


def official_heads(encoder: str, count: int, style: Style) -> tuple[str, ...]:
    """The programs' names of the heads, main head first.

    Raises `JobError` for an encoder that none of them has, and for a VGG with two heads.
    """
    if encoder in BLOCKS:
        return MULTI_LEVEL_HEADS if count == 2 else SINGLE_LEVEL_HEADS[style]
    if encoder == "caffe_vgg16" and count == 1:
        return VGG_HEAD
    raise JobError(
        f"model.encoder: expected one of the papers' ({', '.join(BLOCKS)}, or caffe_vgg16 with "
        f"model.aux: false), got {encoder!r} with {count} heads, for which they have no names"
    )


def official_name(key: str, heads: Sequence[str]) -> str:
    """Our name of a network's tensor -> the programs'."""
    part, _, rest = key.partition(".")
    if part == "encoder":
        return rest
    _, head, _, branch, kind = rest.split(".")
    return f"{heads[int(head)]}.conv2d_list.{branch}.{kind}"


def our_name(key: str, heads: Sequence[str]) -> str:
    """The programs' name of a network's tensor -> ours."""
    found = re.fullmatch(r"(\w+)\.conv2d_list\.(\d+)\.(weight|bias)", key)
    if found is None or found[1] not in heads:
        return f"encoder.{key}"
    return f"decoder.heads.{heads.index(found[1])}.branches.{found[2]}.{found[3]}"


def official_discriminator(state: Mapping[str, Tensor], style: Style) -> dict[str, Tensor]:
    """Our discriminator's tensors under the names of a program's."""
    named = {}
    for key, tensor in state.items():
        _, index, kind = key.split(".")
        named[f"{DISCRIMINATOR_LAYERS[style][int(index)]}.{kind}"] = tensor
    return named


def discriminator_names(keys: Sequence[str]) -> dict[str, str] | None:
    """A program's names -> ours, where they are all of a discriminator's and no others."""
    for layers in DISCRIMINATOR_LAYERS.values():
        names = {
            f"{layer}.{kind}": f"convs.{index}.{kind}"
            for index, layer in enumerate(layers)
            for kind in ("weight", "bias")
        }
        if names.keys() == set(keys):
            return names
    return None
