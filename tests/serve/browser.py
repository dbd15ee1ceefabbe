"""A Chromium without a screen, asked through its debugging pipe: what a page shows and requests."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
_ENDS = b"\0"


class Tab:
    """One page of a browser. `events` are all that it has reported."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers, self._rest = commands, answers, b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + _ENDS)
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while _ENDS not in self._rest:
            part = os.read(self._answers, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(_ENDS)
        return dict(json.loads(message))

    def value(self, script: str) -> Any:
        """The value of an expression of the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, timeout_s: float = 90) -> Any:
        """Wait until an expression of the page is true; its value."""
        end_s = time.monotonic() + timeout_s
        while not (found := self.value(script)):
            assert time.monotonic() < end_s, script
            time.sleep(0.1)
        return found

    def open(self, url: str, width: int = 1200, scheme: str = "light") -> None:
        """Open a page in a window of a width, in `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", features=[feature])
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self.ask("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({url!r}) && document.readyState == 'complete'")

    def give(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def requested(self) -> list[str]:
        """The addresses that the page has asked for."""
        sent = [
            one["params"] for one in self.events if one["method"] == "Network.requestWillBeSent"
        ]
        return [one["request"]["url"] for one in sent]

    def exceptions(self) -> list[str]:
        """The errors of the page's script."""
        return [str(one) for one in self.events if one["method"] == "Runtime.exceptionThrown"]


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A browser with a fresh profile."""
    assert BROWSER is not None
    its_commands, commands = os.pipe()
    answers, its_answers = os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += ["--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    script = f'exec "$0" "$@" 3<&{its_commands} 4>&{its_answers}'
    process = subprocess.Popen(
        ["bash", "-c", script, BROWSER, *options],
        pass_fds=(its_commands, its_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_commands)
    os.close(its_answers)
    try:
        yield Tab(commands, answers)
    finally:
        process.terminate()
        process.wait(30)
        os.close(commands)
        os.close(answers)
