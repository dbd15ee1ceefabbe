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
from adapt.errors import DataError, JobError

SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg"}
"""Ending of an owner's image file -> suffix in the shard."""


class PackedImage(NamedTuple):
    """An image as a shard stores it; `size_hw` in pixels."""

    suffix: str
    data: bytes
    size_hw: tuple[int, int]


class ImageEncoding(ABC):
    """How images are stored."""

    resized_when_read: ClassVar[bool]
    """True where readers may request another size than the stored one."""

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


@dataclass(frozen=True)
class Recoded(ImageEncoding):
    """Decoded, resized as the papers do, and encoded as `suffix`. Where that is lossless, each
    image is decoded again and compared. `bytes_per_pixel` was measured on street scenes at
    1280x720; a plan needs an estimate only."""

    suffix: str
    lossless: bool
    bytes_per_pixel: float

    resized_when_read = False

    def pack(self, path: Path, size_hw: tuple[int, int] | None) -> PackedImage:
        """As `ImageEncoding.pack`."""
        try:
            image = codecs.read_rgb(str(path))
        except codecs.PILLOW_FAILURES as error:
            raise DataError(f"{path}: corrupt image: {error}", fix=REPLACE_FILE) from error
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

    def pack(self, path: Path, size_hw: tuple[int, int] | None) -> PackedImage:
        """As `ImageEncoding.pack`."""
        assert size_hw is None, "checked with the arguments"
        suffix, data = SUFFIXES[path.suffix.lower()], path.read_bytes()
        image = codecs.decode_image(data, suffix, str(path))
        return PackedImage(suffix, data, image.shape[:2])

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


REPLACE_FILE = "replace the file, or leave the sample out with --skip KEY"

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
