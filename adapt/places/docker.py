"""A plain container: one node, and by default ten seconds between `docker stop` and the end."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from adapt.places.local import local
from adapt.places.place import Place

GRACE_S = 10.0


def docker(environment: Mapping[str, str], root: Path) -> Place | None:
    """A place where Docker's or podman's mark lies at the root."""
    if not any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        return None
    place = local(environment, root)
    assert place is not None
    return replace(place, platform="docker", grace_s=GRACE_S)
