"""The limits of a server, so that no client can fill its memory or hold it."""

from dataclasses import dataclass
from typing import NamedTuple

from adapt.errors import JobError
from adapt.serve.refused import busy

MB = 1 << 20


class PixelLimit(NamedTuple):
    """The most pixels of an image; with `image_s` as many as a CPU computes in so many seconds."""

    most: int
    image_s: float | None = None


@dataclass(frozen=True)
class Limits:
    """The limits of one server.

    `queue`: images that are decoded, waiting or computed at the same time, and the most of a
    request. `batch_size`: images of a pass, None for 8 on a GPU and 1 on a CPU; `batch_wait_ms`:
    the longest that an image waits for others of its size. `max_body_bytes`, `max_pixels`: of a
    request's body and of an image; `image_s`: seconds that an image may take on a CPU, by its
    pixels and the speed that was measured. `body_s`: seconds in which a body arrives; `answer_s`:
    seconds until an image is computed. `bodies_bytes`: all bodies in memory.
    """

    queue: int = 16
    batch_size: int | None = None
    batch_wait_ms: float = 5.0
    max_body_bytes: int = 16 * MB
    max_pixels: int = 1 << 23
    image_s: float = 20.0
    body_s: float = 30.0
    answer_s: float = 55.0
    bodies_bytes: int = 256 * MB

    def __post_init__(self) -> None:
        if self.max_body_bytes > self.bodies_bytes:
            raise JobError(
                f"max_body_mb: expected at most {self.bodies_bytes // MB}, the size of all bodies "
                f"in memory, got {self.max_body_bytes // MB}",
                "give a smaller one",
            )


class Held:
    """An amount that many hold parts of, up to a limit; used by the event loop's thread alone."""

    def __init__(self, most: int, what: str) -> None:
        self.most, self.total, self._what = most, 0, what

    def take(self, amount: int, wait_s: float = 1) -> None:
        """Hold more. Raises `Refused` (429) where the limit is reached."""
        self.check(amount, wait_s)
        self.total += amount

    def check(self, amount: int, wait_s: float = 1) -> None:
        """Raise `Refused` (429) where so much more cannot be held now."""
        if self.total + amount > self.most:
            raise busy(
                f"the server is full: expected room for {self._what}, got {self.total} of "
                f"{self.most} in use",
                wait_s,
            )

    def release(self, amount: int) -> None:
        """Give a part back."""
        self.total -= amount
        assert self.total >= 0, self._what
