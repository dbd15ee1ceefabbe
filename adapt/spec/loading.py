"""Reads job specs: a YAML file, or plain values, with overrides -> a checked `JobSpec`, or mistakes
that are named by their keys."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adapt.config.secrets import refuse_secrets
from adapt.config.strict_yaml import IN_VARIABLE, read_yaml, with_overrides
from adapt.config.validation import validate
from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.errors import JobError
from adapt.spec.job_spec import JobSpec
from adapt.spec.shipped import find_file

TAGS = ("name", "architecture")
"""Keys that pick the row of a table whose keys a section has."""


def load_spec(
    where: Path | str,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> JobSpec:
    """Read a job spec from a path, a URI or `env:VARIABLE` (see `read_yaml`), or a shipped one by
    its name, as `toy_town/advent`.

    The run is named after the file unless the spec says otherwise. Raises `JobError`, `StoreError`.
    """
    where, overrides = find_file(where), [*overrides]
    values = read_values(where, overrides, environment)
    try:
        return parse_spec(values, default_name=run_name(where))
    except JobError as error:
        between = "\n" if "\n" in error.problem else " "
        fix = error.fix or _whole_section(error.problem, overrides)
        raise JobError(f"{where}:{between}{error.problem}", fix) from error


def read_values(
    where: Path | str, overrides: Iterable[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    """The plain values of a job spec with overrides, not checked yet. Raises as `load_spec`."""
    values: dict[str, Any] = read_yaml(find_file(where), environment)
    for override in overrides:
        values = with_overrides(with_classes(values), [override])
    return values


def run_name(where: Path | str) -> str:
    """The name of a run whose spec has none: that of the spec's file."""
    return Path(str(where).removeprefix(IN_VARIABLE).partition("?")[0]).stem


def _whole_section(problem: str, overrides: Iterable[str]) -> str:
    """The fix where an override picks another row, such as a method, and the keys of the row before
    it stay; empty for other problems."""
    for override in overrides:
        key, _, value = override.partition("=")
        section, _, tag = key.rpartition(".")
        if tag in TAGS and re.search(rf"^{re.escape(section)}\.[^:]+: unknown key", problem, re.M):
            return f"replace the whole section: --set '{section}={{{tag}: {value}}}'"
    return ""


def parse_spec(values: Mapping[str, Any], default_name: str) -> JobSpec:
    """Plain values -> spec.

    Raises `JobError` with a line for each mistake, and for what looks like a secret.
    """
    refuse_secrets(values)
    named = values.get("classes")
    if isinstance(named, str):
        LabelSpace.named(named)
    name = {} if values.get("name", "") != "" else {"name": default_name}
    return validate(JobSpec, {**with_classes(values), **name})


def with_classes(values: Mapping[str, Any]) -> dict[str, Any]:
    """A spec's values, the label space that `classes` names written out: overrides reach its
    classes. An unknown name stays."""
    space = LABEL_SPACES.get(str(values.get("classes")))
    if space is None:
        return dict(values)
    return {**values, "classes": [entry.model_dump(mode="json") for entry in space.root]}
