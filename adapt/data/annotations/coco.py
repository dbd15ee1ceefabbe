"""Annotations of COCO: `coco` has a mask for each class as run lengths or polygons, `coco_panoptic`
a PNG for each image whose colours are segments, R + 256 G + 65536 B.

Run lengths go down the columns and begin with the pixels outside: [5, 3, ...]. The short form is a
text of 5 bits a character, each count from the third on the difference to that before the last.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from adapt.batch import IGNORED
from adapt.data.annotations.annotated import Annotated, ClassTable, Ids
from adapt.errors import DataError

Mask = npt.NDArray[np.bool_]
PANOPTIC = "panoptic"


def encode_counts(mask: Mask) -> list[int]:
    """(H, W) bool -> run lengths, the first of pixels outside."""
    values = mask.ravel(order="F")
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    lengths: list[int] = np.diff(np.r_[0, edges, values.size]).tolist()
    return [0, *lengths] if values[0] else lengths


def decode_counts(counts: Sequence[int] | str, size_hw: tuple[int, int]) -> Mask:
    """Run lengths, in either form -> (H, W) bool. Raises `ValueError` for another size."""
    lengths = long_form(counts) if isinstance(counts, str) else list(counts)
    if sum(lengths) != size_hw[0] * size_hw[1]:
        raise ValueError(f"its run lengths have {sum(lengths)} pixels")
    inside = np.arange(len(lengths)) % 2 == 1
    values = np.repeat(inside, lengths)
    return values.reshape(size_hw, order="F")


def long_form(text: str) -> list[int]:
    """The short form -> run lengths."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def write_coco(out: Path, classes: ClassTable, images: Iterable[Annotated]) -> None:
    """`coco.json`: a mask for each class of an image."""
    content = _Content(classes)
    annotations: list[dict[str, Any]] = []
    for image in images:
        image_id = content.add(image)
        for number in content.numbers(image.labels):
            mask = image.labels == number
            size = {"size": list(mask.shape), "counts": encode_counts(mask)}
            facts = {"image_id": image_id, "segmentation": size, "iscrowd": 1}
            annotations.append({"id": len(annotations) + 1, **facts, **_facts(mask, number)})
    (out / "coco.json").write_text(json.dumps(content.json() | {"annotations": annotations}))


def write_panoptic(out: Path, classes: ClassTable, images: Iterable[Annotated]) -> None:
    """`panoptic.json` and `panoptic/KEY.png`, a segment for each class of an image."""
    (out / PANOPTIC).mkdir(parents=True, exist_ok=True)
    content, annotations = _Content(classes), []
    for image in images:
        image_id, name = content.add(image), f"{Path(image.file_name).stem}.png"
        numbers = content.numbers(image.labels)
        segments = [{"id": n + 1, "iscrowd": 0, **_facts(image.labels == n, n)} for n in numbers]
        one = {"image_id": image_id, "file_name": name, "segments_info": segments}
        annotations.append(one)
        rgb = np.zeros((*image.labels.shape, 3), np.uint8)
        known = image.labels < len(classes.names)
        rgb[..., 0] = np.where(known, image.labels + 1, 0)
        Image.fromarray(rgb).save(out / PANOPTIC / name)
    text = json.dumps(content.json() | {"annotations": annotations})
    (out / f"{PANOPTIC}.json").write_text(text)


class _Content:
    """The images and categories of a file."""

    def __init__(self, classes: ClassTable) -> None:
        self._classes, self._images = classes, list[dict[str, Any]]()

    def add(self, image: Annotated) -> int:
        height, width = image.labels.shape
        number = len(self._images) + 1
        facts = {"id": number, "file_name": image.file_name, "height": height, "width": width}
        self._images.append(facts)
        return number

    def numbers(self, labels: Ids) -> list[int]:
        return [one for one in np.unique(labels).tolist() if one < len(self._classes.names)]

    def json(self) -> dict[str, Any]:
        categories = [
            {"id": number + 1, "name": name, "supercategory": "", "isthing": 0, "color": colour}
            for number, (name, colour) in enumerate(
                zip(self._classes.names, self._classes.colours, strict=True)
            )
        ]
        return {"images": self._images, "categories": categories}


def _facts(mask: Mask, number: int) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
    return {"category_id": number + 1, "area": int(mask.sum()), "bbox": box}


def read_coco(export: Path, classes: ClassTable) -> Iterator[Annotated]:
    """The annotated images of every JSON file of an export; later masks lie over earlier ones.
    Raises `DataError`."""
    for path in sorted(export.rglob("*.json")):
        content = json.loads(path.read_text())
        names = {one["id"]: one["name"] for one in content["categories"]}
        for image in content["images"]:
            own = [one for one in content["annotations"] if one["image_id"] == image["id"]]
            labels = np.full((image["height"], image["width"]), IGNORED, np.uint8)
            for one in own:
                name = str(names[one["category_id"]])
                mask = _mask(one["segmentation"], labels.shape, f"{path}: {image['file_name']}")
                labels[mask] = classes.number(name, path)
            if own:
                yield Annotated(Path(image["file_name"]).name, labels)


def _mask(segmentation: Any, size_hw: tuple[int, ...], where: str) -> Mask:
    """Run lengths or polygons -> (H, W) bool."""
    height, width = size_hw
    if isinstance(segmentation, dict):
        try:
            return decode_counts(segmentation["counts"], (height, width))
        except (ValueError, IndexError) as error:
            raise DataError(f"{where}: expected a mask of its size, got a bad one: {error}") from (
                error
            )
    picture = Image.new("1", (width, height))
    for polygon in segmentation:
        ImageDraw.Draw(picture).polygon(polygon, fill=1, outline=1)
    return np.asarray(picture)


def read_panoptic(export: Path, classes: ClassTable) -> Iterator[Annotated]:
    """The images of every JSON file of an export, whose PNGs lie below it by their names; pixels of
    no segment are 255. Raises `DataError` where a PNG is missing."""
    for path in sorted(export.rglob("*.json")):
        content = json.loads(path.read_text())
        names = {one["id"]: one["name"] for one in content["categories"]}
        files = {one["id"]: one["file_name"] for one in content["images"]}
        for one in content["annotations"]:
            found = sorted(export.rglob(one["file_name"]))
            if not found:
                raise DataError(f"{path}: expected the PNG {one['file_name']}, got none")
            with Image.open(found[0]) as picture:
                rgb = np.asarray(picture.convert("RGB"), np.int64)
            segment = rgb @ np.array([1, 256, 65536])
            labels = np.full(segment.shape, IGNORED, np.uint8)
            for info in one["segments_info"]:
                name = str(names[info["category_id"]])
                labels[segment == info["id"]] = classes.number(name, path)
            yield Annotated(Path(files[one["image_id"]]).name, labels)
