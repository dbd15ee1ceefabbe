"""Pictures of an evaluation as small files in text form, for the history and the page.

Of a validation image: itself, its truth, the prediction, the entropy. They are as wide as a column
of the page, so that a report has some hundred kB of them.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from adapt.data.label_maps import LabelSpace
from adapt.evaluation.evaluate import Picture
from adapt.evaluation.metrics import confusion_matrix, miou
from adapt.evaluation.pictures import Pixels, entropy_map, heat_table

WIDTH_PX = 320
_JPEG_QUALITY = 80
_EMPTY = 255


def panels(pictures: Sequence[Picture], classes: LabelSpace) -> list[dict[str, Any]]:
    """Each picture as plain data: key, mIoU of this image (None without truth), and the files of
    its tiles as data URIs."""
    return [_panel(picture, classes) for picture in pictures]


def _panel(picture: Picture, classes: LabelSpace) -> dict[str, Any]:
    size = shown_size(*picture.predicted.shape)
    truth = picture.truth
    return {
        "key": picture.key,
        "miou": None if truth is None else _image_miou(truth, picture.predicted, classes),
        "size": size,
        "image": photo(picture.image, size),
        "truth": None if truth is None else _classes(truth, classes, size),
        "prediction": _classes(picture.predicted, classes, size),
        "entropy": _entropy(entropy_map(picture.logits), size),
    }


def _image_miou(truth: Pixels, predicted: Pixels, classes: LabelSpace) -> float | None:
    """mIoU of one image over the classes that occur in it; None where no pixel counts."""
    labels, found = torch.from_numpy(truth), torch.from_numpy(predicted)
    value = miou(confusion_matrix(labels, found, classes.num_classes))
    return value if value == value else None


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Width and height on the page of an image of this height and width."""
    return min(WIDTH_PX, width), max(1, round(height * min(1.0, WIDTH_PX / width)))


def photo(pixels: Pixels, size: tuple[int, int]) -> str:
    """(H, W, 3) uint8 RGB -> the data URI of a JPEG of this width and height."""
    small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    return _data_uri(small, "JPEG", quality=_JPEG_QUALITY)


def _classes(labels: Pixels, classes: LabelSpace, size: tuple[int, int]) -> str:
    """Train ids in the classes' colours; others are black."""
    known = np.where(labels < classes.num_classes, labels, _EMPTY).astype(np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[: classes.num_classes] = classes.colours
    return _with_palette(known, palette, size, Image.Resampling.NEAREST)


def _entropy(shares: NDArray[np.floating], size: tuple[int, int]) -> str:
    """From black (sure) to pale yellow (unsure), in 32 steps, which make a small file."""
    steps = (shares * 31).round().clip(0, 31).astype(np.uint8) * 8
    return _with_palette(steps, heat_table(), size, Image.Resampling.NEAREST)


def _with_palette(
    values: Pixels, palette: Pixels, size: tuple[int, int], how: Image.Resampling
) -> str:
    picture = Image.fromarray(values).resize(size, how)
    picture.putpalette(palette.tobytes())
    return _data_uri(picture, "PNG", optimize=True)


def _data_uri(picture: Image.Image, form: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, form, **options)
    text = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{text}"
