"""Unknown keys: what they may have been meant as."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic.fields import FieldInfo

from adapt.config.kinds import fields_of, names_of, parts_of, tag_of, value_at
from adapt.errors import close_names

ALIKE = 0.8
"""Least likeness of a key at the top to one of a section below."""


def meanings_of_key(path: str, known: Iterable[str], paths: Mapping[str, list[str]]) -> list[str]:
    """The likely meanings of an unknown key: a known one that is alike, else paths that end with
    it, first those below the same section. At the top, where keys are sections, such paths come
    first, also alike ones."""
    section, _, key = path.rpartition(".")
    near, named = close_names(key, known), paths.get(key, [])
    if section:
        return near or [one for one in named if one.startswith(f"{section}.")] or named
    if named or close_names(key, known, ALIKE):
        return named or near
    return next((paths[one] for one in close_names(key, paths, ALIKE)), near)


def paths_in(whole: Any, values: Any, under: str) -> dict[str, list[str]]:
    """Name of a key -> the shortest paths in a section that end with it; of unions, in the section
    that `values` pick."""
    found: dict[str, list[str]] = {}
    level = [(under, whole, values)]
    while level:
        level = [
            (f"{path}.{name}" if path else name, Annotated[field.annotation, field], inside)
            for path, kind, around in level
            for name, field in _picked(kind, around).items()
            for inside in [value_at(around, name)]
        ]
        here: dict[str, list[str]] = {}
        for path, *_ in level:
            here.setdefault(path.rpartition(".")[2], []).append(path)
        found = here | found
    return found


def _picked(kind: Any, values: Any) -> dict[str, FieldInfo]:
    """The keys of a section; of a union of them, of the one that `values` name, else of all."""
    tag = tag_of(kind)
    name = values.get(tag) if tag and isinstance(values, Mapping) else None
    chosen = [one for one in parts_of(kind)[0] if name is not None and name in names_of(one, tag)]
    return fields_of(chosen[0] if chosen else kind)
