"""Names as MLflow takes them: of metrics, params, tags and artifacts; and texts in tags.

MLflow refuses most punctuation, and names that are not the path that they spell (`a//b`, `..`).
Such a name is replaced by a legal one that ends with a digest of it: a pure function, so that two
names never become one, and one name is the same in every start of a job.
"""

import hashlib
import posixpath
import re
from collections.abc import Callable
from pathlib import PurePosixPath

_MAX_CHARS = 250
_MAX_STEM_BYTES, _MAX_SUFFIX_CHARS = 140, 8
_MAX_FILE_BYTES = 200
"""Of one part of a path: file systems take 255 bytes."""
_DIGEST_CHARS = 8
_MOST_CHARS = 5000
"""Of a long text; older servers too accept that much in a tag."""


def legal_name(name: str) -> str:
    """The name of a metric, param or tag; unchanged where MLflow takes it."""
    return _legal(name, _legal_part)


def legal_path(artifact_path: str) -> str:
    """The path of an artifact, whose parts are also names of files; a file's suffix stays."""
    return _legal(artifact_path, _legal_file)


def _legal(name: str, legal_part: Callable[[str], str]) -> str:
    """Each part made legal, so that what is in one folder stays in one; then the whole."""
    parts = name.split("/")
    kept = [legal_part(part) for part in parts if part.strip(" .")]
    path = "/".join(kept)
    if len(kept) == len(parts) and len(path) <= _MAX_CHARS and not path.startswith(".."):
        return path
    path = path.lstrip(". ")
    suffix = _suffix(path)
    stem = path.removesuffix(suffix)[: _MAX_CHARS - _DIGEST_CHARS - 1 - len(suffix)]
    if legal_part is _legal_file:
        folder, _, file = stem.rpartition("/")
        stem = posixpath.join(folder, _cut_bytes(file, _MAX_STEM_BYTES))
    return f"{stem.rstrip('/ .') or '_'}-{digest(name)}{suffix}"


def _legal_part(part: str) -> str:
    """No blanks at an end: databases drop them."""
    if re.fullmatch(r"[\w\-. :]+", part) and part == part.strip():
        return part
    spelled = re.sub(r"[^\w\-. :]", "_", part).strip()
    return f"{spelled}-{digest(part)}"


def _legal_file(part: str) -> str:
    plain = _legal_part(part) == part and ":" not in part
    if plain and len(part.encode()) <= _MAX_FILE_BYTES:
        return part
    named = re.sub(r"[^\w\-. ]", "_", part).strip()
    suffix = _suffix(named)
    stem = _cut_bytes(named.removesuffix(suffix), _MAX_STEM_BYTES)
    return f"{stem or '_'}-{digest(part)}{suffix}"


def _suffix(path: str) -> str:
    suffix = PurePosixPath(path).suffix
    return suffix if len(suffix) <= _MAX_SUFFIX_CHARS else ""


def _cut_bytes(part: str, length: int) -> str:
    return part.encode()[:length].decode(errors="ignore").strip()


def clean_text(text: str) -> str:
    """The text without what UTF-8 or a database cannot hold: lone surrogates, NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


def digest(text: str) -> str:
    """Eight hexadecimal digits that stand for the text."""
    hashed = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()[:_DIGEST_CHARS]


def shortened(text: str) -> str:
    """The text, or its two ends: the head names the place, the tail the error."""
    half = _MOST_CHARS // 2 - 10
    return text if len(text) <= _MOST_CHARS else f"{text[:half]}\n[...]\n{text[-half:]}"
