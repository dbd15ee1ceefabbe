"""The keys of a section as rows of a Markdown table: type, default and meaning, from its schema."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from adapt.errors import written


def rows_of(model: type[BaseModel], inherited: type[BaseModel] | None = None) -> list[str]:
    """A row for each key of a section, without those that `inherited` has with the same text."""
    schema = model.model_json_schema()
    known = {} if inherited is None else inherited.model_json_schema()["properties"]
    return [
        f"| `{key}` | {_cell(_words(node, schema))} | {_default(key, node, schema)} "
        f"| {_cell(_meaning(node, schema))} |"
        for key, node in schema.get("properties", {}).items()
        if known.get(key) != node
    ]


def _meaning(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The key's description; pydantic leaves out one that repeats the section's docstring."""
    return str(node.get("description") or _target(node, schema).get("description", ""))


def _default(key: str, node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The default of a key, as one would write it."""
    if key in schema.get("required", []):
        return "**required**"
    default = node.get("default")
    if isinstance(default, dict) or "default" not in node:
        if not _is_section(node, schema):
            return "`{}`"
        own = _own_defaults(node, schema, default or {})
        return f"`{written(own)}`, else its defaults" if own else "its defaults"
    return f"`{json.dumps(default)}`"


def _own_defaults(
    node: Mapping[str, Any], schema: Mapping[str, Any], default: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of a section's default that are not those of the section itself; of a union that
    must be named, the name too."""
    picked_by = node.get("discriminator", {}).get("propertyName")
    for choice in node.get("oneOf", [node]):
        keys = _target(choice, schema)["properties"]
        if all(default.get(key) == one["const"] for key, one in keys.items() if "const" in one):
            return {
                key: value
                for key, value in default.items()
                if key == picked_by or value != keys[key].get("default", value)
            }
    return {}


def _is_section(node: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    if "oneOf" in node:
        return all(_is_section(one, schema) for one in node["oneOf"])
    return "$ref" in node and "properties" in _target(node, schema)


def _target(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A node with its references followed."""
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def _words(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """A schema node as a type: `integer >= 1`, `"sgd" or "adamw"`, `list of 2 integers`."""
    node = _target(node, schema)
    if "const" in node:
        return json.dumps(node["const"])
    if "enum" in node:
        return " or ".join(json.dumps(value) for value in node["enum"])
    for choice in ("anyOf", "oneOf"):
        if choice in node:
            return " or ".join(dict.fromkeys(_words(inner, schema) for inner in node[choice]))
    if node.get("type") == "array":
        return _list_words(node, schema)
    if node.get("type") == "object":
        inner = node.get("additionalProperties")
        return f"table of {_words(inner, schema)}" if isinstance(inner, dict) else "section"
    return f"{_KINDS.get(str(node.get('type')), 'value')}{_bounds(node)}"


def _list_words(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    items = node.get("items") or (node.get("prefixItems") or [{}])[0]
    fixed = node.get("minItems") == node.get("maxItems")
    count = f" {node['minItems']}" if fixed and "minItems" in node else ""
    return f"list of{count} ({_words(items, schema)})"


_KINDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
_KINDS["null"] = "null"
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _bounds(node: Mapping[str, Any]) -> str:
    limits = [f"{sign} {node[key]:g}" for key, sign in _BOUNDS.items() if key in node]
    return f" {' and '.join(limits)}" if limits else ""


def _cell(text: str) -> str:
    """Escape text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
