"""The page at `/`: a picture is dropped on it, its classes are drawn. One file without any other
address; its policy lets a browser run the page's own script and ask this server alone.
"""

import base64
import hashlib
import html
import json
import re
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("page.html")


@cache
def page(name: str, needs_token: bool) -> tuple[bytes, dict[str, str]]:
    """The page for the model of this name, and its headers."""
    script_name = json.dumps(name).replace("<", "\\u003c")
    text = (
        _FILE.read_text()
        .replace("@NAME@", html.escape(name))
        .replace("@NAME_JSON@", script_name)
        .replace("@NEEDS_TOKEN@", json.dumps(needs_token))
    )
    policy = (
        f"default-src 'none'; script-src {_hash(text, 'script')}; style-src {_hash(text, 'style')}"
        "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return text.encode(), headers


def _hash(text: str, tag: str) -> str:
    """The source expression of the page's one element of this kind."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
