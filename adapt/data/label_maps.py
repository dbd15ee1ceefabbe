"""Label spaces: the classes a job trains, their colours, and how each dataset's own ids map onto
them.

Shards keep the dataset's own ids, so one packing serves every label space; the mapping is a
256-entry table applied as samples are loaded. In a job spec, `classes` is the name of a row of
`LABEL_SPACES` or a list of classes:

    classes:
      - {name: sky, colour: [70, 130, 180], ids: {airsim: [10], camvid: [0]}}
      - {name: building, colour: [70, 70, 70], ids: {airsim: [2, 3], camvid: [1]}}
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, RootModel, model_serializer, model_validator
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from adapt.batch import IGNORED
from adapt.config.section import Section
from adapt.data.street_ids import CITYSCAPES_IDS, STREET_IDS
from adapt.errors import JobError, known_names

Id = Annotated[int, Field(ge=0, le=255, strict=True)]


class SegmentationClass(Section):
    """One class. Its place in the list is its train id."""

    name: Annotated[str, Field(min_length=1, description="the name in tables and metrics")]
    colour: Annotated[
        tuple[Id, Id, Id], Field(description="red, green, blue in pictures, 0 to 255")
    ]
    ids: Annotated[
        dict[str, tuple[Id, ...]],
        Field(description="for each dataset (as named when packed) the ids that are this class"),
    ]


class LabelSpace(RootModel[tuple[SegmentationClass, ...]]):
    """The classes of a job in train-id order. Ids that no class names are ignored (255)."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="after")
    def check(self) -> "LabelSpace":
        """Names are unique, and an id of a dataset belongs to one class."""
        if not 2 <= len(self.root) < IGNORED:
            raise ValueError(f"expected 2 to {IGNORED - 1} classes, got {len(self.root)}")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"expected a name for each class, got {twice[0]!r} twice")
        for dataset in self.datasets:
            check_owners(self.root, dataset)
        return self

    @classmethod
    def named(cls, name: str) -> "LabelSpace":
        """A row of `LABEL_SPACES`. Raises `JobError` for another name."""
        if name not in LABEL_SPACES:
            raise JobError(
                "classes: expected a label space or a list of classes, "
                f"{known_names(name, LABEL_SPACES)}"
            )
        return LABEL_SPACES[name]

    @model_serializer(mode="plain")
    def short(self) -> Any:
        """The row's name where there is one, so that a resolved spec reads as it was written."""
        for name, space in LABEL_SPACES.items():
            if space.root == self.root:
                return name
        return [entry.model_dump(mode="json") for entry in self.root]

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler.resolve_ref_schema(handler(schema))
        classes = {"type": "array", "items": described.get("items", {}), "minItems": 2}
        named = {"type": "string", "enum": sorted(LABEL_SPACES)}
        return {"description": described.get("description", ""), "anyOf": [named, classes]}

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in train-id order."""
        return tuple(entry.name for entry in self.root)

    @property
    def colours(self) -> tuple[tuple[int, int, int], ...]:
        """RGB in train-id order, 0 to 255."""
        return tuple(entry.colour for entry in self.root)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.root)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the datasets that have a mapping."""
        return tuple(sorted({dataset for entry in self.root for dataset in entry.ids}))

    @property
    def ids(self) -> dict[str, dict[int, int]]:
        """dataset -> {dataset id: train id}."""
        return {
            dataset: {
                identity: index
                for index, entry in enumerate(self.root)
                for identity in entry.ids.get(dataset, ())
            }
            for dataset in self.datasets
        }

    def table(self, dataset: str) -> npt.NDArray[np.uint8]:
        """(256,) uint8: train id of each id of the dataset, `IGNORED` elsewhere; use as
        `table[labels]`.

        Raises `JobError` where no class names an id of the dataset.
        """
        if dataset not in self.datasets:
            raise JobError(
                f"classes: expected ids for dataset {dataset!r} in at least one class, "
                f"{known_names(dataset, self.datasets)}"
            )
        table = np.full(256, IGNORED, np.uint8)
        for identity, index in self.ids[dataset].items():
            table[identity] = index
        return table

    def colour_table(self) -> npt.NDArray[np.uint8]:
        """(256, 3) uint8 RGB of each train id, black where ignored; use as `table[train_ids]`."""
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.colours
        return table


def check_owners(classes: Sequence[SegmentationClass], dataset: str) -> None:
    """`ValueError` where two classes name the same id of the dataset."""
    owners: dict[int, str] = {}
    for entry in classes:
        for identity in entry.ids.get(dataset, ()):
            if identity in owners:
                raise ValueError(
                    f"expected one class for id {identity} of {dataset!r}, got "
                    f"{owners[identity]!r} and {entry.name!r}"
                )
            owners[identity] = entry.name


ClassRow = tuple[str, tuple[int, int, int], dict[str, int]]


OtherIds = Mapping[str, Mapping[str, tuple[int, ...]]]
"""dataset -> {class: its ids}"""
NO_OTHERS: OtherIds = MappingProxyType({})


def label_space(
    rows: Sequence[ClassRow], shared_ids: Mapping[str, str], others: OtherIds = NO_OTHERS
) -> LabelSpace:
    """Rows of (name, colour, {dataset: id}) -> LabelSpace; `shared_ids` gives a dataset another
    one's ids, `others` those of more datasets by class.
    """
    classes = []
    for name, colour, ids in rows:
        known: dict[str, tuple[int, ...]] = {
            dataset: (identity,) for dataset, identity in ids.items()
        }
        known |= {dataset: known[other] for dataset, other in shared_ids.items() if other in known}
        known |= {dataset: table[name] for dataset, table in others.items() if name in table}
        classes.append(SegmentationClass(name=name, colour=colour, ids=known))
    return LabelSpace(tuple(classes))


CITYSCAPES_ROWS: tuple[ClassRow, ...] = (
    ("road", (128, 64, 128), {"cityscapes": 7, "synthia": 3}),
    ("sidewalk", (244, 35, 232), {"cityscapes": 8, "synthia": 4}),
    ("building", (70, 70, 70), {"cityscapes": 11, "synthia": 2}),
    ("wall", (102, 102, 156), {"cityscapes": 12, "synthia": 21}),
    ("fence", (190, 153, 153), {"cityscapes": 13, "synthia": 5}),
    ("pole", (153, 153, 153), {"cityscapes": 17, "synthia": 7}),
    ("traffic light", (250, 170, 30), {"cityscapes": 19, "synthia": 15}),
    ("traffic sign", (220, 220, 0), {"cityscapes": 20, "synthia": 9}),
    ("vegetation", (107, 142, 35), {"cityscapes": 21, "synthia": 6}),
    ("terrain", (152, 251, 152), {"cityscapes": 22, "synthia": 16}),
    ("sky", (70, 130, 180), {"cityscapes": 23, "synthia": 1}),
    ("person", (220, 20, 60), {"cityscapes": 24, "synthia": 10}),
    ("rider", (255, 0, 0), {"cityscapes": 25, "synthia": 17}),
    ("car", (0, 0, 142), {"cityscapes": 26, "synthia": 8}),
    ("truck", (0, 0, 70), {"cityscapes": 27, "synthia": 18}),
    ("bus", (0, 60, 100), {"cityscapes": 28, "synthia": 19}),
    ("train", (0, 80, 100), {"cityscapes": 31, "synthia": 20}),
    ("motorcycle", (0, 0, 230), {"cityscapes": 32, "synthia": 12}),
    ("bicycle", (119, 11, 32), {"cityscapes": 33, "synthia": 11}),
)
"""Cityscapes' 19 evaluated classes and colours; SYNTHIA's ids as BDL and CLAN use them (16 of them
are DADA's).
"""

CAMVID_ROWS: tuple[ClassRow, ...] = (
    ("sky", (128, 128, 128), {"camvid": 0}),
    ("building", (128, 0, 0), {"camvid": 1}),
    ("pole", (192, 192, 128), {"camvid": 2}),
    ("road", (128, 64, 128), {"camvid": 3}),
    ("pavement", (60, 40, 222), {"camvid": 4}),
    ("tree", (128, 128, 0), {"camvid": 5}),
    ("sign symbol", (192, 128, 128), {"camvid": 6}),
    ("fence", (64, 64, 128), {"camvid": 7}),
    ("car", (64, 0, 128), {"camvid": 8}),
    ("pedestrian", (64, 64, 0), {"camvid": 9}),
    ("bicyclist", (0, 128, 192), {"camvid": 10}),
)
"""SegNet's 11 classes of CamVid."""

LOVEDA_ROWS: tuple[ClassRow, ...] = (
    ("background", (255, 255, 255), {"loveda": 1}),
    ("building", (255, 0, 0), {"loveda": 2}),
    ("road", (255, 255, 0), {"loveda": 3}),
    ("water", (0, 0, 255), {"loveda": 4}),
    ("barren", (159, 129, 183), {"loveda": 5}),
    ("forest", (0, 255, 0), {"loveda": 6}),
    ("agricultural", (255, 195, 128), {"loveda": 7}),
)
"""LoveDA's classes; id 0 is no data."""

NOT_IN_SYNTHIA = ("terrain", "truck", "train")

LABEL_SPACES: dict[str, LabelSpace] = {}
LABEL_SPACES["cityscapes19"] = label_space(CITYSCAPES_ROWS, CITYSCAPES_IDS, STREET_IDS)
LABEL_SPACES["cityscapes16"] = label_space(
    [row for row in CITYSCAPES_ROWS if row[0] not in NOT_IN_SYNTHIA], CITYSCAPES_IDS, STREET_IDS
)
LABEL_SPACES["camvid11"] = label_space(CAMVID_ROWS, {})
LABEL_SPACES["loveda7"] = label_space(LOVEDA_ROWS, {})


def train_ids_of(
    table: npt.NDArray[np.uint8] | None, ids: Sequence[int]
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]:
    """A function that maps labels (H, W) uint8 of these ids through `table` (256,) into new memory.

    Two pixels are looked up at a time, which is four times as fast as NumPy's indexing; where the
    table changes none of the ids, the labels are only copied.
    """
    present = np.array(ids, np.intp)
    if table is None or (table[present] == present).all():
        return np.copy
    first, second = np.meshgrid(table, table)
    pairs = np.stack([first, second], axis=-1).reshape(-1).view(np.uint16)

    def look_up(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if labels.size % 2:
            return table[labels]
        mapped = np.take(pairs, labels.reshape(-1).view(np.uint16), mode="wrap")
        return mapped.view(np.uint8).reshape(labels.shape)

    return look_up
