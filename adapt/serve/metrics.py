"""The metrics of a server, in Prometheus' format."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

METRICS_TYPE = CONTENT_TYPE_LATEST

CLIENT_GONE = 499
"""The code under which requests are counted whose client left before the answer."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 32)


class Metrics:
    """The metrics of one server; a registry of its own, so that several fit in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "segadapt_requests",
            "Requests by route and HTTP code; 499: the client was gone.",
            ("route", "code"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "segadapt_request_seconds",
            "Seconds from a request's header to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.compute_seconds = self._histogram("compute_seconds", "Seconds of a batch.", SECONDS)
        self.batch_images = self._histogram("batch_images", "Images of a batch.", IMAGES)
        self.queue_images = self._gauge(
            "queue_images", "Images that are decoded, waiting or computed."
        )
        self.bodies_bytes = self._gauge("bodies_bytes", "Bytes of bodies in memory.")
        self.ready = self._gauge("ready", "1 where the model is loaded and warm.")

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"segadapt_{name}", text, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"segadapt_{name}", text, registry=self.registry)

    def computed(self, images: int, seconds: float) -> None:
        """Count a batch."""
        self.batch_images.observe(images)
        self.compute_seconds.observe(seconds)

    def answered(self, route: str, code: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(route, str(code)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
