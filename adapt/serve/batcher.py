"""The one thread that owns the model: it loads it, warms it up, and computes what is submitted,
images of one size together.

Images are computed in the order of virtual finish times (self-clocked fair queueing, Golestani,
INFOCOM 1994), their pixels as the work: a request of many or of large images lets others through,
and comes to its turn itself.

Whatever goes wrong in a computation ends that request alone: a batch that fails is computed again
image by image, so that one cannot take the others with it.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from adapt.errors import DataError
from adapt.serve.limits import Limits
from adapt.serve.metrics import Metrics
from adapt.serve.refused import Refused
from adapt.serve.speed import Speed, Timed
from adapt.use.model import LoadedModel, PreparedImage
from adapt.use.segmentation import Segmentation

log = logging.getLogger(__name__)

GPU_BATCH = 8
WARM_HW = (256, 512)
"""The size of the image of the warm-up, where the model does not state its own."""
_NO_MEMORY = ("can't allocate memory", "CUDA out of memory")
_LOST_GPU = "CUDA error"
"""The beginning of errors after which a process cannot use its GPU any more."""


class Item(NamedTuple):
    """An image that waits."""

    image: PreparedImage
    turn: float
    """Virtual finish time: the smallest is computed next."""
    arrived_s: float
    result: "Future[Segmentation]"


class Batcher(threading.Thread):
    """Computes submitted images. `on_end` is called when it ends, by `failure` or by a stop."""

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        limits: Limits,
        metrics: Metrics,
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(name="compute", daemon=True)
        self._load, self._limits, self._metrics, self._on_end = load, limits, metrics, on_end
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._batch_size = 1
        self._turn = 0.0
        self._speed: Speed | None = None
        self.model: LoadedModel | None = None
        self.failure: BaseException | None = None
        self.image_s = 0.1

    @property
    def ready(self) -> bool:
        """True from the end of the warm-up to a failure or a stop."""
        return self.model is not None and self.failure is None and not self._stopping

    def submit(self, images: Sequence[PreparedImage]) -> "list[Future[Segmentation]]":
        """Queue the images of one request; the futures of their results, which may be cancelled."""
        with self._changed:
            turn, found = self._turn, []
            for image in images:
                turn += _pixels(image)
                found.append(Item(image, turn, time.monotonic(), Future()))
            self._items.extend(found)
            self._changed.notify()
        return [item.result for item in found]

    def pixels_within(self, seconds: float) -> float:
        """The most pixels of an image that takes no longer; any number on a GPU."""
        return math.inf if self._speed is None else self._speed.pixels_within(seconds)

    def stop(self) -> None:
        """Ask the thread to end after what is queued."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Load, warm up, compute until the stop."""
        try:
            model = self._load()
            self._batch_size = self._limits.batch_size or _batch_size(model)
            self._speed = _warm_up(model, self._batch_size, self._limits.max_pixels)
            self.model = model
            self._metrics.ready.set(1)
            log.info("ready: %r, up to %d images a pass", model, self._batch_size)
            while (batch := self._next()) is not None:
                self._compute(model, [one for one in batch if _claimed(one)])
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.failure = error
        self._metrics.ready.set(0)
        self._on_end()

    def _next(self) -> list[Item] | None:
        """The next batch, that of the image whose turn it is; None at the stop."""
        with self._changed:
            while not self._items and not self._stopping:
                self._changed.wait()
            if not self._items:
                return None
            first = min(self._items, key=lambda one: one.turn)
            self._turn = first.turn
            while not self._stopping and len(self._like(first)) < self._batch_size:
                left_s = first.arrived_s + self._limits.batch_wait_ms / 1000 - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            batch = self._like(first)
            taken = {id(one) for one in batch}
            self._items = deque(one for one in self._items if id(one) not in taken)
            return batch

    def _like(self, first: Item) -> list[Item]:
        same = [one for one in self._items if one.image.sizes == first.image.sizes]
        return same[: self._batch_size]

    def _compute(self, model: LoadedModel, batch: Sequence[Item]) -> None:
        if not batch:
            return
        started_s = time.monotonic()
        try:
            results = model.predict_prepared([one.image for one in batch], self._batch_size)
        except Exception as error:  # noqa: BLE001 - it ends these requests, not the server
            self._failed(model, batch, error)
            return
        seconds = time.monotonic() - started_s
        self.image_s = 0.8 * self.image_s + 0.2 * seconds / len(batch)
        if self._speed is not None:
            for one in batch:
                self._speed.saw(Timed(_pixels(one.image), seconds / len(batch)))
        self._metrics.computed(len(batch), seconds)
        for item, result in zip(batch, results, strict=True):
            with suppress(InvalidStateError):
                item.result.set_result(result)

    def _failed(self, model: LoadedModel, batch: Sequence[Item], error: Exception) -> None:
        if len(batch) > 1 and not str(error).startswith(_LOST_GPU):
            for one in batch:
                self._compute(model, [one])
            return
        for one in batch:
            one.result.set_exception(_refusal(error))
        if str(error).startswith(_LOST_GPU):
            raise error


def _claimed(item: Item) -> bool:
    """False for an image whose client is gone."""
    return item.result.set_running_or_notify_cancel()


def _batch_size(model: LoadedModel) -> int:
    return 1 if model.device.type == "cpu" else GPU_BATCH


def _warm_up(model: LoadedModel, batch_size: int, max_pixels: int) -> Speed | None:
    """Compute a batch as large as those to come: no client waits for what is set up once. On a CPU
    also measure its speed, by an image of the network's size and one of twice the pixels."""
    height, width = model.size_hw or WARM_HW
    model.predict([np.zeros((height, width, 3), np.uint8)] * batch_size, batch_size)
    if model.device.type != "cpu" or 2 * height * width > max_pixels:
        return None
    small, large = (_timed(model, height, columns) for columns in (width, 2 * width))
    return Speed(small, large)


def _timed(model: LoadedModel, height: int, width: int) -> Timed:
    """By the CPU's seconds where they are fewer: then other programs held it up."""
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    model.predict([np.zeros((height, width, 3), np.uint8)])
    seconds = min(time.monotonic() - started_s, time.process_time() - started_cpu_s)
    return Timed(height * width, seconds)


def _pixels(image: PreparedImage) -> int:
    height, width = image.pixels.shape[:2]
    return height * width


def _refusal(error: Exception) -> Refused:
    """The answer to a failed computation."""
    text = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or any(part in str(error) for part in _NO_MEMORY):
        log.error("out of memory: %s", text)
        return Refused(
            503,
            f"the server is out of memory: {text}",
            "send a smaller image, or start the server with a smaller --batch-size",
            {"retry-after": "5"},
        )
    log.error("a computation failed", exc_info=error)
    if isinstance(error, DataError):
        return Refused(500, error.problem, error.fix or "serve another checkpoint")
    return Refused(500, f"computing failed: {type(error).__name__}: {text}", "see the server's log")
