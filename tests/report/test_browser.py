"""The pages in a real browser, without a screen: at the width of a laptop and of a phone, light and
dark. Charts are drawn, nothing is wider than the window, and no request goes out.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from adapt.report.page import compare_page, run_page
from tests.report.runs import HOSTILE, made_run

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
SCHEMES = {"light": 1, "dark": 0}
"""By Blink's setting `preferredColorScheme`."""
PROBE = """<script>addEventListener("load", function () {
  setTimeout(function () {
    var wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    document.body.dataset.wide = wide;
    document.body.dataset.alert = String(window.hacked || "no");
  }, 500);
});</script>"""

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed (Debian: chromium-headless-shell)"
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    run, other = made_run("one"), made_run(HOSTILE, seed=1)
    found = {"run": run_page(run, other), "compare": compare_page([run, other])}
    paths = {}
    for name, text in found.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(text)
        policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
        probed = policy.sub("", text).replace("</body>", f"{PROBE}</body>")
        paths[f"{name} with a probe"] = folder / f"{name}-probe.html"
        paths[f"{name} with a probe"].write_text(probed)
    return paths


def browse(page: Path, width: int, scheme: str, *options: object) -> str:
    """Open a page; what the browser writes."""
    assert BROWSER is not None
    base = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    quick = ["--no-first-run", "--disable-component-update", "--virtual-time-budget=5000"]
    look = [
        f"--window-size={width},2400",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
    ]
    ended = subprocess.run(
        [BROWSER, *base, *quick, *look, *map(str, options), page.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        cwd=page.parent,
    )
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        *(("run", width, scheme) for width in (1280, 390) for scheme in SCHEMES),
        *(("compare", 1280, "light"), ("compare", 390, "dark")),
    ],
)
def test_all_charts_are_drawn_and_nothing_is_too_wide(
    pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    shown = browse(pages[f"{name} with a probe"], width, scheme, "--dump-dom")
    open_part = re.sub(r"<details>.*?</details>", "", shown, flags=re.DOTALL)
    charts = re.findall(r'<div class="chart[^>]*>', open_part)
    assert len(charts) >= 5
    assert all(f'data-drawn="{scheme}"' in chart for chart in charts)
    assert open_part.count('class="main-svg"') >= len(charts)
    assert 'data-wide="0"' in shown and 'data-alert="no"' in shown


@pytest.mark.slow
def test_no_request_goes_out_and_its_policy_lets_the_charts_be_drawn(
    pages: dict[str, Path], tmp_path: Path
) -> None:
    loading = tmp_path / "loading.html"
    loading.write_text('<img src="http://127.0.0.1:9/picture.png">')
    asked = {}
    for page in (pages["run"], loading):
        log = tmp_path / f"{page.stem}.json"
        shown = browse(page, 1280, "light", f"--log-net-log={log}", "--dump-dom")
        urls = re.findall(r'"url":"([^"]+)"', log.read_text())
        asked[page.stem] = {url for url in urls if url.startswith(("http", "ws"))}
        assert page is loading or 'data-drawn="light"' in shown
    assert asked == {"run": set(), "loading": {"http://127.0.0.1:9/picture.png"}}


@pytest.mark.slow
def test_a_dark_page_is_dark(pages: dict[str, Path], tmp_path: Path) -> None:
    for scheme, darkest in (("light", 200), ("dark", 0)):
        picture = tmp_path / f"{scheme}.png"
        browse(pages["run"], 390, scheme, f"--screenshot={picture}")
        with Image.open(picture) as image:
            assert image.width == 390
            corner = image.convert("L").getpixel((2, 2))
            assert isinstance(corner, int) and darkest <= corner <= darkest + 55
