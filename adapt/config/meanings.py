"""Likely meanings of a value of the wrong type, which fixes propose: `'10k'` as 10000, `'yes'` as
true, `'512x1024'` as [512, 1024].
"""

import re
from collections.abc import Iterator
from typing import Any

_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NULL = {"none", "null", "nil", "~"}
_FACTORS = {"k": 1_000, "m": 1_000_000}
_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
MAX_LENGTH = 40
"""Longest text that may have been meant as numbers."""


def meanings(found: Any) -> Iterator[Any]:
    """Plain values that `found` may have been meant as, the likeliest first."""
    match found:
        case bool():
            yield str(found).lower()
        case str():
            yield from _of_text(found.strip()[:MAX_LENGTH])
            yield [found]
        case int() | float():
            yield from _of_number(found)
        case [one]:
            yield one


def _of_number(number: float) -> Iterator[Any]:
    if float(number).is_integer():
        yield int(number)
    if number in (0, 1):
        yield bool(number)
    yield repr(number)
    yield [number]
    yield [number, number]


def _of_text(text: str) -> Iterator[Any]:
    lower = text.lower()
    if lower in _TRUTH:
        yield _TRUTH[lower]
    if lower in _NULL:
        yield None
    number = _number_in(lower)
    if number is not None:
        yield from (one for one in _of_number(number) if not isinstance(one, bool | str))
        yield number
    parts = re.findall(_NUMBER, text)
    if len(parts) > 1 and re.fullmatch(r"[\s\[(]*", re.split(_NUMBER, text)[0]):
        yield [_plain(float(part)) for part in parts]


def _number_in(text: str) -> float | None:
    """`10k`, `10_000`, `10,000`, `0,5`, `0x10` or `1e4` as a number; None for other texts."""
    if re.fullmatch(r"0[xob][0-9a-f]+", text):
        try:
            return int(text, 0)
        except ValueError:
            return None
    factor = _FACTORS.get(text[-1:], 1)
    digits = text[:-1] if factor > 1 else text
    digits = re.sub(r"(?<=[0-9])[_,'](?=[0-9]{3}(?![0-9]))", "", digits).replace(",", ".")
    return factor * float(digits) if re.fullmatch(_NUMBER, digits) else None


def _plain(number: float) -> float:
    return int(number) if number.is_integer() else number
