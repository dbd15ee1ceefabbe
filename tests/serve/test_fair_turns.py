"""One request's work: an image that would hold a CPU is refused by its pixels, many let others
through, and probes are answered meanwhile."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from adapt.serve.speed import Speed, Timed
from tests.launch.rank_scripts import wait_until
from tests.serve.conftest import Pointwise, running
from tests.serve.pictures import encoded
from tests.serve.test_routes import INFER, PNG, refused

A_PIXEL_S = 1e-5


class Slow(Pointwise):
    """Takes its time by the pixels, and notes the widths of images in the order of their turns."""

    def __init__(self) -> None:
        super().__init__()
        self.size_hw = (100, 200)
        self.widths: list[int] = []
        self.let = threading.Event()
        self.let.set()

    def predict_prepared(self, images: Any, *options: Any, **more: Any) -> Any:
        self.widths += [image.pixels.shape[1] for image in images]
        assert self.let.wait(60)
        end_s = time.thread_time() + A_PIXEL_S * sum(image.pixels[..., 0].size for image in images)
        while time.thread_time() < end_s:
            pass
        return super().predict_prepared(images, *options, **more)


def post(client: httpx.Client, height: int, width: int) -> httpx.Response:
    pixels = np.zeros((height, width, 3), np.uint8)
    return client.post("/invocations", content=encoded(pixels), headers=PNG)


def test_an_image_that_would_hold_the_cpu_is_refused_by_its_pixels() -> None:
    with running(Slow, image_s=2) as (client, _):
        about = client.get("/v2/models/segadapt").json()["parameters"]
        most = about["max_pixels"]
        assert 20_000 < most < 1_000_000, "about 200 000 by the time that it wastes"
        answer = post(client, 1000, 2000)
        said = refused(answer, 413, f"image 0: expected at most {most} pixels, which this CPU comp")
        assert "within 2 s" in said["error"] and "a larger --max-image-s" in said["fix"]
        assert post(client, 100, 200).status_code == 200
        tensor = {"name": "image", "datatype": "UINT8", "shape": [1000, 2000, 3], "data": [1]}
        refused(client.post(INFER, json={"inputs": [tensor]}), 413, "which this CPU computes")


def test_images_of_the_network_s_size_are_never_refused() -> None:
    with running(Slow, image_s=1e-3) as (client, _):
        assert client.get("/v2/models/segadapt").json()["parameters"]["max_pixels"] == 20_000
        assert post(client, 100, 200).status_code == 200


def test_many_images_of_a_request_let_others_through_and_probes_are_answered() -> None:
    model = Slow()
    with running(lambda: model, batch_size=1) as (client, server), ThreadPoolExecutor(4) as pool:
        model.let.clear()
        warm = len(model.widths)
        values: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [6, 30, 90, 3]}
        values["data"] = [0] * (6 * 30 * 90 * 3)
        many = pool.submit(client.post, INFER, json={"inputs": [values]})
        wait_until(lambda: len(model.widths) == warm + 1, timeout_s=10)
        others = [pool.submit(post, client, 30, width) for width in (91, 300)]
        wait_until(lambda: server.service.slots.total == 8, timeout_s=10)
        wait_until(lambda: len(server.service.batcher._items) == 7, timeout_s=10)
        for path in ("/ping", "/health", "/v2/health/ready", "/v2/health/live"):
            assert client.get(path, timeout=5).status_code == 200, path
        model.let.set()
        assert [one.result().status_code for one in (*others, many)] == [200] * 3
        turns = model.widths[warm:]
        assert turns[:3] in ([90, 90, 91], [90, 91, 90]), "one image alone is next"
        assert turns.index(300) == 5, "a large one comes in its turn, before the last of the many"


def test_the_fastest_time_counts() -> None:
    speed = Speed(Timed(100, 1.0), Timed(200, 1.5))
    assert speed.seconds(300) == pytest.approx(2) and speed.pixels_within(3) == pytest.approx(500)
    speed.saw(Timed(300, 4.0))
    assert speed.seconds(300) == pytest.approx(2), "another program computed too"
    speed.saw(Timed(300, 1.0))
    assert speed.seconds(300) == pytest.approx(1) and speed.pixels_within(1) == pytest.approx(300)
    speed.saw(Timed(20, 1e-6))
    assert speed.seconds(300) == pytest.approx(1), "smaller than the network's input"
    assert speed.pixels_within(0.1) == 100
    flat = Speed(Timed(100, 1.0), Timed(200, 0.9))
    assert flat.seconds(10**9) == 1 and flat.pixels_within(2) == math.inf
