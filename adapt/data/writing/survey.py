"""Checking the raw files of a split by their headers, before the first byte is packed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from adapt.data.datasets import RawSample, refuse
from adapt.data.packed.codecs import MAX_PIXELS, MAX_SIDE_PX, PILLOW_FAILURES


class Planned(NamedTuple):
    """A sample with the sizes of its files in bytes, and its size in pixels."""

    sample: RawSample
    image_bytes: int
    label_bytes: int
    size_hw: tuple[int, int]


def survey(raw_dir: Path, samples: list[RawSample]) -> list[Planned]:
    """Read every file's header. `DataError` lists the files that are no images and the pairs of
    unequal size.
    """
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(survey_sample, samples))
    refuse(raw_dir, [problem for problem in seen if isinstance(problem, str)])
    return [planned for planned in seen if isinstance(planned, Planned)]


def survey_sample(sample: RawSample) -> Planned | str:
    """The sizes of one sample's files, or their fault."""
    path = sample.image_path
    try:
        size_hw = picture_hw(path)
        if too_large(size_hw):
            return f"{path}: the image is {as_text(size_hw)} pixels (HxW), expected {LARGEST}"
        if sample.label_path is None:
            return Planned(sample, path.stat().st_size, 0, size_hw)
        path = sample.label_path
        label_hw = picture_hw(path)
    except PILLOW_FAILURES as error:
        return f"{path}: corrupt image: {error}"
    if label_hw != size_hw:
        return (
            f"{path}: the label is {as_text(label_hw)}, its image {as_text(size_hw)} pixels (HxW)"
        )
    return Planned(sample, sample.image_path.stat().st_size, path.stat().st_size, size_hw)


LARGEST = f"sides of at most {MAX_SIDE_PX} and {MAX_PIXELS} pixels in all"


def too_large(size_hw: tuple[int, int]) -> bool:
    """Return whether readers of packed data would refuse an image of this size."""
    return max(size_hw) > MAX_SIDE_PX or size_hw[0] * size_hw[1] > MAX_PIXELS


def as_text(size_hw: tuple[int, int]) -> str:
    """(height, width) -> `HxW`."""
    return f"{size_hw[0]}x{size_hw[1]}"


def picture_hw(path: Path) -> tuple[int, int]:
    """Height and width in pixels from the header alone."""
    with Image.open(path) as image:
        return image.height, image.width
