"""The token that requests state, from a file or the environment."""

from collections.abc import Mapping
from pathlib import Path

from adapt.errors import JobError

VARIABLE = "SEGADAPT_TOKEN"


def token_of(path: Path | None, environment: Mapping[str, str]) -> str | None:
    """The token without blanks around it; None where neither names one.

    Raises `JobError` for a file that cannot be read, and for a token that no header can carry.
    """
    if path is None and VARIABLE not in environment:
        return None
    where = VARIABLE if path is None else str(path)
    token = (environment[VARIABLE] if path is None else _read(path)).strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        got = "another text" if token else "none"
        raise JobError(
            f"{where}: expected a token of ASCII letters, digits and signs, got {got}",
            "write one: openssl rand -hex 32",
        )
    return token


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise JobError(
            f"{path}: expected a file with a token, got none that can be read ({error})"
        ) from error
