"""The recipe of the golden vectors: initial values and inputs, the same on every machine.

Values are asked for by the names that the papers' programs give their tensors; `program_key` turns
a segmentation network's own names into those.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from adapt.models.segmenter import Segmenter


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [0, 1), float64, that only the name and the number of elements decide."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return random.random_sample(int(np.prod(shape))).reshape(shape)


def initial(name: str, tensor: Tensor) -> Tensor:
    """The initial value of the entry `NETWORK/KEY` that has the shape of `tensor`, in float32."""
    shape = tuple(tensor.shape)
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(tensor)
    values = uniform(name, shape)
    if len(shape) == 4:
        values = (2 * values - 1) * np.sqrt(6 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        values = 0.5 + values
    elif name.endswith(("running_mean", "bias")):
        values = 0.2 * values - 0.1
    elif name.endswith("bn3.weight"):
        values = 0.1 + 0.2 * values
    else:
        values = 0.5 + values
    return torch.tensor(values.astype(np.float32))


def image(name: str, size_hw: tuple[int, int]) -> Tensor:
    """The image `input/NAME` (1, 3, H, W) in float32."""
    values = 4 * uniform(f"input/{name}", (1, 3, *size_hw)) - 2
    return torch.tensor(values.astype(np.float32))


def label(name: str, size_hw: tuple[int, int], num_classes: int = 19) -> Tensor:
    """The label `input/NAME` (1, H, W), int64 with 255 for what is ignored."""
    values = np.floor((num_classes + 2) * uniform(f"input/{name}", (1, *size_hw)))
    values[values >= num_classes] = 255
    return torch.tensor(values).long()


def program_key(key: str, heads: Sequence[str] = ("layer6", "layer5")) -> str:
    """The programs' name for a key of a segmenter; `heads` are their names of our heads."""
    part, _, rest = key.partition(".")
    if part == "encoder":
        return rest
    _, head, _, branch, kind = rest.split(".")
    return f"{heads[int(head)]}.conv2d_list.{branch}.{kind}"


def fill(segmenter: Segmenter, tag: str, heads: Sequence[str] = ("layer6", "layer5")) -> None:
    """Give a segmenter the initial values of the golden network `tag`."""
    state = {
        key: initial(f"{tag}/{program_key(key, heads)}", tensor)
        for key, tensor in segmenter.state_dict().items()
    }
    segmenter.load_weights(state)
