"""Reading the image files of raw datasets: their headers, and the pixels that a viewer shows.

Networks see 8-bit RGB. Whatever is more or other than that is either converted in one known way,
which the packing states, or refused by name: 16 bits keep their high byte, as PNG's specification
has it; an EXIF orientation is applied, as viewers and annotation tools do; alpha is dropped. Floats
and 32-bit integers have no fixed range, so nothing could be kept but a guess.
"""

from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from adapt.data.archives import readable
from adapt.data.packed.codecs import PILLOW_FAILURES, Pixels, is_deep_grey, rgb_of
from adapt.data.problems import REPLACE_FILE
from adapt.errors import DataError

NAMES_OF_SUFFIXES = (
    "png jpg jpeg jpe jfif webp tif tiff bmp gif avif jp2 j2k jpx tga ppm pgm pbm pnm pfm"
)
IMAGE_SUFFIXES = frozenset(f".{name}" for name in NAMES_OF_SUFFIXES.split())
"""Endings of image files; anything else in a folder is left out."""

ORIENTATION = 0x0112
TURNED = range(5, 9)
"""Orientations that swap height and width."""
PHOTOMETRIC = 262
WHITE_IS_ZERO = 0

ALPHA = "images with alpha, which is dropped"
CONVERTED = {
    "LA": ALPHA,
    "PA": ALPHA,
    "RGBA": ALPHA,
    "CMYK": "images in CMYK, to RGB",
    "YCbCr": "images in YCbCr, to RGB",
}
"""Mode -> the statement of its conversion."""
UNCHANGED = frozenset(("1", "L", "P", "RGB"))
DEEP_MODES = frozenset(("I;16", "I;16B", "I;16L", "I;16N", "I"))
DEEP = "images of 16 bits, to 8: the high byte is kept"
UPRIGHT = "images turned upright by their EXIF orientation"

LEAST_HIGH_BYTE = 16
"""An image whose high bytes are all smaller holds 12 bits or fewer in 16."""
POINTER = b"version https://git-lfs"


class ImageHeader(NamedTuple):
    """The header of an image file. `size_hw` is that of the upright image, `stored_hw` that of its
    rows; `raw_mode` is Pillow's name of the stored pixels; `frames` counts pages; `transparent` is
    true where a colour, of the palette or not, is transparent, which no mode shows.
    """

    format: str
    mode: str
    raw_mode: str
    size_hw: tuple[int, int]
    stored_hw: tuple[int, int]
    orientation: int
    frames: int
    white_is_zero: bool
    compression: str
    transparent: bool = False

    @property
    def deep(self) -> bool:
        """True for 16 bits a channel; Pillow opens a deep PPM as 32 bits, scaled to 16."""
        return "16" in self.raw_mode or (self.mode == "I" and self.format == "PPM")

    def fault(self) -> str | None:
        """The reason why the image cannot be packed, None where it can."""
        if self.frames > 1 and self.format != "MPO":  # a camera's second view
            return f"expected one image in the file, got {self.frames}"
        if self.deep and self.white_is_zero:
            return "expected 16 bits in which 0 is black, got 0 for white"
        if self.mode in UNCHANGED | CONVERTED.keys() or (self.deep and self.mode in DEEP_MODES):
            return None
        return (
            f"expected an image of 8 or 16 bits a channel, got {self.raw_mode}, whose values have "
            "no fixed range"
        )

    def conversions(self) -> list[str]:
        """Statements of what packing changes."""
        found = [CONVERTED[self.mode]] if self.mode in CONVERTED else []
        found += [ALPHA] if self.transparent and ALPHA not in found else []
        found += [DEEP] if self.deep else []
        return found + ([UPRIGHT] if self.orientation != 1 else [])


def read_header(path: Path) -> ImageHeader:
    """The header alone. Raises one of `PILLOW_FAILURES`."""
    with Image.open(readable(path)) as image:
        return header_of(image)


def header_of(image: Image.Image) -> ImageHeader:
    """The header of an open image, before its pixels are loaded. Raises one of
    `PILLOW_FAILURES`."""
    raw_mode = raw_mode_of(image)
    orientation = orientation_of(image)  # may load the pixels
    width_px, height_px = image.size
    size_hw = stored_hw = (height_px, width_px)
    if orientation in TURNED and image.format == "TIFF":  # Pillow has turned its size
        stored_hw = (width_px, height_px)
    elif orientation in TURNED:
        size_hw = (width_px, height_px)
    tags = getattr(image, "tag_v2", {})
    return ImageHeader(
        format=str(image.format),
        mode=image.mode,
        raw_mode=raw_mode,
        size_hw=size_hw,
        stored_hw=stored_hw,
        orientation=orientation,
        frames=getattr(image, "n_frames", 1),
        white_is_zero=tags.get(PHOTOMETRIC) == WHITE_IS_ZERO,
        compression=str(image.info.get("compression", "")),
        transparent="transparency" in image.info,
    )


def raw_mode_of(image: Image.Image) -> str:
    """Pillow's name of the stored pixels, such as `L;4` for four bits; its mode where it keeps
    none. Only before the pixels are loaded.
    """
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else ()
    first = arguments if isinstance(arguments, str) else next(iter(arguments or ()), None)
    return first if isinstance(first, str) and image.format in RAW_MODES else image.mode


RAW_MODES = frozenset(("PNG", "TIFF", "BMP", "PPM", "TGA"))
"""Formats whose tiles name the stored pixels; the others' arguments are their decoders' own."""


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation from 1 (upright) to 8. Pillow decodes a PNG to find it behind the pixels,
    so its chunks are searched first.
    """
    stated = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"} & image.info.keys()
    if isinstance(image, PngImageFile) and not stated and not has_chunk(image.fp, b"eXIf"):
        return 1
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def has_chunk(file: IO[bytes] | None, kind: bytes) -> bool:
    """Return whether a PNG has a chunk of that kind; the file's position stays."""
    assert file is not None, "open until its pixels are loaded"
    before = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            if head[4:] == kind:
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)
        return False
    finally:
        file.seek(before)


def read_image(path: Path) -> Pixels:
    """An image file -> (H, W, 3) uint8 RGB, upright. `DataError` names a file that cannot be read
    or has no meaning in 8 bits.
    """
    try:
        verify(path)
        with Image.open(readable(path)) as image:
            deep = is_deep_grey(image) or "16" in raw_mode_of(image)
            ImageOps.exif_transpose(image, in_place=True)
            pixels = rgb_of(image)
    except PILLOW_FAILURES as error:
        text = corruption(path, error)
        raise DataError(f"{path}: corrupt image: {text}", fix=REPLACE_FILE) from error
    if deep:
        check_bright(pixels, str(path))
    return pixels


def check_bright(pixels: Pixels, name: str) -> None:
    """Raise `DataError` for the high bytes of an image that has 12 bits or fewer in 16."""
    if pixels.max() < LEAST_HIGH_BYTE:
        raise DataError(
            f"{name}: expected values up to 65535 in an image of 16 bits, got none above "
            f"{256 * LEAST_HIGH_BYTE - 1}, which would be nearly black in 8 bits",
            fix="scale the values to 0..65535, or save the image with 8 bits",
        )


def verify(path: Path) -> None:
    """Check the checksums of a PNG, which no decoder does: a download that stopped and left zeros
    decodes to other pixels. Raises one of `PILLOW_FAILURES`.
    """
    with Image.open(readable(path)) as image:
        if image.format == "PNG":
            image.verify()


def corruption(path: Path, error: BaseException) -> str:
    """The fault of a file that Pillow cannot read, in one line."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if not isinstance(error, UnidentifiedImageError):
        return str(error) or type(error).__name__
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "the file is empty"
    if start.startswith(POINTER):
        return "a pointer of Git LFS in place of the file (run `git lfs pull`)"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page in place of the file"
    return "no image of a format that can be read"
