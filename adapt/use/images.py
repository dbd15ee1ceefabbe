"""Images as people hold them -> (H, W, 3) uint8 RGB, by the rules of packing: greys become RGB, 16
bits keep their high byte, an EXIF orientation is applied, alpha is dropped. Others are refused.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from adapt.data.packed.codecs import PILLOW_FAILURES, Pixels, is_deep_grey, rgb_of
from adapt.data.raw_images import (
    ImageHeader,
    check_bright,
    header_of,
    raw_mode_of,
    read_image,
)
from adapt.data.writing.survey import LARGEST, as_text, checked_header, too_large
from adapt.errors import DataError, JobError
from storage.store import Store
from storage.stores import Stores
from storage.uris import split_uri, without_password

ImageLike = str | os.PathLike[str] | NDArray[Any] | Image.Image
"""A path, a URI, an array or a Pillow image."""

_OTHER_VALUES = "give one image of 8 or 16 bits a channel"
_WHOLE = "give a picture that an image viewer opens"
_HIGH_BYTE = 8
_TAKEN = "a path, a URI, a NumPy array, a Pillow image or a list of them"
_TO_RGB: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda values: np.repeat(values, 3, axis=2),
    2: lambda values: np.repeat(values[..., :1], 3, axis=2),
    3: lambda values: values,
    4: lambda values: values[..., :3],
}
"""Channels of an array -> RGB: grey, grey and alpha, RGB, RGB and alpha."""


def rgb_pixels(image: ImageLike, name: str, stores: Stores) -> Pixels:
    """(H, W, 3) uint8 RGB, upright. `name` stands in messages for images without a path.

    An array is (H, W) or (H, W, C), uint8, uint16 (0 to 65535) or bool, its channels grey, grey and
    alpha, RGB or RGB and alpha. Raises `DataError` for pixels that are refused, `JobError` for what
    is no image, `StoreError`.
    """
    if isinstance(image, str | os.PathLike):
        return _of_uri(os.fspath(image), stores)
    if isinstance(image, Image.Image):
        return _of_pillow(image, name)
    if isinstance(image, np.ndarray):
        return _of_array(image, name)
    fix = "call .permute(1, 2, 0).cpu().numpy()" if hasattr(image, "permute") else ""
    if isinstance(image, bytes | bytearray):
        fix = "open the file's bytes with Pillow: Image.open(io.BytesIO(BYTES))"
    raise JobError(f"{name}: expected {_TAKEN}, got {type(image).__name__}", fix)


def _of_uri(uri: str, stores: Stores) -> Pixels:
    scheme, path = split_uri(uri)
    if scheme == "file":
        return _of_file(Path(path), uri)
    address, mark, query = uri.partition("?")  # of a presigned URL
    root, _, key = address.rpartition("/")
    return stored_pixels(stores.open(root), key + mark + query, uri)


def stored_pixels(store: Store, key: str, name: str) -> Pixels:
    """(H, W, 3) uint8 RGB of an image in a store, which many images may share. Raises as
    `rgb_pixels`."""
    with tempfile.TemporaryDirectory(prefix="segadapt-image-") as folder:
        local = Path(folder) / "image"
        store.get_file(key, local)
        return _of_file(local, without_password(name))


def _of_file(path: Path, name: str) -> Pixels:
    if path.is_dir():
        raise DataError(f"{name}: expected an image, got a folder", "give a list of its files")
    if not path.is_file():
        raise DataError(f"{name}: expected an image, got no file")
    _, fault = checked_header(path, ImageHeader.fault)
    if fault is not None:
        fix = _OTHER_VALUES if fault.startswith("expected") else _WHOLE
        raise DataError(f"{name}: {fault}", fix)
    try:
        return read_image(path)
    except DataError as error:
        raise DataError(error.problem.replace(str(path), name), error.fix) from error


def _of_pillow(image: Image.Image, name: str) -> Pixels:
    try:
        deep = is_deep_grey(image) or "16" in raw_mode_of(image)
        header = header_of(image)
        _check_size(header.size_hw, name)
        fault = header.fault()
        if fault is not None:
            raise DataError(f"{name}: {fault}", _OTHER_VALUES)
        upright = ImageOps.exif_transpose(image)
        upright.format = image.format  # by which a deep PPM is known
        pixels = rgb_of(upright)
    except PILLOW_FAILURES as error:
        raise DataError(f"{name}: corrupt image: {error}") from error
    if deep:
        check_bright(pixels, name)
    return pixels


def _of_array(values: NDArray[Any], name: str) -> Pixels:
    planes = values[..., None] if values.ndim == 2 else values
    if planes.ndim != 3 or planes.shape[2] not in _TO_RGB or 0 in planes.shape:
        raise JobError(
            f"{name}: expected an array of shape (H, W) or (H, W, 1 to 4), got "
            f"{list(values.shape)}",
            _shape_fix(values),
        )
    _check_size(planes.shape[:2], name)
    return np.ascontiguousarray(_TO_RGB[planes.shape[2]](_bytes_of(planes, name)))


def _shape_fix(values: NDArray[Any]) -> str:
    if values.ndim == 4:
        return "give a list of images: list(ARRAY)"
    if values.ndim == 3 and values.shape[0] in _TO_RGB:
        return "put the channels last: ARRAY.transpose(1, 2, 0)"
    return "give one image, with its channels last"


def _bytes_of(values: NDArray[Any], name: str) -> Pixels:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        high = (values >> _HIGH_BYTE).astype(np.uint8)
        check_bright(high, name)
        return high
    raise JobError(
        f"{name}: expected an array of uint8, uint16 or bool, got {values.dtype}, whose values "
        "have no fixed range",
        "scale the values to 0..255 and convert them: ARRAY.round().astype('uint8')",
    )


def _check_size(size_hw: tuple[int, ...], name: str) -> None:
    size = (size_hw[0], size_hw[1])
    if too_large(size):
        raise DataError(
            f"{name}: expected {LARGEST}, got an image of {as_text(size)} pixels (HxW)",
            "give a smaller one",
        )
