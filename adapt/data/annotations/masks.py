"""Annotations as pictures: plain PNGs of ids, and CVAT's `Segmentation mask 1.1`.

CVAT's archive has SegmentationClass/KEY.png in the colours of labelmap.txt, SegmentationObject/
KEY.png with a colour an object, and the names in ImageSets/Segmentation/default.txt. Black is the
background, which is no class.
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from PIL import Image

from adapt.batch import IGNORED
from adapt.data.annotations.annotated import Annotated, ClassTable, Ids
from adapt.data.colour_tables import read_colour_table
from adapt.data.colours import ColouredClass, ColourTable
from adapt.data.raw_images import IMAGE_SUFFIXES
from adapt.data.raw_labels import read_colours, read_ids
from adapt.errors import DataError, JobError

LABELMAP, BY_CLASS, BY_OBJECT = "labelmap.txt", "SegmentationClass", "SegmentationObject"
_NAMES = "ImageSets/Segmentation/default.txt"
_BACKGROUND = "background"


def write_png(out: Path, classes: ClassTable, images: Iterable[Annotated]) -> None:
    """A folder of KEY.png with the dataset's ids, 255 where there is no class."""
    folder = out / "png"
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in images:
        Image.fromarray(classes.to_ids(labels)).save(folder / f"{Path(name).stem}.png")


def read_png(export: Path, classes: ClassTable) -> Iterator[Annotated]:
    """Files of ids anywhere below the export."""
    for path in sorted(export.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            yield Annotated(path.name, classes.from_ids(read_ids(path), path))


def write_cvat(out: Path, classes: ClassTable, images: Iterable[Annotated]) -> None:
    """`cvat.zip`. Raises `JobError` for a black class, which would be the background."""
    if (0, 0, 0) in classes.colours:
        name = classes.names[classes.colours.index((0, 0, 0))]
        raise JobError(
            f"classes: expected colours other than black, CVAT's background, got it for {name!r}",
            "give the class another colour",
        )
    stems = []
    with ZipFile(out / "cvat.zip", "w", ZIP_DEFLATED) as archive:
        for file_name, labels in images:
            stems.append(Path(file_name).stem)
            for folder, colours in ((BY_CLASS, classes.colours), (BY_OBJECT, _objects(classes))):
                data = io.BytesIO()
                Image.fromarray(_coloured(labels, colours)).save(data, "PNG")
                archive.writestr(f"{folder}/{stems[-1]}.png", data.getvalue())
        archive.writestr(_NAMES, "".join(f"{stem}\n" for stem in stems))
        archive.writestr(LABELMAP, labelmap(classes))


def labelmap(classes: ClassTable) -> str:
    """CVAT's labelmap.txt."""
    rows = [(_BACKGROUND, (0, 0, 0)), *zip(classes.names, classes.colours, strict=True)]
    lines = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in rows]
    return "\n".join(["# label:color_rgb:parts:actions", *lines, ""])


def read_cvat(export: Path, classes: ClassTable) -> Iterator[Annotated]:
    """SegmentationClass/ of an unpacked archive, in the colours of its labelmap.txt; the background
    is 255. Raises `DataError` where one of them is missing."""
    tables = sorted(export.rglob(LABELMAP))
    if not tables:
        raise DataError(
            f"{export}: expected CVAT's {LABELMAP} and {BY_CLASS}/, got none",
            "export as `Segmentation mask 1.1`",
        )
    table = ColourTable(
        ColouredClass(
            one.name,
            one.colour,
            IGNORED if one.name == _BACKGROUND else classes.number(one.name, tables[0]),
        )
        for one in read_colour_table(tables[0]).classes
    )
    for path in sorted((tables[0].parent / BY_CLASS).rglob("*.png")):
        yield Annotated(path.name, read_colours(path, table))


def _objects(classes: ClassTable) -> list[tuple[int, int, int]]:
    """A colour for the one object of each class, Pascal VOC's."""
    return [_voc_colour(number + 1) for number in range(len(classes.names))]


def _voc_colour(number: int) -> tuple[int, int, int]:
    """The bits of a number, three at a time, spread over the high bits of the channels."""
    parts = [0, 0, 0]
    for shift in range(7, -1, -1):
        for channel in range(3):
            parts[channel] |= (number >> channel & 1) << shift
        number >>= 3
    return parts[0], parts[1], parts[2]


def _coloured(labels: Ids, colours: Iterable[tuple[int, int, int]]) -> Ids:
    table = np.zeros((256, 3), np.uint8)
    listed = np.array(list(colours), np.uint8)
    table[: len(listed)] = listed
    return table[labels]
