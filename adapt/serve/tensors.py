"""Requests of KServe's v2 protocol (Open Inference Protocol): images in JSON, or behind it in
binary form.

One input: `image`, UINT8 of shape (H, W, 3) or (B, H, W, 3), or BYTES of shape (B), PNG or JPEG
files, in JSON as base64.
"""

import base64
import binascii
import json
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adapt.data.packed.codecs import Pixels
from adapt.errors import known_names, written
from adapt.serve.limits import PixelLimit
from adapt.serve.refused import Refused
from adapt.serve.tensor_outputs import INPUT, MAX_JSON_VALUES, OUTPUTS
from adapt.serve.uploads import check_pixels

HEADER_LENGTH = "inference-header-content-length"
"""The header of the binary extension: the length in bytes of the JSON before the binary data."""
FORMAT = "send the inputs that GET /v2/models/NAME describes"
_LENGTH = struct.Struct("<I")
_ONE_AT_A_TIME = threading.Lock()
"""Parsed JSON takes up to thirty times its text."""
_LONG = 32
"""Most characters or values that a message shows."""


class Asked(NamedTuple):
    """A request: its images, as files or as pixels, and what is to be answered how."""

    images: Sequence[bytes | Pixels]
    outputs: Mapping[str, bool]
    """Name -> whether it is answered in binary form."""
    batched: bool
    identity: str | None


def asked(body: bytes, header_length: str | None, limit: PixelLimit) -> Asked:
    """Read a request. Raises `Refused` (400, 413)."""
    text, rest = _parts(body, header_length)
    with _ONE_AT_A_TIME:
        values = _object(text)
        images, rest, batched = _images(values.get("inputs"), rest, limit)
    if rest:
        raise _bad("body", "the binary data of the inputs alone", f"{len(rest)} more bytes")
    identity = values.get("id")
    if identity is not None and not isinstance(identity, str):
        raise _bad("id", "a text", _shown(identity))
    return Asked(images, _outputs(values), batched, identity)


def image_of_json(body: bytes) -> bytes:
    """The file of `{"image": BASE64}`, as `/invocations` takes it. Raises `Refused` (400)."""
    with _ONE_AT_A_TIME:
        values = _object(body)
    if values.keys() != {"image"}:
        raise Refused(
            400,
            f'body: expected {{"image": BASE64}}, got the keys {_shown(sorted(values))}',
            "send the file itself as image/png or image/jpeg, or as base64 under this key",
        )
    return _of_base64(values["image"], "image")


def _parts(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    digits = header_length.strip()
    if not (digits.isascii() and digits.isdigit() and int(digits[:12]) <= len(body)):
        raise _bad(HEADER_LENGTH, f"a number up to {len(body)}", repr(header_length[:40]))
    return body[: int(digits)], body[int(digits) :]


def _object(text: bytes) -> dict[str, Any]:
    count = text.count(b",") + text.count(b"[") + text.count(b"{")
    if count > MAX_JSON_VALUES:
        raise Refused(
            413,
            f"body: expected at most {MAX_JSON_VALUES} values in JSON, got about {count}",
            "send the tensor as binary data, or as BYTES, a PNG or JPEG file",
        )
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad("body", "JSON", f"other text ({error})") from error
    if not isinstance(values, dict):
        raise _bad("body", "a JSON object", type(values).__name__)
    return values


def _images(inputs: Any, rest: bytes, limit: PixelLimit) -> tuple[list[Any], bytes, bool]:
    """The images of the one input, the binary data behind it, and whether it is a batch."""
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _bad("inputs", f"a list of one tensor, {INPUT}", _shown(inputs))
    tensor = inputs[0]
    if tensor.get("name") != INPUT:
        raise _bad("inputs[0].name", INPUT, _shown(tensor.get("name")))
    shape, datatype = tensor.get("shape"), tensor.get("datatype")
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise _bad("inputs[0].shape", "a list of positive integers", _shown(shape))
    if not isinstance(datatype, str) or datatype not in _DATATYPES:
        known = known_names(datatype, _DATATYPES)
        raise Refused(400, f"inputs[0].datatype: expected a known name, {known}", FORMAT)
    data, rest = _data(tensor, rest)
    images = _DATATYPES[datatype](data, shape, limit)
    return images, rest, not (datatype == "UINT8" and len(shape) == 3)


def _data(tensor: dict[str, Any], rest: bytes) -> tuple[Any, bytes]:
    """The data of a tensor, a list of JSON or bytes, and the binary data of the next."""
    parameters = tensor.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        if not isinstance(tensor.get("data"), list):
            raise _bad("inputs[0].data", "a list", _shown(tensor.get("data")))
        return tensor["data"], rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise _bad(
            "inputs[0].parameters.binary_data_size", f"a number up to {len(rest)}", _shown(size)
        )
    return rest[:size], rest[size:]


def _of_numbers(data: Any, shape: list[int], limit: PixelLimit) -> list[Pixels]:
    if len(shape) not in (3, 4) or shape[-1] != 3:
        raise _bad("inputs[0].shape", "[H, W, 3] or [B, H, W, 3]", _shown(shape))
    check_pixels(shape[-3], shape[-2], limit, "inputs[0]")
    values = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else _numbers(data)
    count = int(np.prod(shape, dtype=object))
    if values.size != count:
        raise _bad("inputs[0].data", f"{count} values for shape {shape}", str(values.size))
    return list(values.reshape(-1, *shape[-3:]).copy())


def _numbers(data: list[Any]) -> Pixels:
    try:
        values = np.array(data)
    except (ValueError, OverflowError) as error:
        raise _bad("inputs[0].data", "numbers", f"another list ({error})") from error
    if values.dtype.kind not in "iu":
        raise _bad("inputs[0].data", "integers from 0 to 255", f"{values.dtype} values")
    if values.size and not 0 <= values.min() <= values.max() <= 255:
        raise _bad("inputs[0].data", "integers from 0 to 255", f"{values.min()} to {values.max()}")
    return values.astype(np.uint8)


def _of_files(data: Any, shape: list[int], _limit: PixelLimit) -> list[bytes]:
    if isinstance(data, bytes):
        files = _lengthened(data)
    else:
        files = [_of_base64(text, "inputs[0].data") for text in data]
    if shape != [len(files)]:
        raise _bad("inputs[0].shape", f"[{len(files)}] for as many files", _shown(shape))
    return files


def _of_base64(text: Any, key: str) -> bytes:
    if not isinstance(text, str):
        raise _bad(key, "a PNG or JPEG file as base64", type(text).__name__)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(
            400,
            f"{key}: expected a PNG or JPEG file as base64, got another text ({error})",
            "send the base64 of the file alone, in one line and without `data:...,` before it",
        ) from error


def _lengthened(data: bytes) -> list[bytes]:
    """Files, each behind its length."""
    files, position = [], 0
    while position < len(data):
        start = position + _LENGTH.size
        if start > len(data):
            raise _bad("inputs[0].data", "each file behind its length in 4 bytes", "fewer bytes")
        (length,) = _LENGTH.unpack_from(data, position)
        position = start + length
        if position > len(data):
            raise _bad("inputs[0].data", f"a file of {length} bytes", f"{len(data) - start}")
        files.append(data[start:position])
    return files


_DATATYPES: dict[str, Callable[[Any, list[int], PixelLimit], list[Any]]] = {
    "UINT8": _of_numbers,
    "BYTES": _of_files,
}


def _outputs(values: dict[str, Any]) -> dict[str, bool]:
    binary = _flag(values, "binary_data_output", False)
    found = values.get("outputs") or [{"name": next(iter(OUTPUTS))}]
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _bad("outputs", "a list of objects with a name", _shown(found))
    for one in found:
        if not isinstance(one.get("name"), str) or one["name"] not in OUTPUTS:
            known = known_names(one.get("name"), OUTPUTS)
            raise Refused(400, f"outputs: expected a known name, {known}", FORMAT)
    return {one["name"]: _flag(one, "binary_data", binary) for one in found}


def _flag(values: dict[str, Any], name: str, default: bool) -> bool:
    parameters = values.get("parameters") or {}
    found = parameters.get(name, default) if isinstance(parameters, dict) else parameters
    if not isinstance(found, bool):
        raise _bad(f"parameters.{name}", "true or false", _shown(found))
    return found


def _shown(value: Any) -> str:
    """A value as it is written; of a long one its type and length, since it may have millions."""
    if isinstance(value, str | list | dict) and len(value) > _LONG:
        return f"a {type(value).__name__} of length {len(value)}"
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        if any(isinstance(one, str | list | dict) and len(one) > _LONG for one in inner):
            return f"a {type(value).__name__} of long values"
    return written(value)


def _bad(key: str, expected: str, found: str) -> Refused:
    return Refused(400, f"{key}: expected {expected}, got {found}", FORMAT)
