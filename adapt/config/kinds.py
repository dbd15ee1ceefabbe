"""The types of sections, walked by key: their members, keys, and what picks one of a union."""

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo


class PickedBy(NamedTuple):
    """A note on a union of sections whose names may be left out: the key that holds them."""

    discriminator: str


class Forms(NamedTuple):
    """A note on a union of forms that a value may have: pydantic's names of them, which stand
    beside the keys where an error is."""

    names: tuple[str, ...]


def value_at(values: Any, key: str | int) -> Any:
    """The value under a key of a mapping or a list, or None."""
    if isinstance(values, Mapping):
        return values.get(key)
    found = isinstance(values, list | tuple) and isinstance(key, int) and key < len(values)
    return values[key] if found else None


def inside(kind: Any, key: str | int) -> Any:
    """The type of what stands under a key of a section or a table, or in a list."""
    for choice in parts_of(kind)[0]:
        field = fields_of(choice).get(str(key))
        if field is not None:
            return Annotated[field.annotation, field]
        if get_origin(choice) in (tuple, list, dict):
            return get_args(choice)[-1 if get_origin(choice) is dict else 0]
    return Any


def fields_of(kind: Any) -> dict[str, FieldInfo]:
    """The keys of a section, or of a union of them; none for any other type."""
    return {
        key: field
        for one in parts_of(kind)[0]
        if isinstance(one, type) and issubclass(one, BaseModel)
        for key, field in one.model_fields.items()
    }


def tag_of(kind: Any) -> str:
    """The key whose value picks one of a union of sections, or nothing."""
    for note in parts_of(kind)[1]:
        if isinstance(note, FieldInfo | PickedBy) and isinstance(note.discriminator, str):
            return note.discriminator
    return ""


def form_names(kind: Any) -> tuple[str, ...]:
    """Names of the forms that a value may have, where there are several."""
    notes = (note for note in parts_of(kind)[1] if isinstance(note, Forms))
    return next((note.names for note in notes), ())


def names_of(section: Any, tag: str) -> tuple[Any, ...]:
    """The values of its tag by which a section of a union is picked."""
    field = fields_of(section).get(tag)  # null, where a union has it, is no section
    return () if field is None else get_args(field.annotation)


def parts_of(kind: Any) -> tuple[list[Any], list[Any]]:
    """The members of a type that is a union, else itself; and all that it is annotated with."""
    if get_origin(kind) is Annotated:
        inner, *notes = get_args(kind)
        kinds, others = parts_of(inner)
        return kinds, [each for note in notes for each in (note, *_metadata(note))] + others
    if get_origin(kind) in (Union, UnionType):
        members = [parts_of(member) for member in get_args(kind)]
        return [one for kinds, _ in members for one in kinds], [n for _, ns in members for n in ns]
    if isinstance(kind, type) and issubclass(kind, RootModel):
        return parts_of(kind.model_fields["root"].annotation)
    return [kind], []


def _metadata(note: Any) -> Iterable[Any]:
    return note.metadata if isinstance(note, FieldInfo) else ()
