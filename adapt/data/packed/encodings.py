"""The table of encodings: how a packed split stores its images. A manifest keeps the row's name as
`profile`.

Every row packs one image file, and says how images are sized. A new encoding is a class, or a value
of one, and a line in `ENCODINGS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from adapt.data.packed import codecs
from adapt.data.raw_images import ImageHeader, read_image
from adapt.errors import DataError, JobError

SUFFIXES = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg"}
"""Format of an owner's image file -> suffix in the shard."""


class PackedImage(NamedTuple):
    """An image as a shard stores it; `size_hw` in pixels."""

    suffix: str
    data: bytes
    size_hw: tuple[int, int]


class Decoded(NamedTuple):
    """An owner's image: the suffix of its format, and its pixels."""

    suffix: str
    image: codecs.Pixels


PNG_START = b"\x89PNG"


class ImageEncoding(ABC):
    """How images are stored."""

    resized_when_read: ClassVar[bool]
    """True where readers may request another size than the stored one."""

    @abstractmethod
    def read(self, path: Path) -> codecs.Pixels:
        """An image file -> (H, W, 3) uint8 RGB as it is stored, before any resizing.

        Raises `DataError` naming a file that cannot be decoded.
        """

    @abstractmethod
    def pack(self, path: Path, size_hw: tuple[int, int] | None) -> PackedImage:
        """An image file -> its stored bytes, resized to `size_hw` where given.

        Raises `DataError` naming a file that cannot be decoded.
        """

    @abstractmethod
    def mean_bytes(self, files_bytes: Sequence[int], sizes_hw: Sequence[tuple[int, int]]) -> float:
        """Roughly the bytes of a stored image, of files and stored sizes like these."""

    def check(self, size_hw: tuple[int, int] | None) -> None:  # noqa: B027, most rows take any
        """Raise `JobError` for a size at which this row cannot store images."""

    def fault(self, header: ImageHeader) -> str | None:  # noqa: ARG002, most rows take any
        """The reason why this row cannot store such an image, None where it can."""
        return None


@dataclass(frozen=True)
class Recoded(ImageEncoding):
    """Decoded, resized as the papers do, and encoded as `suffix`. Where that is lossless, each
    image is decoded again and compared. `bytes_per_pixel` was measured on street scenes at
    1280x720; a plan needs an estimate only."""

    suffix: str
    lossless: bool
    bytes_per_pixel: float

    resized_when_read = False

    def read(self, path: Path) -> codecs.Pixels:
        """As `ImageEncoding.read`."""
        return read_image(path)

    def pack(self, path: Path, size_hw: tuple[int, int] | None) -> PackedImage:
        """As `ImageEncoding.pack`."""
        image = self.read(path)
        if size_hw:
            image = codecs.resize_image(image, size_hw)
        data = codecs.encode_image(image, self.suffix)
        if self.lossless:
            refuse_changed(codecs.decode_image(data, self.suffix, str(path)), image, path)
        return PackedImage(self.suffix, data, image.shape[:2])

    def mean_bytes(self, files_bytes: Sequence[int], sizes_hw: Sequence[tuple[int, int]]) -> float:  # noqa: ARG002
        """As `ImageEncoding.mean_bytes`, from the pixels."""
        pixels = sum(height * width for height, width in sizes_hw)
        return self.bytes_per_pixel * pixels / len(sizes_hw)


@dataclass(frozen=True)
class Original(ImageEncoding):
    """The owner's bytes at full size. They are decoded once while packing, with the codec that
    training will use, so that a corrupt file is found here, not there."""

    resized_when_read = True

    def read(self, path: Path) -> codecs.Pixels:
        """As `ImageEncoding.read`."""
        data = path.read_bytes()
        if data.startswith(PNG_START):  # what the codec reads, with more checks
            return read_image(path)
        return self._decoded(path, data).image

    def pack(self, path: Path, size_hw: tuple[int, int] | None) -> PackedImage:
        """As `ImageEncoding.pack`."""
        assert size_hw is None, "checked with the arguments"
        data = path.read_bytes()
        suffix, image = self._decoded(path, data)
        return PackedImage(suffix, data, image.shape[:2])

    def _decoded(self, path: Path, data: bytes) -> "Decoded":
        suffix = "png" if data.startswith(PNG_START) else "jpg"
        return Decoded(suffix, codecs.decode_image(data, suffix, str(path)))

    def fault(self, header: ImageHeader) -> str | None:
        """As `ImageEncoding.fault`: readers know two formats, and turn nothing."""
        if header.format not in SUFFIXES:
            return f"expected a PNG or JPEG file with --original, got {header.format}"
        if header.orientation != 1:
            return (
                "expected an upright image with --original, got one that its EXIF orientation turns"
            )
        return None

    def mean_bytes(self, files_bytes: Sequence[int], sizes_hw: Sequence[tuple[int, int]]) -> float:  # noqa: ARG002
        """As `ImageEncoding.mean_bytes`: the files themselves."""
        return sum(files_bytes) / len(files_bytes)

    def check(self, size_hw: tuple[int, int] | None) -> None:
        """As `ImageEncoding.check`: no size may be set."""
        if size_hw is not None:
            raise JobError(
                f"--size-hw: expected no size with --original, which keeps the files as they are, "
                f"got {size_hw}",
                fix="leave out --size-hw or --original",
            )


ENCODINGS: dict[str, ImageEncoding] = {
    "exact": Recoded("qoi", lossless=True, bytes_per_pixel=1.6),
    "small": Recoded("jpg", lossless=False, bytes_per_pixel=0.36),
    "original": Original(),
}

if TYPE_CHECKING:
    EncodingName = str
else:
    EncodingName = Literal[tuple(ENCODINGS)]
"""A name of the table."""


def refuse_changed(found: codecs.Pixels, written: codecs.Pixels, path: Path) -> None:
    """`DataError` where what was encoded does not decode to itself."""
    if not np.array_equal(found, written):
        raise DataError(
            f"{path}: its packed bytes do not decode to the same pixels, so this machine's memory "
            "or a library is faulty",
            fix="pack again on another machine",
        )
