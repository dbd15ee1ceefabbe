"""The page: one file, no other address, a policy that lets its own script alone run."""

import base64
import hashlib
import re

from adapt.serve.page import page


def test_the_page_needs_nothing_else() -> None:
    text = page("town", False)[0].decode()
    assert "<title>town - SegAdapt</title>" in text
    assert 'NAME = "town", NEEDS_TOKEN = false;' in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", text)
    for needed in (
        "prefers-color-scheme: dark",
        "max-width: 46rem",
        'name="viewport"',
        "aria-live",
    ):
        assert needed in text


def test_the_policy_names_the_script_and_the_style() -> None:
    text, headers = page("town", True)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert b"NEEDS_TOKEN = true" in text and headers["x-content-type-options"] == "nosniff"


def test_names_are_text() -> None:
    text = page("</script><b>\"'", False)[0].decode()
    assert text.count("</script>") == 1 and "<b>" not in text.replace("<b>Choose", "")
    assert "&lt;/script&gt;&lt;b&gt;" in text
