"""Findings of `check` about SkyPilot: its version, the secrets, and whether an enabled cloud has
such machines (`sky launch --dryrun`)."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from adapt.platforms.platform import Finding, Request
from adapt.platforms.sky.program import INSTALL, Sky, SkyMissing
from adapt.platforms.sky.refusals import refusal_of

OLDEST = (0, 14)
"""The first version whose tasks have hooks and whose queue names exit codes."""


def findings(
    sky: Sky, task: Path, request: Request, environment: Mapping[str, str]
) -> Iterator[Finding]:
    """A line each; without SkyPilot the first one alone, which is then not ok."""
    try:
        version = sky.run("--version").said
    except SkyMissing as error:
        yield Finding("sky", False, error.problem.removeprefix("sky: "), INSTALL)
        return
    yield _of_version(version)
    for name in request.get("secrets", {}):
        said = "set" if environment.get(name) else "not set"
        yield Finding(f"secret {name}", said == "set", said, f"export {name}=...")
    yield _of_machines(sky, task)


def _of_version(said: str) -> Finding:
    found = re.search(r"(\d+)\.(\d+)(\.\S+)?", said)
    new_enough = found is not None and (int(found[1]), int(found[2])) >= OLDEST
    oldest = ".".join(map(str, OLDEST))
    shown = found[0] if found else said
    fix = f"pip install --upgrade 'skypilot>={oldest}', and `sky api stop` once after it"
    return Finding("sky", new_enough or "1.0.0.dev" in said, f"SkyPilot {shown}", fix)


def _of_machines(sky: Sky, task: Path) -> Finding:
    answer = sky.run("launch", "--dryrun", "--yes", str(task))
    if answer.code:
        refusal = refusal_of(answer.said)
        return Finding("machines", False, f"{refusal.key}: {refusal.found}", refusal.fix)
    return Finding("machines", True, chosen_in(answer.said) or "to be had")


def chosen_in(table: str) -> str | None:
    """The machine that SkyPilot's table marks as chosen, with its price an hour."""
    for line in table.splitlines():
        if "✔" in line:
            return " ".join(line.replace("✔", "").split())
    return None
