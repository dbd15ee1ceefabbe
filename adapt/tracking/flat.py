"""Parameters as MLflow has them: one level of names."""

from collections.abc import Iterator, Mapping
from typing import Any

from adapt.tracking.names import digest


def flat(params: Mapping[str, Any]) -> dict[str, object]:
    """Nested mappings as `a.b`; a name that another value has, as by a key `a.b`, gets a digest."""
    values: dict[str, object] = {}
    for path, value in _leaves(params):
        name = ".".join(path)
        values[f"{name}-{digest(repr(path))}" if name in values else name] = value
    return values


def _leaves(
    params: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value
