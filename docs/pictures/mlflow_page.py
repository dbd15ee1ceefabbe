"""Takes the picture of a run in MLflow: `python docs/pictures/mlflow_page.py RUNS RUN` writes
mlflow.png beside this file. RUNS is a folder with an `mlflow.db`, as jobs without a server leave it
beside their checkpoints; RUN is the run's name. It needs Chromium (Debian: chromium-headless-shell)
and the packages mlflow and websocket-client.

The page's sections are folded by clicks, so the browser is driven by its DevTools protocol.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import websocket
from mlflow import MlflowClient

from adapt.platforms.local_stack import mlflow_server

OUT = Path(__file__).resolve().with_name("mlflow.png")
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WIDTH_PX, HEIGHT_PX = 1220, 1140
LEFT_PX, TOP_PX, RIGHT_PX, BOTTOM_PX = 206, 14, 26, 56
"""Of the window, and what the picture leaves out of it: the menu, margins."""
SHOWN = "train"
"""The section that stays open."""
LEAST_CHARTS = 6
"""That fill the window."""
PATIENCE_S, POLL_S, SETTLE_S = 300.0, 2.0, 15.0

DRAWN = """
[...document.querySelectorAll('.js-plotly-plot')].filter(
    one => one.offsetParent && one.querySelector('.scatterlayer')).length
"""
FOLD = """
for (const head of document.querySelectorAll('[role=button][aria-expanded=true]'))
    if (head.innerText.split('\\n')[0] !== '%s') head.click();
document.querySelector('[data-component-id="mlflow.assistant.chat_panel.close"]')?.click();
document.head.append(Object.assign(document.createElement('style'), {textContent:
    '.modebar, [data-component-id^="mlflow.assistant"] {display: none !important}'}));
"""


class Page:
    """A page of a browser, by its DevTools protocol."""

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(url, suppress_origin=True, timeout=PATIENCE_S)
        self._numbers = count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result. Raises `RuntimeError` where the browser refuses it."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv())).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def value(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=script)["result"].get("value")


def until(reached: Callable[[], Any]) -> Any:
    """The first true answer. Raises `TimeoutError`."""
    end_s = time.monotonic() + PATIENCE_S
    while not (answer := reached()):
        if time.monotonic() > end_s:
            raise TimeoutError(f"the page is not ready after {PATIENCE_S:.0f} s")
        time.sleep(POLL_S)
    return answer


@contextmanager
def opened(url: str, folder: Path) -> Iterator[Page]:
    """A page in a browser without a screen."""
    browser = next(filter(None, map(shutil.which, NAMES)))
    size = f"--window-size={WIDTH_PX},{HEIGHT_PX}"
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", size]
    words += [f"--user-data-dir={folder}", "--remote-debugging-port=0", url]
    process = subprocess.Popen([browser, *words], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        port_file = folder / "DevToolsActivePort"
        port = until(lambda: port_file.is_file() and port_file.read_text().split("\n")[0])
        listing = json.loads(urlopen(f"http://127.0.0.1:{port}/json/list").read())
        (target,) = (one for one in listing if one["type"] == "page")
        page = Page(target["webSocketDebuggerUrl"])
        yield page
        page.call("Browser.close")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def take(url: str, folder: Path) -> bytes:
    """The picture of a run's metrics, as PNG."""
    with opened(url, folder) as page:
        until(lambda: page.value(DRAWN))
        page.value(FOLD % SHOWN)
        time.sleep(POLL_S)  # until the other sections are folded
        until(lambda: page.value(DRAWN) >= LEAST_CHARTS)
        time.sleep(SETTLE_S)
        width, height = WIDTH_PX - LEFT_PX - RIGHT_PX, HEIGHT_PX - TOP_PX - BOTTOM_PX
        clip = {"x": LEFT_PX, "y": TOP_PX, "width": width, "height": height, "scale": 1}
        return base64.b64decode(page.call("Page.captureScreenshot", clip=clip)["data"])


def main(runs: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copy(Path(runs) / "mlflow.db", folder / "mlflow.db")
        with mlflow_server(folder) as url:
            client = MlflowClient(url)
            experiments = [one.experiment_id for one in client.search_experiments()]
            (run,) = client.search_runs(experiments, f"attributes.run_name = '{name}'")
            info = run.info
            path = f"experiments/{info.experiment_id}/runs/{info.run_id}/model-metrics"
            OUT.write_bytes(take(f"{url}/#/{path}", folder / "browser"))


if __name__ == "__main__":
    main(*sys.argv[1:])
