"""The shared parts of predicting pictures and videos: settings, passes through the network, jobs
that write beside it in bounded memory, and the stop.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Event
from typing import Any, NamedTuple, TypeVar

from adapt.use.model import LoadedModel, PreparedImage
from adapt.use.outputs import Wanted
from adapt.use.record import Record
from adapt.use.segmentation import Segmentation
from storage.store import Store
from storage.stores import Stores

Result = TypeVar("Result")
Named = TypeVar("Named")

POLL_S = 0.2
_MOST_TOGETHER, _PIXELS_TOGETHER = 16, 1 << 23
"""Of images that a GPU gets together; the model makes batches of them."""
_WAITING_BYTES = 1 << 30
"""Of results whose files are being written."""
_PICTURE_BYTES = 3 + 1 + 4 + 12
"""Of a pixel of a result: image, class, entropy, and what the outputs draw."""


class Stopped(Exception):
    """The work is to stop; never leaves this package."""


class Progress(NamedTuple):
    """Images and frames that are done, of all as far as known, and the number of bad items."""

    done: int
    total: int
    bad: int


class Writes:
    """Jobs that write, in threads. Their results are taken in order; those that wait are bounded
    by their bytes."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="write")
        self._waiting: deque[tuple[int, Future[Any], Callable[[Any], None]]] = deque()
        self._bytes = 0

    def add(
        self, size_bytes: int, job: Callable[[], Result], then: Callable[[Result], None]
    ) -> None:
        """Start a job, after others where memory is short; `then` gets its result, in order, in
        the thread that calls this."""
        while self._waiting and self._bytes + size_bytes > _WAITING_BYTES:
            self._collect()
        self._waiting.append((size_bytes, self._pool.submit(job), then))
        self._bytes += size_bytes
        while self._waiting and self._waiting[0][1].done():
            self._collect()

    def collect_all(self) -> None:
        """Wait for all jobs. Raises the first failure."""
        while self._waiting:
            self._collect()

    def drop_all(self) -> None:
        """Wait for all jobs, whose results do not matter any more."""
        wait([future for _, future, _ in self._waiting])
        self._waiting.clear()
        self._bytes = 0

    def close(self) -> None:
        """Wait for all jobs and end the threads. Raises the first failure."""
        try:
            self.collect_all()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _collect(self) -> None:
        size_bytes, future, then = self._waiting.popleft()
        self._bytes -= size_bytes
        then(future.result())


@dataclass
class Work:
    """The settings of a prediction, and its state. `threads` read, and as many write; `max_frames`
    ends cameras; `stop` ends the work between two images."""

    model: LoadedModel
    stores: Stores
    out: Store
    wanted: Wanted
    record: Record
    threads: int = 2
    batch_size: int | None = None
    max_frames: int | None = None
    stop: Event = field(default_factory=Event)
    on_progress: Callable[[Progress], None] = lambda _progress: None

    def __post_init__(self) -> None:
        self.writes, self.progress = Writes(self.threads), Progress(0, 0, 0)

    def report(self, done: int = 0, more: int = 0, bad: int = 0) -> None:
        """Count images and frames as done, others as known, items as bad."""
        before = self.progress
        self.progress = Progress(before.done + done, before.total + more, before.bad + bad)
        self.on_progress(self.progress)

    def check(self) -> None:
        """Raise `Stopped` where the work is to stop."""
        if self.stop.is_set():
            raise Stopped

    def result_of(self, future: "Future[Result]") -> Result:
        """The result of a job in a thread. Raises `Stopped` where a stop comes first."""
        while not wait([future], timeout=POLL_S).done:
            self.check()
        return future.result()

    def together(
        self, images: Iterable[tuple[Named, PreparedImage]]
    ) -> Iterator[list[tuple[Named, PreparedImage]]]:
        """Images that the network gets together, in order: on the CPU one alone."""
        most = 1 if self.model.device.type == "cpu" else _MOST_TOGETHER
        chunk: list[tuple[Named, PreparedImage]] = []
        pixels = 0
        for pair in images:
            chunk.append(pair)
            pixels += pair[1].pixels.size // 3
            if len(chunk) >= most or pixels >= _PIXELS_TOGETHER:
                yield chunk
                chunk, pixels = [], 0
        if chunk:
            yield chunk

    def segmented(self, images: Sequence[PreparedImage]) -> list[Segmentation]:
        """The results of images, with their logits where an output takes them."""
        return self.model.predict_prepared(images, self.batch_size, self.wanted.logits)

    def size_of(self, one: Segmentation) -> int:
        """Bytes of a result in memory while its files are written."""
        logits = one.classes.num_classes * (4 + 4 + 2) if self.wanted.logits else 0
        return one.class_map.size * (_PICTURE_BYTES + logits)
