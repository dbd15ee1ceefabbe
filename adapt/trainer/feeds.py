"""The job's two streams on the device, and how far training has come in each."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from threading import Event
from typing import Any

from adapt.accelerator import is_accelerator
from adapt.batch import Batch
from adapt.engine.engine import Engine
from adapt.engine.optim import schedule_length
from adapt.methods import METHODS
from adapt.spec.job_spec import JobSpec
from adapt.stream.domains import DOMAINS
from adapt.stream.feed import Feed
from adapt.stream.orders import ORDERS
from adapt.stream.orders.order import Drawing
from adapt.stream.state import check_state, state_of
from adapt.stream.stream import Stream
from adapt.trainer.opening import Opened, decoding_threads


class Feeds:
    """The batches of `source` and, for methods that need one, of `target`.

    `state` is what a checkpoint keeps: the draws that the network was trained on, not those that
    are under way, and the name of the pseudo-labels, if there are such.
    """

    def __init__(self, source: Feed, target: Feed | None, labels: str | None = None) -> None:
        self.source, self.target = source, target
        self._labels = {} if labels is None else {"pseudo_labels": labels}
        self.streams = [feed.stream for feed in (source, target) if feed is not None]
        self.samples = sum(stream.batch_size for stream in self.streams)
        self.trained()

    def next(self) -> tuple[Batch, Batch | None]:
        """The next step's batches. Raises `Interrupted` on a stop while they do not arrive."""
        source = next(self.source)
        return source, None if self.target is None else next(self.target)

    def trained(self) -> None:
        """Count what `next` returned: the network has been trained on it."""
        target = None if self.target is None else self.target.state()
        self.state: dict[str, Any] = {
            "source": self.source.state(),
            "target": target,
            **self._labels,
        }

    @property
    def wait_s(self) -> float:
        """Time spent waiting for data so far."""
        return sum(stream.wait_s for stream in self.streams)

    @property
    def bad_samples(self) -> int:
        """How often a bad sample was skipped so far."""
        return sum(stream.bad_samples for stream in self.streams)


@contextmanager
def open_feeds(
    opened: Opened, engine: Engine, state: Mapping[str, Any] | None, stop: Event
) -> Iterator[Feeds]:
    """This rank's streams, from their start or from a checkpoint's `state` on.

    Raises `JobError` where the state is of other data or another order.
    """
    with ExitStack() as stack:
        feeds = []
        for domain in _domains(opened.job):
            saved = None if state is None else state[domain]
            stream = _stream(opened, domain, saved, is_accelerator(engine.device), stop)
            stack.callback(stream.close)
            feeds.append(Feed(stream, engine.method.segmenter.pixels, engine.device))
        stack.callback(opened.cache.close)  # before the streams, whose threads may wait for it
        yield Feeds(feeds[0], feeds[1] if len(feeds) > 1 else None, opened.labels)


def check_feeds(opened: Opened, state: Mapping[str, Any] | None) -> None:
    """Raise as `open_feeds` will, before anything is there that a refused job would have to end."""
    job = opened.job
    for domain in _domains(job):
        split, batch_size = getattr(opened.data, domain), job.batch_size(domain)
        drawing = Drawing(split, job.seed, DOMAINS.index(domain))
        ORDERS[job.stream.sampling].build(drawing, job.stream)
        if state is not None:
            now = state_of(split, job.seed, batch_size, job.stream, 0)
            check_state(state[domain], now, domain)


def _domains(job: JobSpec) -> Sequence[str]:
    """Those that the job's method trains on."""
    return DOMAINS if METHODS[job.method.name].needs_target else DOMAINS[:1]


def _stream(
    opened: Opened, domain: str, state: Mapping[str, Any] | None, for_device: bool, stop: Event
) -> Stream:
    job, place = opened.job, opened.place
    batch_size = job.batch_size(domain)
    stream = Stream(
        getattr(opened.data, domain),
        seed=job.seed,
        domain=DOMAINS.index(domain),
        batch_size=batch_size,
        augmentations=[part.config.augment for part in job.trained_parts(domain)],
        config=job.stream.model_copy(update={"threads": decoding_threads(job.stream, place)}),
        rank=place.rank,
        num_ranks=place.num_ranks,
        draw=0 if state is None else state["draw"],
        planned_draws=schedule_length(job.optim, job.train.steps) * batch_size,
        for_device=for_device,
        stop=stop,
    )
    if state is not None:
        check_state(state, stream.state(0), domain)
    return stream
