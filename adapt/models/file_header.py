"""The header of a file of weights: all that using the network needs beside the tensors.

Each entry is JSON under a name of its own. `segadapt.model` is the part that jobs compare
(`adapt.models.weights`), and the only one of older files. The others are the whole config, the
classes with colours and the datasets' ids, the size and format of the input, the views that
evaluations average, and the lineage: version, step and data.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, model_validator
from safetensors.torch import save as as_bytes
from torch import Tensor

from adapt.batch import IGNORED, PixelFormat
from adapt.config.section import Section
from adapt.config.validation import validate
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.codecs import MAX_PIXELS
from adapt.data.packed.manifest import Side
from adapt.errors import JobError
from adapt.models import ModelSection
from adapt.models.config import SegmenterConfig
from adapt.models.weights import describe, read_entries

NETWORK, CLASSES, INPUT = "segadapt.network", "segadapt.classes", "segadapt.input"
VIEWS, LINEAGE = "segadapt.views", "segadapt.lineage"

ANOTHER = "give the network's job spec (spec=), or take another file"
_Spread = Annotated[FiniteFloat, Field(gt=0)]
_LENGTH_BYTES = 8
"""A .safetensors file begins with the length of its header, a multiple of as many bytes."""


@dataclass(frozen=True)
class FileHeader:
    """All that a file of weights states of its network.

    `classes` is None where the program that trained it is not ours and they were not given;
    `size_hw` is the size in pixels of the images that it was evaluated on, None for their own;
    `views` are the keys of `InferenceConfig`.
    """

    config: SegmenterConfig
    num_classes: int
    pixels: PixelFormat
    classes: LabelSpace | None = None
    size_hw: tuple[int, int] | None = None
    views: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)

    def with_classes(self, classes: LabelSpace | None) -> "FileHeader":
        """The header with these classes, or the same for None. Raises `JobError` where the network
        has another number of them."""
        if classes is not None and classes.num_classes != self.num_classes:
            raise JobError(
                f"classes: expected {self.num_classes}, as the network has, got "
                f"{classes.num_classes}",
                "name the label space that the network was trained on",
            )
        return self if classes is None else replace(self, classes=classes)

    def entries(self) -> dict[str, str]:
        """The header's entries by name, as JSON."""
        network = self.config.model_dump(mode="json", exclude={"weights_sha256"})
        network |= {"weights": "none", "weights_uri": None, "start_uri": None}
        values: dict[str, Any] = {
            NETWORK: {"num_classes": self.num_classes, "model": network},
            INPUT: {"size_hw": self.size_hw, **self.pixels._asdict()},
            VIEWS: dict(self.views),
            LINEAGE: dict(self.lineage),
        }
        if self.classes is not None:
            values[CLASSES] = [one.model_dump(mode="json") for one in self.classes.root]
        texts = {name: json.dumps(value) for name, value in values.items()}
        return {**describe(self.config, self.num_classes), **texts}


def read_file_header(path: Path, key: str) -> FileHeader | None:
    """The header of a file of weights; None where it does not state the whole network, as those of
    older versions and of other programs.

    Raises `JobError`, with the file's `key`, for a damaged file, and for an entry that this version
    does not understand.
    """
    texts = read_entries(path, key)
    if NETWORK not in texts:
        return None
    found = {name: _parsed(text, f"{key}: {name}") for name, text in texts.items()}
    network = _valid(_Network, found[NETWORK], f"{key}: {NETWORK}")
    image = _valid(_Input, found.get(INPUT, {}), f"{key}: {INPUT}")
    header = FileHeader(
        _valid(ModelSection, network.model, f"{key}: {NETWORK}.model"),
        network.num_classes,
        PixelFormat(image.mean, image.std, image.bgr),
        size_hw=image.size_hw,
        views=_mapping(found.get(VIEWS, {}), f"{key}: {VIEWS}"),
        lineage=_mapping(found.get(LINEAGE, {}), f"{key}: {LINEAGE}"),
    )
    if CLASSES not in found:
        return header
    classes = _valid(LabelSpace, found[CLASSES], f"{key}: {CLASSES}")
    if classes.num_classes != header.num_classes:
        raise JobError(
            f"{key}: {CLASSES}: expected {header.num_classes} classes, as the network has, got "
            f"{classes.num_classes}",
            ANOTHER,
        )
    return header.with_classes(classes)


def _valid(kind: Any, value: Any, where: str) -> Any:
    try:
        return validate(kind, value, where)
    except JobError as error:
        raise JobError(error.problem, error.fix or ANOTHER) from error


class _Network(Section):
    num_classes: int = Field(ge=2, lt=IGNORED)
    model: dict[str, Any]


class _Input(Section):
    size_hw: tuple[Side, Side] | None
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[_Spread, _Spread, _Spread]
    bgr: bool

    @model_validator(mode="after")
    def _can_be_held(self) -> "_Input":
        if self.size_hw is not None and self.size_hw[0] * self.size_hw[1] > MAX_PIXELS:
            raise ValueError(
                f"size_hw: expected at most {MAX_PIXELS} pixels, got {list(self.size_hw)}"
            )
        return self


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise JobError(f"{where}: expected a mapping, got {value!r:.50}", ANOTHER)
    return value


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _damaged(where, error) from error


def _damaged(where: str, error: Exception) -> JobError:
    return JobError(
        f"{where}: expected an entry of the header as this version writes it, got another "
        f"[{error!r}]",
        ANOTHER,
    )


def write_weights(weights: Mapping[str, Tensor], header: Mapping[str, str], path: Path) -> None:
    """Write tensors by name as a .safetensors file with a header.

    Of equal tensors and headers the bytes are equal: safetensors itself orders the header's entries
    differently in each process.
    """
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
    content = memoryview(as_bytes(tensors, dict(sorted(header.items()))))
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    values = json.loads(bytes(content[_LENGTH_BYTES:end]))
    if header:
        values["__metadata__"] = dict(sorted(header.items()))
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        file.write(content[end:])
