"""Weights of vision transformers under the names of timm, of the families' own files, and of the
hub's.

timm's converters know the names of DINOv2, DINOv3, TIPSv2, PE and EVA-02, and resize tables of
positions bicubically. Patch kernels are resized before, bicubically too as in Rein and SoMA; timm
solves for kernels of equal answers instead.
"""

import io
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.errors import JobError
from adapt.models.encoders.encoder import WEIGHTS_KEY
from adapt.models.encoders.hub_names import in_own_names
from adapt.models.weights import misfit

PATCH_KERNELS = ("patch_embed.proj.weight", "conv1.weight")
"""Ends of the names of patch kernels: timm's and most families'; PE's."""

LEFT_OUT = ("head.", "norm.", "fc_norm.", "attn_pool.", "mask_token")
"""Beginnings of names that only classifying and pre-training need."""

_BIAS = "qkv.bias"
_STRANGE = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors of timm's converters for files of other networks."""


class Converted(NamedTuple):
    """Tensors under the backbone's names, and the names that were knowingly left out."""

    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]


def converted(state: Mapping[str, Tensor], backbone: Any, name: str) -> Converted:
    """Weights of timm's network `name`, in the names of `backbone` and at its sizes.

    Raises `JobError` for those of another network, naming the first keys.
    """
    own, patch_hw = backbone.state_dict(), backbone.patch_embed.patch_size
    state = in_own_names(state)
    resized = {key: _resized(key, tensor, patch_hw) for key, tensor in state.items()}
    _check_biases(resized, backbone, name)
    converter = sys.modules[type(backbone).__module__]
    try:
        with redirect_stdout(io.StringIO()):  # it prints keys that the network lacks
            found = converter.checkpoint_filter_fn(dict(resized), backbone)
    except _STRANGE:
        found = resized
    dropped = [key for key in found if key not in own and key.startswith(LEFT_OUT)]
    fitting = {key: tensor for key, tensor in found.items() if key not in dropped}
    differences = misfit(own, fitting)
    if differences:
        raise JobError(
            f"{WEIGHTS_KEY}: expected weights of encoder {name!r}, got others ({differences})",
            fix="name the encoder that they are of; timm's names and those of the family's own "
            "files are known",
        )
    return Converted(fitting, tuple(dropped))


def _resized(key: str, tensor: Tensor, patch_hw: tuple[int, int]) -> Tensor:
    """Patch kernels at another side, bicubically; all other tensors as they are."""
    if tensor.ndim != 4 or not key.endswith(PATCH_KERNELS) or tensor.shape[-2:] == patch_hw:
        return tensor
    kernels = F.interpolate(tensor.float(), patch_hw, mode="bicubic", align_corners=False)
    return kernels.to(tensor.dtype)


def _check_biases(state: Mapping[str, Tensor], backbone: Any, name: str) -> None:
    """Raise `JobError` where biases of DINOv3's queries and values would be left out."""
    has_biases = any(key.endswith((_BIAS, "q_bias")) for key in backbone.state_dict())
    if has_biases or "storage_tokens" not in state:
        return
    biases = [tensor.chunk(3) for key, tensor in state.items() if key.endswith(_BIAS)]
    if any(bool(torch.count_nonzero(part)) for one in biases for part in (one[0], one[2])):
        raise JobError(
            f"model.encoder: expected a network with biases of queries and values, as the weights "
            f"have, got {name!r}",
            fix=f"set model.encoder: {name.split('.')[0]}_qkvb",
        )
