"""Hostile clients of a server that is a process of its own: right codes, bounded memory by what the
system counts, and a server that goes on.
"""

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from tests.serve.conftest import Process
from tests.serve.pictures import encoded, pixel_bomb, scan_bomb
from tests.serve.test_routes import INFER, PNG

JPEG = {"content-type": "image/jpeg"}
BODY_S = 3.0
"""Time for a body; all others are the defaults, but for a queue of four images."""
HEAD = (
    b"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\n"
    b"content-length: 100000\r\nconnection: close\r\n\r\n"
)


class Served:
    """A server with a short queue."""

    def __init__(self, process: Process) -> None:
        self.url, self._pid = process.ready(), process.process.pid
        self.client = httpx.Client(
            base_url=self.url, timeout=120, limits=httpx.Limits(max_connections=200)
        )
        assert self.answers(large()), "warm at the size of most of these tests"

    def post(self, content: bytes, headers: dict[str, str] = PNG) -> httpx.Response:
        answer = self.client.post("/invocations", content=content, headers=headers)
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
        if answer.status_code != 200:
            assert answer.json()["error"] and answer.json()["fix"]
        return answer

    def answers(self, content: bytes) -> bool:
        return self.post(content).status_code == 200

    def _mb(self, name: str) -> int:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) // 1024

    @contextmanager
    def grows_at_most(self, most_mb: int) -> Iterator[None]:
        """Within it the process never has so much more memory than before, and answers after it."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")  # the peak begins anew
        before_mb = self._mb("VmRSS")
        yield
        grown_mb = self._mb("VmHWM") - before_mb
        assert grown_mb < most_mb, f"{grown_mb} MB more"
        assert self.answers(encoded()) and self.client.get("/ping").status_code == 200


@pytest.fixture(scope="module")
def served(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    options = ("--port", 0, "--queue", 4, "--body-timeout-s", BODY_S)
    process = Process(weights, *options, folder=tmp_path_factory.mktemp("server"))
    try:
        served = Served(process)
        yield served
        served.client.close()
    finally:
        assert process.end() == 0, process.lines


def large() -> bytes:
    """A picture of 2 MB."""
    pixels = np.random.default_rng(0).integers(0, 256, (700, 1000, 3)).astype(np.uint8)
    return encoded(pixels, compress_level=0)


@pytest.mark.slow
def test_pixel_bombs_are_refused_before_they_are_decoded(served: Served) -> None:
    """Sixty at the same time, of which each would take 2.7 GB or more."""
    bombs = [
        (pixel_bomb(30_000, 30_000), PNG, 413),
        (pixel_bomb(2**31 - 1, 2**31 - 1), PNG, 413),
        (pixel_bomb(40_000, 2), PNG, 413),
        (scan_bomb(2000), JPEG, 400),
    ]
    with served.grows_at_most(150), ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(served.post, *bomb[:2]) for bomb in bombs * 15]
        codes = [answer.result().status_code for answer in answers]
        for code, (_, _, expected) in zip(codes, bombs * 15, strict=True):
            assert code in (expected, 429), codes
        assert codes.count(413) >= 10


def test_wrong_types_are_named_and_cost_nothing(served: Served) -> None:
    wrong = [
        (b"GIF89a" + b"\0" * 100_000, PNG, 400),
        (encoded(), {"content-type": "image/tiff"}, 415),
        (encoded(), {}, 415),
        (encoded(), {"content-type": "text/html"}, 415),
        (b"{" * 100_000, {"content-type": "application/json"}, 400),
        (b'{"image": 7}', {"content-type": "application/json"}, 400),
        (b"\x80" * 1_000_000, {"content-type": "application/json"}, 400),
        (encoded(), PNG | {"accept": "text/html"}, 406),
    ]
    with served.grows_at_most(150):
        for content, headers, code in wrong * 5:
            assert served.post(content, headers).status_code == code, (headers, content[:20])
        answer = served.client.post(INFER, content=encoded(), headers=PNG)
        assert answer.status_code == 415


@pytest.mark.slow
def test_slow_clients_end_in_408_and_others_are_served(served: Served) -> None:
    """A hundred that send a byte now and then, more than there are places."""
    where = (urlsplit(served.url).hostname, urlsplit(served.url).port)

    def trickle() -> bytes:
        """Bytes now and then, and on after the answer is there."""
        with socket.create_connection(where, timeout=60) as connection:
            connection.sendall(HEAD)
            until_s = time.monotonic() + 1.5 * BODY_S
            while time.monotonic() < until_s:
                connection.sendall(b"x")
                time.sleep(0.3)
            parts = iter(lambda: connection.recv(1 << 16), b"")
            return b"".join(parts)

    with served.grows_at_most(150), ThreadPoolExecutor(100) as pool:
        slow = [pool.submit(trickle) for _ in range(100)]
        time.sleep(BODY_S / 3)
        assert served.answers(encoded()), "a good one meanwhile"
        answers = [one.result() for one in slow]
        assert all(one.startswith(b"HTTP/1.1 408 ") for one in answers), Counter(answers)
        assert f"within {BODY_S:g} s".encode() in answers[0]


@pytest.mark.slow
def test_two_hundred_at_the_same_time(served: Served) -> None:
    """Large images, of which the queue takes few: the others are refused, and the memory of the
    process does not grow with them. All bodies together are 420 MB."""
    content, barrier = large(), threading.Barrier(200)

    def one(number: int) -> int:
        barrier.wait(60)
        return served.post(content if number % 4 else b"\x89PNG broken").status_code

    with served.grows_at_most(500):
        with ThreadPoolExecutor(200) as pool:
            codes = Counter(pool.map(one, range(200)))
        assert set(codes) <= {200, 400, 429} and codes[200] >= 4 and codes[429] >= 1, codes
        assert codes[400] + codes[429] >= 50
    assert served.answers(content)
