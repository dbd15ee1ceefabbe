"""Dynamic batching, and computations that fail."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import torch

from adapt.errors import DataError
from tests.launch.rank_scripts import wait_until
from tests.serve.conftest import Pointwise, running
from tests.serve.pictures import RGB, encoded, opened
from tests.serve.test_routes import PNG, refused


def post(client: httpx.Client, pixels: Any = RGB) -> httpx.Response:
    return client.post("/invocations", content=encoded(pixels), headers=PNG)


def test_images_of_one_size_share_a_pass() -> None:
    model = Pointwise()
    sizes = [60, 30, 60, 30, 60, 30]
    images = [RGB[:height] + np.uint8(number) for number, height in enumerate(sizes)]
    with (
        running(lambda: model, batch_size=3, batch_wait_ms=30_000) as (client, _),
        ThreadPoolExecutor(6) as pool,
    ):
        warm = len(model.passes)
        answers = list(pool.map(lambda image: post(client, image), images))
        assert model.passes[warm:] == [3, 3]
        for image, answer in zip(images, answers, strict=True):
            expected = Pointwise().predict(image).class_map
            assert np.array_equal(np.array(opened(answer.content)), expected)
        text = client.get("/metrics").text
        assert 'segadapt_batch_images_bucket{le="3.0"} 2.0' in text


def test_an_image_waits_for_others_only_so_long() -> None:
    model = Pointwise()
    with running(lambda: model, batch_size=8, batch_wait_ms=20) as (client, _):
        assert post(client).status_code == 200
        assert model.passes == [8, 1, 1, 1], "the warm-up, its two measured images, and the image"


FAILURES: dict[int, Exception] = {
    1: DataError("image 0: expected finite logits, got NaN or infinity"),
    2: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    3: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
    4: MemoryError("no memory"),
    5: ValueError("shapes differ\nmore"),
    6: RuntimeError("CUDA error: an illegal memory access was encountered"),
}


class Failing(Pointwise):
    """Fails by the first pixel's red value."""

    def predict_prepared(self, images: Any, *options: Any, **more: Any) -> Any:
        for image in images:
            if int(image.pixels[0, 0, 0]) in FAILURES:
                raise FAILURES[int(image.pixels[0, 0, 0])]
        return super().predict_prepared(images, *options, **more)


def marked(number: int) -> Any:
    pixels = RGB.copy()
    pixels[0, 0] = number
    return pixels


def test_a_failed_computation_ends_its_request_alone() -> None:
    with running(Failing) as (client, _):
        for number, code, message in (
            (1, 500, "expected finite logits, got NaN or infinity"),
            (2, 503, "the server is out of memory: [enforce fail] DefaultCPUAllocator"),
            (3, 503, "the server is out of memory: CUDA out of memory"),
            (4, 503, "the server is out of memory: no memory"),
            (5, 500, "computing failed: ValueError: shapes differ"),
        ):
            answer = post(client, marked(number))
            refused(answer, code, message)
            assert ("retry-after" in answer.headers) == (code == 503)
            assert "more" not in answer.text
            assert post(client, marked(0)).status_code == 200


def test_one_bad_image_of_a_batch_fails_alone() -> None:
    with (
        running(Failing, batch_size=3, batch_wait_ms=30_000) as (client, _),
        ThreadPoolExecutor(3) as pool,
    ):
        codes = pool.map(lambda n: post(client, marked(n)).status_code, (0, 5, 0))
        assert list(codes) == [200, 500, 200]


def test_a_lost_gpu_ends_the_server() -> None:
    with running(Failing) as (client, server):
        refused(post(client, marked(6)), 500, "CUDA error: an illegal memory access")
        wait_until(lambda: server.should_exit, timeout_s=10)
        assert "CUDA error" in str(server.service.batcher.failure)


def test_a_server_answers_503_until_it_is_warm() -> None:
    gate = threading.Event()

    def load() -> Pointwise:
        assert gate.wait(60)
        return Pointwise()

    with running(load, warm=False) as (client, _):
        wait_until(lambda: answers(client), timeout_s=10)
        assert client.get("/v2/health/live").status_code == 200
        for path in ("/ping", "/health", "/v2/health/ready", "/v2/models/segadapt/ready"):
            answer = client.get(path)
            refused(answer, 503, "segadapt: expected a model that is ready, got one that loads")
            assert answer.headers["retry-after"] == "2"
        refused(post(client), 503, "got one that loads")
        gate.set()
        wait_until(lambda: client.get("/ping").status_code == 200, timeout_s=30)
        assert post(client).status_code == 200


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/v2/health/live").status_code == 200
    except httpx.ConnectError:
        return False
