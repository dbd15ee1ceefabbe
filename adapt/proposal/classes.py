"""Classes proposed for the values in labels: named as the dataset of those ids or colours names
them, else `class_7`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adapt.batch import IGNORED
from adapt.data.colours import RGB
from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.data.packed.inspect import distinct_colours
from adapt.errors import JobError, counted
from adapt.proposal.label_values import LabelValues, Value

SAME = (
    ("sidewalk", "pavement"),
    ("vegetation", "tree"),
    ("person", "pedestrian"),
    ("bicycle", "bicyclist"),
    ("traffic sign", "sign symbol"),
)
"""Names of one thing in two label spaces: Cityscapes' and CamVid's."""
BLACK: RGB = (0, 0, 0)
Known = dict[Value, tuple[str, RGB]]
"""Value -> name and colour of its class."""


class ProposedClass(NamedTuple):
    """A class: the values in labels that are it, and the ids that are stored for them, a value's
    own or, for a colour, its number. `share` is of all pixels."""

    name: str
    colour: RGB
    values: tuple[Value, ...]
    ids: tuple[int, ...]
    share: float


class Proposed(NamedTuple):
    """The classes of one dataset, and the values that belong to none. `named_by`: the dataset or
    label space that has named them, empty where none did."""

    classes: tuple[ProposedClass, ...]
    ignored: tuple[Value, ...]
    named_by: str
    coloured: bool


def propose(values: LabelValues, as_dataset: str | None, ignored: Sequence[Value] = ()) -> Proposed:
    """Name the values. `as_dataset` is the dataset whose ids they are, None: by colours alone."""
    known, named_by = known_values(values, as_dataset)
    left_out: set[Value] = {*ignored, BLACK if values.coloured else IGNORED} - known.keys()
    left_out |= set(ignored)
    if named_by and not values.coloured:  # the dataset's own map leaves the others out
        left_out |= values.pixels.keys() - known.keys()
    found: dict[str, ProposedClass] = {}
    for number, value in enumerate(ordered(values, known, left_out)):
        one = class_of(values, value, number, known.get(value))
        before = found.get(one.name)
        found[one.name] = one if before is None else joined(before, one)
    gone = tuple(value for value in values.pixels if value in left_out)
    return Proposed(tuple(found.values()), gone, named_by, values.coloured)


def ordered(values: LabelValues, known: Known, left_out: set[Value]) -> list[Value]:
    """Values of classes: in the order of the label space that names them, then ids ascending and
    colours by pixels."""
    place = {value: number for number, value in enumerate(known)}

    def key(value: Value) -> tuple[int, int, str]:
        own = -values.pixels[value] if isinstance(value, tuple) else value
        return place.get(value, len(place)), own, str(value)

    return sorted((one for one in values.pixels if one not in left_out), key=key)


def joined(first: ProposedClass, second: ProposedClass) -> ProposedClass:
    """Two values of one class."""
    return first._replace(
        values=first.values + second.values,
        ids=first.ids + second.ids,
        share=first.share + second.share,
    )


def class_of(
    values: LabelValues, value: Value, number: int, known: tuple[str, RGB] | None
) -> ProposedClass:
    """The class of one value, with the name that is known for it."""
    identity = number if isinstance(value, tuple) else value
    red, green, blue = map(int, distinct_colours()[identity])
    own = values.palette.get(identity, (red, green, blue))
    name, colour = known or (f"class_{identity}", value if isinstance(value, tuple) else own)
    return ProposedClass(name, colour, (value,), (identity,), values.share(value))


def known_values(values: LabelValues, as_dataset: str | None) -> tuple[Known, str]:
    """Values that a label space names, in its order, and the dataset or label space that does."""
    if as_dataset is not None:
        found = by_ids(values, as_dataset)
        return (found, as_dataset) if found else ({}, "")
    shown: dict[RGB, Value] = {}
    for value in values.pixels:
        colour = value if isinstance(value, tuple) else values.palette.get(value)
        if colour is not None:
            shown[colour] = value
    fits = {name: by_colours(shown, space) for name, space in LABEL_SPACES.items()}
    best = max(fits, key=lambda name: sum(values.pixels[one] for one in fits[name]))
    return (fits[best], best) if len(fits[best]) > 1 else ({}, "")


def by_ids(values: LabelValues, dataset: str) -> Known:
    """The classes of a dataset's ids, by the first label space that maps it."""
    for space in LABEL_SPACES.values():
        if dataset in space.datasets:
            return {
                identity: (one.name, one.colour)
                for one in space.root
                for identity in one.ids.get(dataset, ())
                if identity in values.pixels
            }
    return {}


def by_colours(shown: Mapping[RGB, Value], space: LabelSpace) -> Known:
    """The values whose colours are classes' of a label space, in its order."""
    return {shown[one.colour]: (one.name, one.colour) for one in space.root if one.colour in shown}


def named_datasets() -> list[str]:
    """Datasets whose ids a label space names."""
    return sorted({name for space in LABEL_SPACES.values() for name in space.datasets})


def renamed(proposed: Proposed, names: Sequence[str]) -> Proposed:
    """The classes with names given by a person, in their order. `JobError` for another number, and
    for a name that is there twice."""
    if len(names) != len(proposed.classes):
        raise JobError(
            f"--names: expected {counted(len(proposed.classes), 'name')}, one a class, got "
            f"{len(names)}",
            fix="write them with commas between, in the order of the table",
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise JobError(
            f"--names: expected a name for each class, got {twice!r} twice",
            fix="give them two names, then merge the classes in the spec, by their ids",
        )
    pairs = zip(proposed.classes, names, strict=True)
    return proposed._replace(classes=tuple(one._replace(name=name) for one, name in pairs))


def ids_of_target(source: Proposed, target: Proposed) -> dict[str, tuple[int, ...]]:
    """Name of a class of the source -> ids of the target that are that class: by name where both
    are named by datasets, else by equal values."""
    by_name = bool(source.named_by and target.named_by)
    return {
        one.name: tuple(
            identity
            for other in target.classes
            if (alike(one.name, other.name) if by_name else set(one.values) & set(other.values))
            for identity in other.ids
        )
        for one in source.classes
    }


def alike(first: str, second: str) -> bool:
    """Return whether two names are of one thing."""
    return first == second or (first, second) in SAME or (second, first) in SAME
