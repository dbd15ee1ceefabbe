"""Keys of `stores:`: a scheme (`s3`), or how URIs begin (`s3://bucket`, `s3://bucket/prefix`).

The longest key that a URI begins with holds for it, compared by whole names between slashes, so
that two buckets of one job may have different credentials.
"""

import re
from collections.abc import Iterable

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_EXPECTED = "a scheme as `s3`, or how URIs begin, as `s3://BUCKET` or `s3://BUCKET/PREFIX`"


def fitting_key(uri: str, keys: Iterable[str]) -> str | None:
    """The key of `keys` that holds for a URI; None where none does."""
    names = _names(uri) if "://" in uri else ["file"]
    fitting = [key for key in keys if names[: len(_names(key))] == _names(key)]
    return max(fitting, key=lambda key: len(_names(key)), default=None)


def key_fault(key: str, schemes: Iterable[str]) -> str | None:
    """What is wrong with a key of `stores`: `KEY: expected ..., found ...`; None where nothing."""
    scheme, mark, rest = key.partition("://")
    known = ", ".join(sorted(schemes))
    wrong = not _SCHEME.fullmatch(scheme) or (mark and not all(_clean(n) for n in rest.split("/")))
    if wrong:
        return f"{settings_name(key)}: expected {_EXPECTED}, found {key!r}"
    if scheme not in schemes:
        return (
            f"{settings_name(key)}: there is no store for the scheme {scheme!r} (known: {known}); "
            f"expected {_EXPECTED}"
        )
    return None


def settings_name(key: str) -> str:
    """How messages name a key: `stores.s3`, `stores["s3://bucket"]`."""
    return f"stores.{key}" if _SCHEME.fullmatch(key) else f'stores["{key}"]'


def _names(uri: str) -> list[str]:
    scheme, _, rest = uri.partition("://")
    return [scheme.lower(), *(name for name in rest.split("/") if name)]


def _clean(name: str) -> bool:
    """Whether a bucket, host or part of a prefix can be meant; user names are no part of a key."""
    return name not in ("", ".", "..") and not re.search(r"[\s?#@\\]", name)
