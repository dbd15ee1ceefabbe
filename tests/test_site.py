"""The site is built strictly and without the network; "Read the code" names what is there."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ROOT

PAGE = ROOT / "docs" / "read_the_code.md"
NAMES = re.findall(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)\)", PAGE.read_text())
EXCERPTS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]+?\b(?:src|href)=\"([^\"]*)")
CLOSED = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make site` builds it; no request of it would be answered."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | CLOSED, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.glob("**/*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(https?:)?//", page.read_text()
        )
        assert loaded == [], page


def test_readme_and_contributing_are_pages_of_the_site(site: Path) -> None:
    index = (site / "index.html").read_text()
    assert (
        'src="pictures/demo.png"' in index
        and 'src="flow.svg"' in index
        and 'href="methods/"' in index
    )
    assert "Adding a row" in (site / "contributing" / "index.html").read_text()


@pytest.mark.slow
def test_formulas_need_no_script(site: Path) -> None:
    page = (site / "methods" / "index.html").read_text()
    assert page.count('<math xmlns="http://www.w3.org/1998/Math/MathML"') >= 8
    assert "arithmatex" not in page


def test_linked_specs_are_on_the_site(site: Path) -> None:
    methods = (site / "methods" / "index.html").read_text()
    links = re.findall(r'href="(\.\./repository/job_specs/[^"]+)"', methods)
    assert len(links) > 20 and all((site / "methods" / link).is_file() for link in links)


def test_the_public_names_have_their_documentation(site: Path) -> None:
    page = (site / "python" / "index.html").read_text()
    for name in ("load_spec", "run_job", "build_segmenter", "build_method", "evaluate_checkpoint"):
        assert re.search(rf'id="adapt\.[\w.]+\.{name}"', page), name


def definitions(path: Path) -> Iterator[str]:
    """`function`, `Class`, `method` and `Class.method` of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (
                f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)
            )


@pytest.mark.parametrize(("name", "file"), NAMES)
def test_a_linked_name_is_defined_in_its_file(name: str, file: str) -> None:
    assert name in set(definitions(ROOT / file))


@pytest.mark.parametrize("excerpt", EXCERPTS)
def test_an_excerpt_is_in_a_linked_file(excerpt: str) -> None:
    files = set(re.findall(r"\(\.\./([\w/]+\.py)\)", PAGE.read_text()))
    assert any(excerpt in (ROOT / file).read_text() for file in files), excerpt


def test_the_page_has_names_and_excerpts() -> None:
    assert len(NAMES) >= 15 and len(EXCERPTS) >= 4
