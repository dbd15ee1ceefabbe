"""The items of a prediction: pictures, videos and cameras, and the names of their outputs.

A name is a path below the input, without its ending, which stays where two would have one name.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from adapt.data.problems import shown
from adapt.data.raw_images import IMAGE_SUFFIXES
from adapt.errors import JobError
from adapt.use.images import ImageLike, stored_pixels
from storage.store import Store

NAMES_OF_SUFFIXES = "mp4 m4v mov mkv webm avi mpg mpeg ts mts m2ts wmv flv 3gp ogv"
VIDEO_SUFFIXES = frozenset(f".{name}" for name in NAMES_OF_SUFFIXES.split())
"""Endings of videos."""
IMAGE, VIDEO, CAMERA = "image", "video", "camera"


class Item(NamedTuple):
    """A picture, a video or a camera.

    `name`: of its outputs, without their endings. `source`: its path, URI or key, for messages.
    `kind`: `image`, `video` or `camera`. `image`: an image as `LoadedModel` takes it; a video's
    URI, a camera's index.
    """

    name: str
    source: str
    kind: str
    image: Callable[[], ImageLike]

    @classmethod
    def of(cls, name: str, uri: str, store: Store | None = None) -> "Item":
        """The item of a file, the object `name` of `store` where there is one; its kind goes by
        its ending."""
        kind = VIDEO if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES else IMAGE
        if store is None:
            return cls(name, uri, kind, lambda: uri)
        return cls(name, uri, kind, partial(stored_pixels, store, name, uri))


def named(items: list[Item]) -> list[Item]:
    """The items, their names without endings where that leaves each a name of its own. Raises
    `JobError` for two of one name, and for one among the frames of a video."""
    counts = Counter(_stem(item) for item in items)
    short = [
        item._replace(name=_stem(item)) if counts[_stem(item)] == 1 else item for item in items
    ]
    first: dict[str, Item] = {}
    for item in short:
        other = first.setdefault(item.name, item)
        if other is not item:
            raise JobError(
                f"{shown(item.source)}: expected a name of its own for its outputs, got "
                f"{shown(item.name)} as of {shown(other.source)}",
                "predict the folder that holds both, or give each input its own --out",
            )
    _refuse_among_frames(short, first)
    return short


def _refuse_among_frames(items: list[Item], by_name: dict[str, Item]) -> None:
    """Raise `JobError` for an item whose name lies below a video's, as those of its frames do."""
    for item in items:
        for parent in PurePosixPath(item.name).parents:
            other = by_name.get(str(parent))
            if other is not None and other.kind != IMAGE:
                raise JobError(
                    f"{shown(item.source)}: expected a name of its own for its outputs, got "
                    f"{shown(item.name)} in the folder of the frames of {shown(other.source)}",
                    "predict the video and this folder apart, each with its own --out",
                )


def _stem(item: Item) -> str:
    """The name without the ending of an image or a video."""
    ending = PurePosixPath(item.name).suffix
    known = ending.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
    return item.name.removesuffix(ending) if known else item.name
