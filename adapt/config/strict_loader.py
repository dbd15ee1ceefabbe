"""YAML text -> plain values as JSON has them: texts, numbers, booleans, null, lists, mappings with
unique keys. Each mistake with its line and, where it is a known one, its fix.

YAML 1.1 reads `off` as false, `2024-01-01` as a date, `010` as 8 and merges `<<`; here these are
texts, 10 and an error. Anchors and aliases are read, up to `MAX_VALUES` when written out.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import yaml

MAX_DIGITS = 300
"""Most digits of a number."""

MAX_VALUES = 100_000
"""Most keys and values of a text, aliases written out."""

_TAG = "tag:yaml.org,2002:"


class NotPlain(Exception):
    """Text that is not plain YAML: `problem` says what was expected and got at `line`, which counts
    from 1, or is 0 where no line is known."""

    def __init__(self, problem: str, fix: str = "", line: int = 0) -> None:
        super().__init__(problem, fix, line)
        self.problem, self.fix, self.line = problem, fix, line


class Number(float):
    """A number with a point or an exponent; messages show it as it was typed: `1e4`."""

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __repr__(self) -> str:
        return self.text


class _Scalar(NamedTuple):
    """Name in messages, pattern of texts, the characters that they begin with, their value."""

    name: str
    pattern: str
    first: tuple[str, ...]
    value: Callable[[str], Any]


_FLOAT = r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
_SCALARS = {
    "bool": _Scalar("true or false", r"true|false", ("t", "f"), lambda text: text == "true"),
    "int": _Scalar("an integer", r"[-+]?[0-9]+", tuple("-+0123456789"), int),
    "float": _Scalar("a number", _FLOAT, tuple("-+.0123456789"), Number),
    "null": _Scalar("null", r"~|null|Null|NULL|", ("~", "n", "N", ""), lambda _: None),
}
"""By tag."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's loader with the scalars and tags of JSON alone."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping whose keys are texts, each once."""
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                fix = "put a text with braces or brackets in quotes"
                raise NotPlain("expected a name before the colon, got several values", fix, line)
            key = key_node.value
            if key == "<<":
                raise NotPlain(
                    "expected a key, got a merge (<<)", "write the merged keys out", line
                )
            if key in lines:
                raise NotPlain(
                    f"{key}: expected once, got it {_twice(lines[key], line)}", "keep one"
                )
            lines[key] = line
        return {key.value: self.construct_object(value, deep) for key, value in node.value}


def _twice(first: int, second: int) -> str:
    return f"twice on line {first}" if first == second else f"on lines {first} and {second}"


def _scalar(kind: str) -> Callable[[Any, Any], Any]:
    row = _SCALARS[kind]

    def construct(_: yaml.SafeLoader, node: yaml.Node) -> Any:
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        if not re.fullmatch(row.pattern, text):
            raise NotPlain(f"expected {row.name}, got {text[:40]!r}", line=_line(node))
        if len(text) > MAX_DIGITS:
            problem = f"expected a number of at most {MAX_DIGITS} digits, got {len(text)}"
            raise NotPlain(problem, line=_line(node))
        return row.value(text)

    return construct


def _unknown(_: yaml.SafeLoader, node: yaml.Node) -> Any:
    tag = node.tag.replace(_TAG, "!!")
    raise NotPlain(f"expected plain values, got the tag {tag}", "remove the tag", _line(node))


_StrictLoader.yaml_implicit_resolvers = {}
_StrictLoader.yaml_constructors = {
    f"{_TAG}{_kind}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{_kind}"]
    for _kind in ("str", "seq", "map")
}
for _kind, _row in _SCALARS.items():
    _pattern = re.compile(f"^(?:{_row.pattern})$")
    _StrictLoader.add_constructor(f"{_TAG}{_kind}", _scalar(_kind))
    _StrictLoader.add_implicit_resolver(f"{_TAG}{_kind}", _pattern, list(_row.first))
_StrictLoader.add_constructor(None, _unknown)


def load(text: str) -> Any:
    """Plain values, or None of an empty text. Raises `NotPlain`."""
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise _explained(error) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        problem = f"expected text, got the character {chr(error.character)!a}"
        raise NotPlain(problem, "remove it, or write it as an escape in quotes", line) from error
    except RecursionError as error:
        raise NotPlain("expected a few levels of values, got hundreds") from error


_FIXES = (
    (r"found character '\\t'|found a tab", "indent by spaces, not tabs"),
    (r"found undefined alias|cannot start any token", "put the text in quotes"),
    (r"mapping values are not allowed", "put a text with a colon in quotes, or correct the indent"),
    (r"unexpected end of stream", "close the quotes"),
    (r"',' or '[\]}]'", "close the bracket, or put a comma between its values"),
    (r"another document", "remove the line ---, since a spec is one document"),
    (r"<block end>", "correct the indent of this line"),
)
"""PyYAML's description of a syntax error -> its fix."""


def _explained(error: yaml.MarkedYAMLError) -> NotPlain:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or str(error)
    fix = next((fix for pattern, fix in _FIXES if re.search(pattern, problem)), "")
    return NotPlain(
        f"expected valid YAML, got: {problem}", fix, 0 if mark is None else mark.line + 1
    )


def _check_size(root: yaml.Node) -> None:
    """Refuse aliases that contain themselves, or that are too much when written out."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, within: tuple[int, ...]) -> int:
        if id(node) in within:
            raise NotPlain("expected plain values, got one that contains itself", line=_line(node))
        if id(node) not in sizes:
            inside = (*within, id(node))
            sizes[id(node)] = 1 + sum(size(one, inside) for one in _children(node))
        return sizes[id(node)]

    if size(root, ()) > MAX_VALUES:
        raise NotPlain(f"expected at most {MAX_VALUES} values, got more, aliases written out")


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    for entry in node.value if isinstance(node, yaml.CollectionNode) else ():
        yield from entry if isinstance(entry, tuple) else (entry,)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
