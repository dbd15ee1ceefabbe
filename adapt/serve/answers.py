"""Results as the client of `/invocations` accepts them: a PNG of train ids or another picture, a
JPEG for people, or JSON of the classes' shares.
"""

import io
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from adapt.errors import known_names
from adapt.serve.refused import JSON, Refused
from adapt.use.segmentation import PICTURES, Segmentation


class Wanted(NamedTuple):
    """The form of an answer: a row of `ANSWERS`, and one of `PICTURES`."""

    media_type: str
    picture: str


class Answer(NamedTuple):
    """How results are written. `picture` is drawn where the client names none."""

    picture: str
    write: Callable[[Segmentation, str], bytes]


def class_shares(result: Segmentation) -> list[float]:
    """The share of the pixels of each class, in train-id order."""
    counts = np.bincount(result.class_map.ravel(), minlength=result.classes.num_classes)
    return [round(float(count) / result.class_map.size, 6) for count in counts]


def _json(result: Segmentation, _picture: str) -> bytes:
    height, width = result.class_map.shape
    shares = zip(result.classes.names, class_shares(result), strict=True)
    classes = [
        {"id": number, "name": name, "share": share} for number, (name, share) in enumerate(shares)
    ]
    entropy = round(float(result.entropy.mean()), 6)
    return json.dumps(
        {"height": height, "width": width, "mean_entropy": entropy, "classes": classes}
    ).encode()


def _png(result: Segmentation, picture: str) -> bytes:
    return _file(PICTURES[picture](result), "PNG")


def _jpeg(result: Segmentation, picture: str) -> bytes:
    if picture == "class_map":
        raise Refused(
            406,
            "accept: expected image/png for class_map, whose values no compression may change, "
            "got image/jpeg",
            "accept image/png",
        )
    return _file(PICTURES[picture](result).convert("RGB"), "JPEG")


def _file(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


ANSWERS: dict[str, Answer] = {
    "image/png": Answer("colours", _png),
    "image/jpeg": Answer("overlay", _jpeg),
    JSON: Answer("", _json),
}
"""By media type; the first is the default."""
_WILD = {"*/*": "image/png", "image/*": "image/png", "application/*": JSON}


def wanted(accept: str, picture: str | None) -> Wanted:
    """The form that a header `Accept` asks for. Raises `Refused`: 406 for forms that there are not,
    400 for another picture."""
    if picture is not None and picture not in PICTURES:
        raise Refused(
            400,
            f"picture: expected a known name, {known_names(picture, PICTURES)}",
            "name one of them",
        )
    for media_type in _by_preference(accept or "*/*"):
        kind = _WILD.get(media_type, media_type)
        if kind in ANSWERS:
            return Wanted(kind, picture or ANSWERS[kind].picture)
    raise Refused(
        406,
        f"accept: expected one of {', '.join(ANSWERS)}, got {accept[:200]!r}",
        "accept image/png, or leave the header out",
    )


def _by_preference(accept: str) -> list[str]:
    """Media types of a header, by their `q`, those with 0 left out."""
    found = []
    for part in accept.split(","):
        media_type, *parameters = (text.strip().lower() for text in part.split(";"))
        found.append((_quality(parameters), media_type))
    ordered = sorted(found, key=lambda one: -one[0])
    return [media_type for quality, media_type in ordered if quality > 0]


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
