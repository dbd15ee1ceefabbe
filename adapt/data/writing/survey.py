"""Checking the raw files of a split before the first byte is packed: all headers when the plan is
made, all pixels of what is to be packed afterwards. Every fault of every file is collected.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from adapt.data.colours import RGB, ColourTable, UnknownColour, UnknownColours
from adapt.data.datasets import RawSample
from adapt.data.packed.codecs import MAX_PIXELS, MAX_SIDE_PX, PILLOW_FAILURES
from adapt.data.packed.encodings import ImageEncoding
from adapt.data.problems import Problem, shown
from adapt.data.raw_images import ImageHeader, corruption, read_header
from adapt.data.raw_labels import lossy_fault
from adapt.data.workers import SampleCounter, stopping, watch
from adapt.errors import DataError

THREADS = 8
"""Reading headers waits for the disk."""


class Planned(NamedTuple):
    """A sample with the sizes of its files in bytes, its size in pixels, and what packing converts
    in it.
    """

    sample: RawSample
    image_bytes: int
    label_bytes: int
    size_hw: tuple[int, int]
    conversions: tuple[str, ...] = ()


class Surveyed(NamedTuple):
    """A sample whose headers were read. `image` and `label` are their faults."""

    sample: RawSample
    planned: Planned | None
    image: str | None = None
    label: str | None = None

    @property
    def problems(self) -> list[Problem]:
        """The faults as problems."""
        pairs = ((self.sample.image_path, self.image), (self.sample.label_path, self.label))
        return [
            Problem(shown(path), fault, self.sample.key, SETTLE if "which keeps" in fault else "")
            for path, fault in pairs
            if path and fault
        ]


def survey(samples: Sequence[RawSample], encoding: ImageEncoding) -> list[Surveyed]:
    """Read every file's header."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda sample: survey_sample(sample, encoding), samples))


def survey_sample(sample: RawSample, encoding: ImageEncoding) -> Surveyed:
    """The sizes of one sample's files, or their faults."""
    header, fault = checked_header(
        sample.image_path, lambda found: found.fault() or encoding.fault(found)
    )
    if sample.label_path is None:
        return surveyed(sample, header, fault, None)
    path = sample.label_path
    label_header, label_fault = checked_header(path, lambda found: lossy_fault(path, found))
    if label_fault is None and header and label_header:
        label_fault = size_fault(header, label_header)
    return surveyed(sample, header, fault, label_fault)


def surveyed(
    sample: RawSample, header: ImageHeader | None, image: str | None, label: str | None
) -> Surveyed:
    """A sample's result; it is planned where nothing is wrong."""
    if header is None or image or label:
        return Surveyed(sample, None, image, label)
    label_bytes = sample.label_path.stat().st_size if sample.label_path else 0
    image_bytes = sample.image_path.stat().st_size
    conversions = tuple(header.conversions())
    return Surveyed(sample, Planned(sample, image_bytes, label_bytes, header.size_hw, conversions))


def checked_header(
    path: Path, fault_of: Callable[[ImageHeader], str | None]
) -> tuple[ImageHeader | None, str | None]:
    """The header of a file and its fault; None where there is none."""
    try:
        header = read_header(path)
    except Image.DecompressionBombError:
        return None, f"expected {LARGEST}, got more than twice as many"
    except PILLOW_FAILURES as error:
        return None, f"corrupt image: {corruption(path, error)}"
    if too_large(header.size_hw):
        return header, (f"the image is {as_text(header.size_hw)} pixels (HxW), expected {LARGEST}")
    return header, fault_of(header)


def size_fault(image: ImageHeader, label: ImageHeader) -> str | None:
    """The fault of a label of another size than its upright image."""
    if label.size_hw == image.size_hw:
        unsure = image.orientation != label.orientation == 1 and image.size_hw == image.stored_hw
        return UNSURE.format(image.orientation) if unsure else None
    turned = label.size_hw == image.stored_hw
    hint = ", which its EXIF orientation turns, while the label lies as the stored rows"
    return (
        f"the label is {as_text(label.size_hw)}, its image {as_text(image.size_hw)} pixels (HxW)"
        + (hint if turned else "")
    )


UNSURE = (
    "its image has the EXIF orientation {}, which keeps the size, and the label has none: it may "
    "lie upright, as viewers show the image, or as the stored rows"
)
SETTLE = (
    "where labels lie upright, turn the images' pixels too (mogrify -auto-orient FILE); where they "
    "lie as the stored rows, remove the orientation (exiftool -Orientation= FILE)"
)
ReadLabel = Callable[[Path], object]


def pixel_problems(
    found: Iterable[Surveyed],
    encoding: ImageEncoding,
    read_label: ReadLabel,
    workers: int,
    report: Callable[[int], None] = lambda _: None,
) -> "PixelFaults":
    """Decode every file whose header is in order, on `workers` threads."""
    faults, counter = PixelFaults(), SampleCounter(0)

    def check(one: Surveyed) -> None:
        counter.check()
        if one.image is None:
            faults.note(one.sample.image_path, one.sample.key, encoding.read)
        if one.label is None and one.sample.label_path is not None:
            faults.note(one.sample.label_path, one.sample.key, read_label)
        counter.add()

    with ThreadPoolExecutor(workers) as pool, stopping(counter):
        watch([pool.submit(check, one) for one in found], counter, report)
    return faults


class PixelFaults:
    """The faults that decoding shows, and the colours that no class has."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self.pixels: Counter[RGB] = Counter()
        self.files: Counter[RGB] = Counter()
        self._lock = threading.Lock()

    @property
    def problems(self) -> list[Problem]:
        """The faults in order of file."""
        return sorted(self._problems)

    def note(self, path: Path, key: str, read: Callable[[Path], object]) -> None:
        """Read a file and note its fault."""
        try:
            read(path)
        except DataError as error:
            self._problems.append(Problem.of(path, error, key))
            if isinstance(error, UnknownColours):
                self.add_colours(error)

    def add_colours(self, error: UnknownColours) -> None:
        """Count a file's unknown colours; many threads call it."""
        with self._lock:
            self.pixels.update(error.pixels)
            self.files.update(error.pixels.keys())

    def unknown_colours(self, colours: ColourTable | None) -> list[UnknownColour]:
        """The unknown colours of all files, most pixels first."""
        if colours is None:
            return []
        return [
            UnknownColour(colour, count, self.files[colour], colours.near(colour))
            for colour, count in self.pixels.most_common()
        ]


LARGEST = f"sides of at most {MAX_SIDE_PX} and {MAX_PIXELS} pixels in all"


def too_large(size_hw: tuple[int, int]) -> bool:
    """Return whether readers of packed data would refuse an image of this size."""
    return max(size_hw) > MAX_SIDE_PX or size_hw[0] * size_hw[1] > MAX_PIXELS


def as_text(size_hw: tuple[int, int]) -> str:
    """(height, width) -> `HxW`."""
    return f"{size_hw[0]}x{size_hw[1]}"
