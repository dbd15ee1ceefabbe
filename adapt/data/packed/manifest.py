"""`SPLIT/manifest.json`: the description of a packed split, on one readable page.

It names the sha256 of the index and of every shard, so its own sha256 identifies every byte of the
dataset. It may come from a stranger: sizes and names are bounded before anything is opened from
what it states.
"""

import hashlib
import json
import reprlib
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from adapt.batch import IGNORED
from adapt.config.section import Section
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.codecs import MAX_SIDE_PX, PACK_AGAIN, REPACK
from adapt.data.packed.encodings import ENCODINGS, EncodingName, ImageEncoding
from adapt.errors import DataError, written

FORMAT_VERSION = 3

MAX_MANIFEST_BYTES = 16 << 20
"""60 000 shards, 4 PB of images; more would only fill the reader's memory."""
MAX_SHARD_BYTES = 1 << 34
"""Shards are fetched whole; `pack` aims at 64 MB."""

FileName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", min_length=1, max_length=200)
]
"""One plain name: no folders, nothing that a shell or a store would read otherwise."""
SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=200)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Xxh3 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]
LabelId = Annotated[int, Field(ge=0, le=255)]
StoredEncoding = Annotated[
    EncodingName, Field(validation_alias="profile", serialization_alias="profile")
]
"""A row of `ENCODINGS`, under the key that files have had since format 1."""
Pixels = Annotated[int, Field(ge=0, lt=2**63)]


class Stored(Section):
    """A part of a file whose keys may differ from the fields' names."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)


class ShardInfo(Section):
    """One shard: its name in the split's folder, and its checksums in hex."""

    name: FileName
    size_bytes: Annotated[int, Field(ge=1, le=MAX_SHARD_BYTES)]
    num_samples: Annotated[int, Field(ge=1, lt=2**31)]
    sha256: Sha256
    xxh3: Xxh3


class PackedLabelSpace(Section):
    """The classes whose train ids the labels hold; `classes` in train-id order. A space without a
    name of its own is `custom`, and keeps its colours.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=IGNORED - 1)]
    colours: tuple[tuple[LabelId, LabelId, LabelId], ...] | None = None

    @model_validator(mode="after")
    def _a_colour_for_each_class(self) -> "PackedLabelSpace":
        if self.colours is not None and len(self.colours) != len(self.classes):
            raise ValueError(f"expected {len(self.classes)} colours, got {len(self.colours)}")
        return self

    @model_serializer(mode="wrap")
    def _without_missing_colours(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A manifest from before colours were kept still has its own sha256."""
        values: dict[str, Any] = plain(self)
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def of(cls, label_space: LabelSpace) -> "PackedLabelSpace":
        """A label space as a manifest keeps it."""
        short, names = label_space.short(), label_space.names
        if isinstance(short, str):
            return cls(name=short, classes=names)
        return cls(name="custom", classes=names, colours=label_space.colours)

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.classes)})"


class Manifest(Stored):
    """One packed split. Its labels hold the dataset's own ids, or, with a `label_space`, train ids
    of that (255 where ignored); `id_pixels` counts the pixels of each over the whole split.
    The name of its encoding is stored under `profile`.
    """

    format_version: int = FORMAT_VERSION
    dataset: str
    split: SplitName
    encoding_name: StoredEncoding
    size_hw: tuple[Side, Side] | None
    num_samples: int
    labelled: bool
    label_space: PackedLabelSpace | None = None
    id_pixels: dict[LabelId, Pixels]
    shards: tuple[ShardInfo, ...]
    index_sha256: str
    libraries: dict[str, str]
    plan_sha256: str = ""

    @field_validator("shards")
    @classmethod
    def _names_are_unique(cls, shards: tuple[ShardInfo, ...]) -> tuple[ShardInfo, ...]:
        (name, times), *_ = Counter(shard.name for shard in shards).most_common(1) or [("", 1)]
        if times > 1:
            raise ValueError(f"two shards are named {name}")
        return shards

    @property
    def encoding(self) -> ImageEncoding:
        """How the images are stored."""
        return ENCODINGS[self.encoding_name]

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids that occur in the split's labels, ascending: columns of `Index.id_pixels`."""
        return tuple(sorted(self.id_pixels))

    @property
    def dataset_id(self) -> str:
        """sha256 of the canonical JSON: equal for equal bytes, on any machine and in any store."""
        return hashlib.sha256(self.canonical_json()).hexdigest()

    def canonical_json(self) -> bytes:
        """UTF-8 JSON with sorted keys and no spaces."""
        content = self.model_dump(mode="json")
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

    def own_table(self) -> npt.NDArray[np.uint8]:
        """(256,) uint8 for labels that are train ids already: the identity on the classes,
        `IGNORED` elsewhere. Only for a split with a `label_space`.
        """
        assert self.label_space is not None, "the labels hold the dataset's own ids"
        table = np.full(256, IGNORED, np.uint8)
        num_classes = len(self.label_space.classes)
        table[:num_classes] = np.arange(num_classes)
        return table

    def check_classes(self, names: Sequence[str], uri: str) -> None:
        """`DataError` where the labels are train ids of other classes than these, or in another
        order.
        """
        packed = self.label_space
        if packed is not None and packed.classes != tuple(names):
            raise DataError(
                f"{uri}: expected labels of the classes {', '.join(names)}, got train ids of "
                f"{packed}",
                fix="use the classes that it was packed with, or pack the split again with these "
                "--classes, or without, which serves all",
            )


def refuse_large(size_bytes: int, max_bytes: int, uri: str, fix: str) -> None:
    """`DataError` for an object of so many bytes or more, that readers do not parse."""
    if size_bytes > max_bytes:
        raise DataError(f"{uri}: expected at most {max_bytes} bytes, got {size_bytes}", fix=fix)


def parse_manifest(data: bytes, uri: str) -> Manifest:
    """JSON -> Manifest. `DataError` for another format version, no samples, or no manifest at
    all.
    """
    try:
        content: Any = json.loads(data)
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise DataError(
                f"{uri}: expected format_version {FORMAT_VERSION}, got {written(version)}",
                fix=PACK_AGAIN,
            )
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{uri}: {first_fault(error)}", fix=REPACK) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{uri}: expected a manifest, got a damaged or other file: {error}", fix=REPACK
        ) from error
    if manifest.num_samples < 1:
        raise DataError(
            f"{uri}: num_samples: expected at least 1, got {manifest.num_samples}", fix=REPACK
        )
    return manifest


def first_fault(error: ValidationError) -> str:
    """`key: what was expected, got ...` of the first of a model's errors."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    found = "" if first["type"] == "missing" else f", got {reprlib.repr(first['input'])}"
    return f"{key}: {first['msg']}{found}"
