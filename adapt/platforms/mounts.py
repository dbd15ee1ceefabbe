"""Paths of a container that is mounted from elsewhere."""

from collections.abc import Mapping


def below(path: str, mounted: Mapping[str, str]) -> str | None:
    """Where a path lies by the longest of the `mounted` paths, each with its source."""
    found = [one.rstrip("/") for one in mounted if f"{path}/".startswith(f"{one.rstrip('/')}/")]
    if not found:
        return None
    longest = max(found, key=len)
    sources = {one.rstrip("/"): source for one, source in mounted.items()}
    return sources[longest] + path[len(longest) :].rstrip("/")
