"""The formats that annotation tools read and write, and an export of theirs as raw folders.

FOLDER/ids.csv   FOLDER/images/KEY.png   FOLDER/export/   what the tool exported, zipped or not
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

from PIL import Image

from adapt.data.annotations.annotated import Annotated, ClassTable, read_classes
from adapt.data.annotations.coco import read_coco, read_panoptic, write_coco, write_panoptic
from adapt.data.annotations.label_studio import read_label_studio, write_label_studio
from adapt.data.annotations.masks import read_cvat, read_png, write_cvat, write_png
from adapt.data.found_files import image_files
from adapt.errors import DataError, counted

EXPORT, IMAGES = "export", "images"


class AnnotationFormat(NamedTuple):
    """A row of `ANNOTATIONS`. `write` puts pre-labels into a folder, `read` yields the annotated
    images of an unpacked export."""

    summary: str
    write: Callable[[Path, ClassTable, Iterable[Annotated]], None]
    read: Callable[[Path, ClassTable], Iterator[Annotated]]


ANNOTATIONS = {
    "annotated_png": AnnotationFormat("PNGs of ids", write_png, read_png),
    "cvat": AnnotationFormat("CVAT's Segmentation mask 1.1", write_cvat, read_cvat),
    "label_studio": AnnotationFormat(
        "Label Studio's JSON with brush masks", write_label_studio, read_label_studio
    ),
    "coco": AnnotationFormat("COCO's JSON with masks or polygons", write_coco, read_coco),
    "coco_panoptic": AnnotationFormat("COCO panoptic", write_panoptic, read_panoptic),
}
"""By the layout that `pack` names."""


@contextmanager
def as_folders(dataset: str, raw_dir: Path, split: str) -> Iterator[tuple[str, Path]]:
    """The layout and raw folder to pack: an export as SPLIT/images/ and SPLIT/labels/ of ids, for
    as long as the context lasts; what no tool exported, as it is.

    Raises `DataError` for an export that has no image of the folder, or other classes.
    """
    if dataset not in ANNOTATIONS:
        yield dataset, raw_dir
        return
    with tempfile.TemporaryDirectory(prefix="segadapt-export-") as made:
        folder = Path(made)
        _convert(ANNOTATIONS[dataset], raw_dir, folder, folder / split)
        yield "folders", folder


def _convert(row: AnnotationFormat, raw_dir: Path, made: Path, folder: Path) -> None:
    """Annotated images alone, in `folder`; the unpacked export lies in `made`."""
    classes, images = read_classes(raw_dir), image_files(raw_dir / IMAGES).files
    unpacked = made / "unpacked"
    _unpack(raw_dir / EXPORT, unpacked)
    for part in (IMAGES, "labels"):
        (folder / part).mkdir(parents=True)
    count = 0
    for name, labels in _annotated(row, unpacked, classes, raw_dir / EXPORT):
        key = key_of_name(name, images.keys())
        if key is None:
            raise DataError(
                f"{raw_dir / EXPORT}: expected annotations of images in {IMAGES}/, got {name!r}",
                "put the annotated images there under their names",
            )
        count += 1
        path = images[key].resolve()
        (folder / IMAGES / f"{key}{path.suffix}").symlink_to(path)
        Image.fromarray(classes.to_ids(labels)).save(folder / "labels" / f"{key}.png")
    if not count:
        raise DataError(
            f"{raw_dir / EXPORT}: expected {row.summary}, got {counted(0, 'annotated image')}",
            "export the annotated tasks into that folder",
        )


def _annotated(
    row: AnnotationFormat, unpacked: Path, classes: ClassTable, export: Path
) -> Iterator[Annotated]:
    """The annotated images; a file of another form is a `DataError`."""
    try:
        yield from row.read(unpacked, classes)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{export}: expected {row.summary}, got another file: {error!r}",
            f"name the layout of the export: {', '.join(ANNOTATIONS)}",
        ) from error


def key_of_name(name: str, keys: Iterable[str]) -> str | None:
    """The key of an image by its file's name in an export: as it is, or after the prefix and dash
    that Label Studio puts before uploads."""
    stem = Path(name).stem
    known = set(keys)
    return next((one for one in (stem, stem.partition("-")[2]) if one in known), None)


def _unpack(export: Path, into: Path) -> None:
    """The files of an export, archives unpacked."""
    if not export.is_dir():
        raise DataError(
            f"{export}: expected the folder with the tool's export, got none",
            "put the export there, zipped or not",
        )
    into.mkdir()
    for path in sorted(export.iterdir()):
        if path.is_dir():
            shutil.copytree(path, into / path.name)
            continue
        if path.suffix.lower() != ".zip":
            shutil.copy(path, into / path.name)
            continue
        try:
            with ZipFile(path) as archive:
                archive.extractall(into / path.stem)
        except (BadZipFile, OSError) as error:
            raise DataError(f"{path}: expected a zip archive, got: {error}") from error
