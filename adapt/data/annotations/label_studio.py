"""Annotations of Label Studio: tasks in JSON whose brush regions are run lengths.

A region is the RGBA picture of its mask, every channel 0 or 255, as thi.ng's rle-pack packs it:
32 bits the number of values, 5 bits the word's size - 1, four times 4 bits the size of a count - 1;
then runs of 1 bit (repeated or not), 2 bits the count's size, the count - 1, and one word or all.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from adapt.batch import IGNORED
from adapt.data.annotations.annotated import Annotated, ClassTable
from adapt.errors import DataError

_CHANNELS, _WORD_BITS = 4, 8
_COUNT_BITS = (3, 4, 8, 16)
LONGEST = 1 << _COUNT_BITS[-1]
Mask = npt.NDArray[np.bool_]


def encode_mask(mask: Mask) -> list[int]:
    """(H, W) bool -> bytes of Label Studio's `rle`."""
    values = mask.ravel()
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    lengths = np.diff(np.r_[starts, values.size]) * _CHANNELS
    bits = [f"{values.size * _CHANNELS:032b}", f"{_WORD_BITS - 1:05b}"]
    bits += [f"{size - 1:04b}" for size in _COUNT_BITS]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        word = f"{255 * int(values[start]):08b}"
        while length > 0:
            count = min(length, LONGEST)
            size = next(n for n, one in enumerate(_COUNT_BITS) if count <= 1 << one)
            bits.append(f"1{size:02b}{count - 1:0{_COUNT_BITS[size]}b}{word}")
            length -= count
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


class _Bits:
    """Reads numbers of so many bits, one after the other."""

    def __init__(self, data: Iterable[int]) -> None:
        self._text = "".join(f"{one:08b}" for one in data)
        self._at = 0

    def read(self, count: int) -> int:
        """Raises `ValueError` at the end."""
        part = self._text[self._at : self._at + count]
        if len(part) < count:
            raise ValueError("it ends early")
        self._at += count
        return int(part, 2)


def decode_mask(data: Iterable[int], size_hw: tuple[int, int]) -> Mask:
    """Bytes of `rle` -> (H, W) bool, True where the last channel is over 127. Raises `ValueError`
    where they are of another size or end early."""
    bits = _Bits(data)
    total, word_bits = bits.read(32), bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    if total != size_hw[0] * size_hw[1] * _CHANNELS:
        raise ValueError(f"it has {total} values, not height x width x 4")
    values, at = np.zeros(total, np.int64), 0
    while at < total:
        repeated = bits.read(1)
        count = bits.read(sizes[bits.read(2)]) + 1
        words = [bits.read(word_bits) for _ in range(1 if repeated else count)]
        values[at : at + count] = words if not repeated else words[0]
        at += count
    mask: Mask = values.reshape(*size_hw, _CHANNELS)[..., -1] > 127
    return mask


def write_label_studio(out: Path, classes: ClassTable, images: Iterable[Annotated]) -> None:
    """`label_studio.json`, tasks with predictions of the images below `FOLDER/images`, served as
    local files, and the labelling interface `label_studio.xml`."""
    folder = out.resolve().parent.name
    tasks = [_task(f"{folder}/images/{name}", labels, classes) for name, labels in images]
    (out / "label_studio.json").write_text(json.dumps(tasks))
    lines = [
        f"    <Label value={quoteattr(name)} background={quoteattr('#%02x%02x%02x' % colour)}/>"  # noqa: UP031
        for name, colour in zip(classes.names, classes.colours, strict=True)
    ]
    head = ["<View>", '  <Image name="image" value="$image" zoom="true"/>']
    labels = ['  <BrushLabels name="label" toName="image">', *lines, "  </BrushLabels>"]
    (out / "label_studio.xml").write_text("\n".join([*head, *labels, "</View>", ""]))


def _task(path: str, labels: npt.NDArray[np.uint8], classes: ClassTable) -> dict[str, Any]:
    height, width = labels.shape
    result = [
        {
            "id": f"class-{number}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": encode_mask(labels == number),
                "brushlabels": [classes.names[number]],
            },
        }
        for number in np.unique(labels).tolist()
        if number < len(classes.names)
    ]
    image = {"image": f"/data/local-files/?d={path}"}
    return {"data": image, "predictions": [{"model_version": "segadapt", "result": result}]}


def read_label_studio(export: Path, classes: ClassTable) -> Iterator[Annotated]:
    """The tasks of every JSON file of an export that a person has annotated: the last annotation
    that was not skipped; later regions lie over earlier ones. Raises `DataError`."""
    for path in sorted(export.rglob("*.json")):
        tasks = json.loads(path.read_text())
        for task in tasks if isinstance(tasks, list) else [tasks]:
            done = [one for one in task.get("annotations", []) if not one.get("was_cancelled")]
            if done:
                yield _annotated(task, done[-1], path, classes)


def _annotated(
    task: dict[str, Any], done: dict[str, Any], path: Path, classes: ClassTable
) -> Annotated:
    name = str(task.get("data", {}).get("image", "")).rpartition("/")[2]
    regions = [one for one in done["result"] if one.get("type") == "brushlabels"]
    if not regions:
        raise DataError(
            f"{path}: {name}: expected brush regions, got none of type brushlabels",
            "label with BrushLabels, or leave the task out",
        )
    size_hw = (int(regions[0]["original_height"]), int(regions[0]["original_width"]))
    labels = np.full(size_hw, IGNORED, np.uint8)
    for region in regions:
        value = region["value"]
        try:
            mask = decode_mask(value["rle"], size_hw)
        except ValueError as error:
            raise DataError(
                f"{path}: {name}: expected a mask of rle, got a bad one: {error}"
            ) from (error)
        labels[mask] = classes.number(str(value["brushlabels"][0]), path)
    return Annotated(name, labels)
