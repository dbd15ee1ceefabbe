"""Additions of the site to docs/: README, CONTRIBUTING and the other pages at the top of the
repository, the files that pages link to, and formulas as MathML, which needs no script.

Pages keep the links that work on GitHub; here those that leave docs/ are turned.
"""

import re
from html import unescape
from os.path import relpath
from pathlib import Path, PurePosixPath

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
}
"""Pages at the top of the repository, and their places on the site."""

LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the top, and every file outside of docs/ that a page links to."""
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    for path in sorted(_linked_files()):
        uri = f"repository/{path.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/, and links of pages that come from outside."""
    names = {uri: name for name, uri in PAGES.items()}
    uri = page.file.src_uri
    source = ROOT / names[uri] if uri in names else DOCS / uri

    def turned(link: re.Match[str]) -> str:
        if "://" in link[1]:
            return link[0]
        here = PurePosixPath(uri).parent
        return f"]({relpath(_uri((source.parent / link[1]).resolve()), here)}{link[2] or ''})"

    return LINK.sub(turned, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """LaTeX -> MathML."""

    def formula(found: re.Match[str]) -> str:
        return convert(unescape(found[2]), display="block" if found[1] == "div" else "inline")

    return FORMULA.sub(formula, html)


def _linked_files() -> set[Path]:
    pages = [*DOCS.glob("**/*.md"), *(ROOT / name for name in PAGES)]
    found = {
        (page.parent / link[1]).resolve()
        for page in pages
        for link in LINK.finditer(page.read_text(encoding="utf-8"))
        if "://" not in link[1]
    }
    return {path for path in found if path.is_file() and _uri(path).startswith("repository/")}


def _uri(path: Path) -> str:
    """Where a file of the repository is on the site."""
    if DOCS in path.parents:
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    return PAGES.get(name, f"repository/{name}")
