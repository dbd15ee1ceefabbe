"""`Service`: from a request to results. Bodies are read, decoded and queued within the limits; what
computes runs in threads, so that the event loop always answers.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from adapt.data.packed.codecs import Pixels
from adapt.errors import JobError
from adapt.serve.batcher import Batcher
from adapt.serve.limits import MB, Held, Limits, PixelLimit
from adapt.serve.metrics import Metrics
from adapt.serve.refused import Refused, not_ready
from adapt.serve.uploads import decoded
from adapt.use.model import LoadedModel, PreparedImage
from adapt.use.segmentation import Segmentation

T = TypeVar("T")

POLL_S = 0.25
"""Between two looks whether the client is still there."""
_MOST_THREADS = 4
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


class Service:
    """One model, named `name` in URLs, with its limits and metrics.

    Raises `JobError` for a name that a URL would not take as it is.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        load: Callable[[], LoadedModel],
        on_end: Callable[[], None],
    ) -> None:
        if re.fullmatch(_NAME, name) is None:
            raise JobError(
                f"--name: expected letters, digits, `.`, `_` and `-`, up to 100, got {name!r}",
                "choose another name",
            )
        self.name, self.limits, self.metrics = name, limits, Metrics()
        self.batcher = Batcher(load, limits, self.metrics, on_end)
        self.slots = Held(limits.queue, "one more image")
        self.bodies = Held(limits.bodies_bytes, "the body")
        threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(threads, "serve")
        self.metrics.queue_images.set_function(lambda: self.slots.total)
        self.metrics.bodies_bytes.set_function(lambda: self.bodies.total)

    def model(self) -> LoadedModel:
        """The loaded model. Raises `Refused` (503) before it is warm."""
        if not self.batcher.ready or self.batcher.model is None:
            raise not_ready(f"{self.name}: expected a model that is ready, got one that loads")
        return self.batcher.model

    @property
    def pixel_limit(self) -> PixelLimit:
        """The most pixels of an image, as the server was started, or as its CPU is fast."""
        limits = self.limits
        fast = self.batcher.pixels_within(limits.image_s)
        if fast >= limits.max_pixels:
            return PixelLimit(limits.max_pixels)
        return PixelLimit(int(fast), limits.image_s)

    @asynccontextmanager
    async def intake(self, request: Request) -> AsyncIterator["Intake"]:
        """The way of one request; what it holds is released at the end."""
        self.model()
        self.slots.check(1, self.wait_s)
        intake = Intake(self, request)
        try:
            yield intake
        finally:
            self.bodies.release(intake.held_bytes)
            self.slots.release(intake.held_images)

    @property
    def wait_s(self) -> float:
        """Seconds that the images in the queue will take."""
        return self.slots.total * self.batcher.image_s

    async def in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Run what computes in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def close(self) -> None:
        """End the threads of the pool."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Intake:
    """One request's body and images, and what of the server's room they hold."""

    def __init__(self, service: Service, request: Request) -> None:
        self._service, self._request = service, request
        self.held_bytes = self.held_images = 0

    async def body(self) -> bytes:
        """The whole body. Raises `Refused`: 413 where it is too large, 408 where it arrives too
        slowly, 429 where the memory for bodies is full."""
        limits = self._service.limits
        parts: list[bytes] = []
        try:
            self._check_length(int(self._request.headers.get("content-length") or 0))
            async with asyncio.timeout(limits.body_s):
                async for part in self._request.stream():
                    self._check_length(self.held_bytes + len(part))
                    self._service.bodies.take(len(part), self._service.wait_s)
                    self.held_bytes += len(part)
                    parts.append(part)
        except TimeoutError as error:
            raise Refused(
                408,
                f"body: expected all of it within {limits.body_s:g} s, got {self.held_bytes} bytes",
                "send it faster, or start the server with a larger --body-timeout-s",
                {"connection": "close"},
            ) from error
        return b"".join(parts)

    def _check_length(self, found: int) -> None:
        most = self._service.limits.max_body_bytes
        if found > most:
            raise Refused(
                413,
                f"body: expected at most {most} bytes, got {found} or more",
                f"send a smaller one, or start the server with --max-body-mb above {most // MB}",
            )

    async def segmented(self, images: Sequence[bytes | Pixels]) -> list[Segmentation]:
        """Images, as files or as pixels, -> their segmentations in the same order.

        Raises `Refused`, and `ClientDisconnect` where the client is gone.
        """
        service = self._service
        if len(images) > service.limits.queue:
            raise Refused(
                413,
                f"inputs: expected at most {service.limits.queue} images, got {len(images)}",
                "send fewer in a request, or start the server with a larger --queue",
            )
        service.slots.take(len(images), service.wait_s)
        self.held_images += len(images)
        read = service.in_thread
        prepared = [await read(self._prepared, *one) for one in enumerate(images)]
        results = [asyncio.wrap_future(one) for one in service.batcher.submit(prepared)]
        try:
            await self._wait(results)
            return [one.result() for one in results]
        finally:
            for one in results:
                if not one.cancel() and not one.cancelled():
                    one.exception()  # asyncio would log those that are not asked for

    def _prepared(self, number: int, image: bytes | Pixels) -> PreparedImage:
        """Decode and resize; a thread of the pool does it."""
        name = f"image {number}"
        if isinstance(image, bytes):
            image = decoded(image, self._service.pixel_limit, name)
        return self._service.model().prepare(image, name)

    async def _wait(self, results: "Sequence[asyncio.Future[Segmentation]]") -> None:
        answer_s = self._service.limits.answer_s
        end_s = time.monotonic() + answer_s
        while True:
            _, waiting = await asyncio.wait(
                results, timeout=POLL_S, return_when=asyncio.FIRST_EXCEPTION
            )
            if not waiting or any(one.done() and one.exception() for one in results):
                return
            if await self._request.is_disconnected():
                raise ClientDisconnect
            if time.monotonic() > end_s:
                raise not_ready(
                    f"{self._service.name}: expected a result within {answer_s:g} s, got none",
                    "retry later, send smaller images, or start more servers",
                )
