"""Images of requests: bytes of PNG or JPEG -> (H, W, 3) uint8 RGB, by the rules of
`adapt.use.images`. Size and scans are checked by the header, before a pixel is decoded; two formats
only, since each decoder is one more that strangers can reach.
"""

import io

from PIL import Image, UnidentifiedImageError

from adapt.data.packed.codecs import MAX_SIDE_PX, PILLOW_FAILURES, Pixels
from adapt.data.writing.survey import too_large
from adapt.errors import DataError
from adapt.serve.limits import PixelLimit
from adapt.serve.refused import Refused
from adapt.use.images import rgb_pixels
from storage.stores import Stores

IMAGE_TYPES = ("image/png", "image/jpeg", "application/octet-stream", "application/x-image")
"""Content types of an image; its own bytes say which of the two formats it is."""
FORMATS = ("PNG", "JPEG")
MAX_SCANS = 100
"""Encoders of progressive JPEG write about ten; each costs a pass over the whole picture."""

_NEW_FILE = "send a PNG or JPEG file that an image viewer opens"
_STORES = Stores()


def decoded(data: bytes, limit: PixelLimit, name: str = "image") -> Pixels:
    """The pixels of a file. Raises `Refused`: 413 for too many pixels, 400 for another file, a
    broken one, or values without a fixed range."""
    if not data:
        raise Refused(400, f"{name}: expected the bytes of a PNG or JPEG file, got none", _NEW_FILE)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_pixels(image.height, image.width, limit, name)
            _check_scans(data, str(image.format), name)
            if image.format == "PNG":
                image.verify()  # the checksums, which decoding ignores
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return rgb_pixels(image, name, _STORES)
    except Image.DecompressionBombError as error:
        raise _too_many("more", limit, name) from error
    except UnidentifiedImageError as error:
        raise Refused(
            400, f"{name}: expected a PNG or JPEG file, got {_kind(data)}", _NEW_FILE
        ) from error
    except DataError as error:
        raise Refused(400, error.problem, error.fix or _NEW_FILE) from error
    except PILLOW_FAILURES as error:
        raise Refused(400, f"{name}: corrupt image: {error}", _NEW_FILE) from error


def check_pixels(height: int, width: int, limit: PixelLimit, name: str) -> None:
    """Raise `Refused` (413) for an image of more pixels than are taken."""
    if height * width > limit.most or too_large((height, width)):
        raise _too_many(f"{height}x{width} = {height * width}", limit, name)


def _too_many(found: str, limit: PixelLimit, name: str) -> Refused:
    within, option = "", "--max-pixels"
    if limit.image_s is not None:
        within = f", which this CPU computes within {limit.image_s:g} s"
        option = "--max-image-s"
    return Refused(
        413,
        f"{name}: expected at most {limit.most} pixels{within}, and sides of at most "
        f"{MAX_SIDE_PX}, got {found}",
        f"send a smaller image, or start the server with a larger {option}",
    )


def _check_scans(data: bytes, kind: str, name: str) -> None:
    found = data.count(b"\xff\xda") if kind != "PNG" else 0
    if found > MAX_SCANS:
        raise Refused(
            400, f"{name}: expected a JPEG of at most {MAX_SCANS} scans, got {found}", _NEW_FILE
        )


def _kind(data: bytes) -> str:
    if data.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page"
    return f"another file (it begins with {data[:8]!r})"
