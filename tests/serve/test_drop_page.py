"""The page in a real browser: at the width of a laptop and of a phone, light and dark."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serve.browser import BROWSER, Tab, browser
from tests.serve.conftest import Pointwise, running
from tests.serve.pictures import RGB

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: chromium)"),
    pytest.mark.slow,
]
DONE = "(t => t.endsWith('...') ? '' : t)(document.getElementById('status').textContent)"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def street(tmp_path: Path) -> Path:
    Image.fromarray(RGB).save(tmp_path / "street.png")
    return tmp_path / "street.png"


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_a_picture_is_drawn_in_its_classes(width: int, scheme: str, tab: Tab, street: Path) -> None:
    expected = Pointwise().predict(RGB)
    with running(Pointwise) as (_, server):
        tab.open(f"{server.url}/", width, scheme)
        tab.wait("document.getElementById('about').textContent == '19 classes'")
        tab.give("#file", street)
        assert tab.wait(DONE).startswith("100 x 60 pixels in ")
        ids = tab.value("Array.from(ids)")
        assert np.array_equal(np.array(ids).reshape(60, 100), expected.class_map)
        rows = tab.value("[...document.querySelectorAll('#legend li span')].map(e => e.innerText)")
        order = np.bincount(expected.class_map.ravel(), minlength=19).argsort(kind="stable")[::-1]
        assert rows[0] == expected.classes.names[order[0]]
        assert len(rows) == len(np.unique(expected.class_map))
        context = "document.getElementById('classes').getContext('2d')"
        drawn = tab.value(f"Array.from({context}.getImageData(7, 5, 1, 1).data)")
        assert drawn == [*expected.colours[5, 7].tolist(), 255]
        assert tab.value("document.documentElement.scrollWidth") <= width
        paper = tab.value("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, paper[4:-1].split(","))) > 384) == (scheme == "light")
        assert all(one.startswith((server.url, "data:", "blob:")) for one in tab.requested())
        assert tab.exceptions() == []


def test_large_pictures_are_shrunk_and_others_are_refused_with_a_reason(
    tab: Tab, street: Path, tmp_path: Path
) -> None:
    with running(Pointwise, max_pixels=1500) as (_, server):
        tab.open(f"{server.url}/")
        tab.give("#file", street)
        assert "50 x 30 pixels in " in tab.wait(DONE) and "(sent as " in tab.wait(DONE)
        (tmp_path / "notes.png").write_text("no picture")
        tab.give("#file", tmp_path / "notes.png")
        assert "This browser cannot read the file" in tab.wait(
            f"{DONE}.includes('cannot') && {DONE}"
        )
        server.service.slots.total = server.service.slots.most
        tab.give("#file", street)
        full = tab.wait(f"{DONE}.includes('Fix') && {DONE}")
        assert full.startswith("the server is full: ") and "Fix: retry after" in full
        server.service.slots.total = 0


def test_the_page_asks_for_a_token(tab: Tab, street: Path) -> None:
    with running(Pointwise, token="right") as (_, server):
        tab.open(f"{server.url}/")
        tab.give("#file", street)
        assert "expected this server's token" in tab.wait(DONE)
        enter = "document.getElementById('token')"
        tab.value(f"{enter}.value = 'right', {enter}.dispatchEvent(new Event('change'))")
        tab.wait(f"{DONE} == 'The token is right.'")
        tab.give("#file", street)
        tab.wait(f"{DONE}.startsWith('100 x 60 pixels')")
