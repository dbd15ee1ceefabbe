"""Globs over keys: `*`, `?` and `[a-z]` fit within a name, `**` over folders; the same on all
stores."""

import re

WILD = re.compile(r"[*?\[]")
"""A letter that makes a text a glob."""
ANY = re.compile(".*", re.DOTALL)
"""Fits every key."""

_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", re.DOTALL)
_WORDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def pattern_of(glob: str) -> re.Pattern[str]:
    """The pattern that a whole key fits."""
    tokens = _TOKEN.findall(glob)
    return re.compile("".join(_WORDS.get(one) or _letter(one) for one in tokens), re.DOTALL)


def _letter(token: str) -> str:
    if len(token) > 2:
        return f"[{token[1:-1].replace('!', '^', 1) if token[1] == '!' else token[1:-1]}]"
    return re.escape(token)
