"""Answers of KServe's v2 protocol: the model's tensors, and results as such, in JSON or behind it.

`class_map` is answered by default, `entropy` and `class_shares` on demand.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapt.serve.answers import class_shares
from adapt.serve.refused import Refused
from adapt.use.segmentation import Segmentation

INPUT = "image"
MAX_JSON_VALUES = 3 << 20
"""Python reads and writes JSON with its lock held: more would stop all other requests for seconds.
A tensor of 512 x 1024 pixels fits, in any nesting, and a class map of 1024 x 2048."""


class Output(NamedTuple):
    """A tensor of the answer: how it is made of an image's result."""

    datatype: str
    dtype: str
    shape: tuple[str, ...]
    of: Callable[[Segmentation], NDArray[Any]]


OUTPUTS: dict[str, Output] = {
    "class_map": Output("UINT8", "u1", ("-1", "-1"), lambda one: one.class_map),
    "entropy": Output("FP32", "<f4", ("-1", "-1"), lambda one: one.entropy),
    "class_shares": Output(
        "FP32", "<f4", ("K",), lambda one: np.array(class_shares(one), np.float32)
    ),
}
"""The first is the default."""


def described(num_classes: int) -> dict[str, Any]:
    """The inputs and outputs of the model's metadata."""
    outputs = [
        {
            "name": name,
            "datatype": row.datatype,
            "shape": [-1, *(num_classes if part == "K" else int(part) for part in row.shape)],
        }
        for name, row in OUTPUTS.items()
    ]
    inputs = [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    return {"inputs": inputs, "outputs": outputs}


def answered(
    results: Sequence[Segmentation],
    outputs: Mapping[str, bool],
    about: Mapping[str, str],
    batched: bool,
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where binary data follow.

    `outputs`: names, and whether each is answered in binary form; `about`: the entries beside them.
    Raises `Refused` for images of several sizes.
    """
    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, binary in outputs.items():
        row = OUTPUTS[name]
        values = _stacked([row.of(one) for one in results]).astype(row.dtype, copy=False)
        values = values if batched else values[0]
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": row.datatype,
            "shape": list(values.shape),
        }
        if binary:
            blobs.append(values.tobytes())
            tensor["parameters"] = {"binary_data_size": values.nbytes}
        else:
            _check_json(name, values.size)
            tensor["data"] = values.ravel().tolist()
        tensors.append(tensor)
    text = json.dumps({**about, "outputs": tensors}).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _check_json(name: str, size: int) -> None:
    """Raise `Refused` (413) for an output that is too long for JSON."""
    if size > MAX_JSON_VALUES:
        raise Refused(
            413,
            f"outputs: expected at most {MAX_JSON_VALUES} values in JSON, got {size} of {name}",
            'ask for it in binary form: "parameters": {"binary_data": true}',
        )


def _stacked(values: list[NDArray[Any]]) -> NDArray[Any]:
    """(B, ...). Raises `Refused` (400) for images of several sizes, which no tensor can hold."""
    other = next((one for one in values if one.shape != values[0].shape), None)
    if other is not None:
        first, second = ("x".join(map(str, one.shape)) for one in (values[0], other))
        raise Refused(
            400,
            f"inputs: expected images of one size, got {first} and {second}",
            "send them in requests of their own, or ask for class_shares alone",
        )
    return np.stack(values)
