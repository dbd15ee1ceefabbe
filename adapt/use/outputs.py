"""The files that predictions become: a row a kind, by the name in `--write` and of its folder.

Of a video, pictures for people become one video; `ids` and `probabilities`, which compression would
change, a file a frame.
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapt.data.label_maps import LabelSpace
from adapt.data.packed.codecs import Pixels
from adapt.errors import JobError, known_names
from adapt.evaluation import pictures
from adapt.evaluation.prediction_files import ids_of_classes
from adapt.use.segmentation import PICTURES, Segmentation

VIDEO_ENDING = ".mp4"
"""Of videos of pictures, which every browser and player opens."""
_FAST = 1
"""zlib level for photographs and floats; higher ones save little."""


class OutputKind(NamedTuple):
    """A kind of output. `encode`: a result -> the bytes of its file; `frame`: -> the picture
    (H, W, 3) uint8 of a video, None where each frame becomes a file; `logits`: whether it takes
    those of the network."""

    ending: str
    encode: Callable[[Segmentation, str | None], bytes]
    frame: Callable[[Segmentation], Pixels] | None = None
    logits: bool = False


def _png(picture: Image.Image, level: int = 6) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=level)
    return file.getvalue()


def _ids(one: Segmentation, dataset: str | None) -> bytes:
    return _png(Image.fromarray(one.class_map if dataset is None else one.ids(dataset)))


def _probabilities(one: Segmentation, _dataset: str | None) -> bytes:
    """An .npz that `numpy.load` reads: `probabilities` (K, H, W) float16 and the K `names`."""
    arrays: dict[str, NDArray[np.generic]] = {
        "probabilities": one.probabilities.astype(np.float16),
        "names": np.array(one.classes.names),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # without the time: equal arrays, equal bytes
            archive.writestr(entry, _npy(values), zipfile.ZIP_DEFLATED, _FAST)
    return file.getvalue()


def _npy(values: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(values))
    return file.getvalue()


OUTPUTS: dict[str, OutputKind] = {
    "overlay": OutputKind(
        ".png", lambda one, _: _png(PICTURES["overlay"](one), _FAST), lambda one: one.overlay()
    ),
    "colours": OutputKind(
        ".png", lambda one, _: _png(PICTURES["colours"](one)), lambda one: one.colours
    ),
    "ids": OutputKind(".png", _ids),
    "probabilities": OutputKind(".npz", _probabilities, logits=True),
    "entropy": OutputKind(
        ".png",
        lambda one, _: _png(PICTURES["entropy"](one), _FAST),
        lambda one: pictures.heat(one.entropy),
    ),
}
"""Kinds of outputs by name: the classes' colours over the image; the colours alone, a palette PNG
whose values are train ids; label ids; the soft maps; the entropy from black to pale yellow."""


def frame_name(name: str, number: int) -> str:
    """The name of a frame's own files."""
    return f"{name}/{number:06d}"


class Wanted(NamedTuple):
    """The kinds to write, and the dataset whose ids `ids` are; None: train ids."""

    kinds: tuple[str, ...]
    dataset: str | None = None

    @classmethod
    def parse(cls, text: str, dataset: str | None, classes: LabelSpace) -> "Wanted":
        """`overlay,ids` -> the kinds. Raises `JobError` for unknown ones, for a dataset without
        `ids`, and for one that the classes have no ids of."""
        kinds = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
        for kind in kinds:
            if kind not in OUTPUTS:
                raise JobError(f"--write: expected known names, {known_names(kind, OUTPUTS)}")
        if dataset is not None and "ids" not in kinds:
            raise JobError(
                f"--ids: expected ids among --write, got {text}", f"write --write {text},ids"
            )
        if dataset is not None:
            ids_of_classes(classes, dataset)
        return cls(kinds, dataset)

    @property
    def logits(self) -> bool:
        """True where a kind takes the logits."""
        return any(OUTPUTS[kind].logits for kind in self.kinds)

    def files(self, name: str) -> list[str]:
        """The keys of an image's files."""
        return [f"{kind}/{name}{OUTPUTS[kind].ending}" for kind in self.kinds]

    def encoded(
        self, one: Segmentation, kinds: Sequence[str], name: str
    ) -> Iterator[tuple[str, bytes]]:
        """The files of a result of these kinds: key and bytes."""
        for kind in kinds:
            row = OUTPUTS[kind]
            yield f"{kind}/{name}{row.ending}", row.encode(one, self.dataset)

    def of_video(self, name: str, frames: int) -> Iterator[str]:
        """The keys of a video's files."""
        for kind in self.of_videos():
            yield f"{kind}/{name}{VIDEO_ENDING}"
        for kind in self.of_frames():
            for number in range(frames):
                yield f"{kind}/{frame_name(name, number)}{OUTPUTS[kind].ending}"

    def of_videos(self) -> tuple[str, ...]:
        """The kinds that become a video."""
        return tuple(kind for kind in self.kinds if OUTPUTS[kind].frame is not None)

    def of_frames(self) -> tuple[str, ...]:
        """The kinds of which each frame of a video becomes a file."""
        return tuple(kind for kind in self.kinds if OUTPUTS[kind].frame is None)
