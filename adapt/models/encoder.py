"""Encoders: timm's backbones behind one adapter, and their pretrained weights.

In: images (B, 3, H, W); out: stages shallow to deep. Weights are found under their names with dots
and underscores taken for the same, because timm flattens names (`features.0` -> `features_0`) where
it cuts a network into stages. Pretrained weights that cannot be had are an error: a random start
passed off as a pretrained one wastes a GPU week.
"""

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapt.batch import PixelFormat
from adapt.errors import JobError, known_names

USUAL_ENCODERS = ("resnet18", "resnet50", "resnet101", "tf_efficientnet_lite0", "mobilenetv2_100")
WRAPPERS = ("state_dict", "model")


class LoadReport(NamedTuple):
    """What `load_encoder_weights` took, and the classifier's tensors that it left out."""

    loaded: int
    dropped: tuple[str, ...]


class Encoder(nn.Module):
    """A timm backbone with random weights that returns its stages.

    `channels` and `reductions` (input pixels per output pixel, a side) describe the stages, shallow
    to deep; no stage is reduced by more than `output_stride`. `pixels` is the input its pretrained
    weights expect. Raises `JobError` for a name timm does not know or an output stride the backbone
    cannot have.
    """

    def __init__(self, name: str, output_stride: int = 32) -> None:
        super().__init__()
        self.name, self.output_stride = name, output_stride
        backbone = _create_backbone(name, output_stride)
        self.backbone: nn.Module = backbone
        self.channels: tuple[int, ...] = tuple(backbone.feature_info.channels())
        self.reductions: tuple[int, ...] = tuple(backbone.feature_info.reduction())
        self._open_residual_branches()
        pretrained = backbone.default_cfg
        self.pixels = PixelFormat(tuple(pretrained["mean"]), tuple(pretrained["std"]), bgr=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> stages (B, C, h, w), shallow to deep."""
        return tuple(self.backbone(images))

    def norms(self) -> Iterator[_BatchNorm]:
        """Every batch normalisation."""
        return (module for module in self.modules() if isinstance(module, _BatchNorm))

    def _open_residual_branches(self) -> None:
        """Start every gamma at 1; timm's 0 at a branch's end, if fixed, shuts it for ever."""
        for norm in self.norms():
            if norm.affine:
                nn.init.ones_(norm.weight)


def read_weights(
    path: Path, sha256: str | None = None, key: str = "model.weights_uri"
) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors, .pth or .pt file, on the CPU. `key` is for messages.

    Opens `{'state_dict': ...}`, `{'model': ...}` and names that all begin with `module.`; entries
    that are no tensors are left out. Nothing in the file is executed. Raises `JobError` for a file
    that is not what it should be.
    """
    if not path.is_file():
        raise JobError(f"{key}: expected a file, found none at {path}")
    if sha256 is not None:
        _check_digest(path, sha256)
    content = _unwrapped(_read(path, key))
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise JobError(f"{key}: expected tensors by name, found none in {path.name}")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def load_encoder_weights(encoder: Encoder, state: Mapping[str, Tensor]) -> LoadReport:
    """Copy weights into the encoder by name; those of the backbone's own classifier are left out.

    Raises `JobError` naming the first keys that are missing, unexpected or of another shape.
    """
    names = {_canonical(key): key for key in encoder.backbone.state_dict()}
    given = {names.get(_canonical(key), key): tensor for key, tensor in state.items()}
    whole_network = _whole_network_keys(encoder.name)
    dropped = [
        key for key in given if _canonical(key) not in names and _canonical(key) in whole_network
    ]
    fitting = {key: tensor for key, tensor in given.items() if key not in dropped}
    differences = misfit(encoder.backbone.state_dict(), fitting)
    if differences:
        raise JobError(
            f"model.weights_uri: expected weights of encoder {encoder.name!r}, "
            f"found others ({differences})"
        )
    encoder.backbone.load_state_dict(fitting, strict=False)
    return LoadReport(len(fitting), tuple(dropped))


def misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Why `given` cannot be loaded into a network with the tensors `own`, or nothing where it can.

    Batch norm's counters of batches may be missing: old files lack them and nothing reads them.
    """
    missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in own]
    misshaped = [
        f"{key} {list(given[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshaped": misshaped}
    return "; ".join(f"{kind}: {_first(keys)}" for kind, keys in kinds.items() if keys)


def _create_backbone(name: str, output_stride: int) -> Any:
    import timm  # seconds that reading a job spec is spared

    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=5, cutoff=0.6)
        raise JobError(
            "model.encoder: expected a name that timm knows, "
            f"{known_names(name, close or USUAL_ENCODERS)}"
        )
    stride: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        backbone: Any = timm.create_model(name, features_only=True, **stride)
    except (AssertionError, TypeError, NotImplementedError) as error:
        raise JobError(
            f"model.output_stride: expected 32, the only one of encoder {name!r}, "
            f"found {output_stride}"
        ) from error
    except RuntimeError as error:
        raise JobError(
            f"model.encoder: expected an encoder of stages, found {name!r}: {error}"
        ) from error
    deepest: int = backbone.feature_info.reduction()[-1]
    if deepest != output_stride:
        raise JobError(
            f"model.output_stride: expected {deepest}, the only one of encoder {name!r}, "
            f"found {output_stride}"
        )
    return backbone


def _whole_network_keys(name: str) -> set[str]:
    """Keys of timm's whole network, classifier included, without allocating it."""
    import timm

    with torch.device("meta"):
        return {_canonical(key) for key in timm.create_model(name).state_dict()}


def _canonical(key: str) -> str:
    return key.replace(".", "_")


def _first(keys: list[str], shown: int = 3) -> str:
    rest = len(keys) - shown
    return ", ".join(keys[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _read(path: Path, key: str) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".pth", ".pt"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise JobError(
            f"{key}: expected a file of tensors, found {path.name}, which cannot be "
            f"read as one ({reason})"
        ) from error
    raise JobError(f"{key}: expected a .safetensors, .pth or .pt file, found {path.name!r}")


def _unwrapped(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict within training programs' wrappers."""
    if not isinstance(content, Mapping):
        return {}
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return content[wrapper]
    return content


def _check_digest(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise JobError(f"model.weights_sha256: expected {sha256}, found {found} for {path.name}")
