"""`Speed`: how long images take on a CPU, so that one whose computation would hold the server is
refused by its size, before it is decoded.

A time that was measured may be too long, since other programs compute too, and never too short: the
fastest one counts.
"""

import math
from typing import NamedTuple


class Timed(NamedTuple):
    """An image that was computed: its pixels, as clients send them, and the seconds."""

    pixels: int
    seconds: float


class Speed:
    """Seconds by pixels: a line through two images, lowered by each faster one.

    `small` has the size of the network's input, whose pass larger images share where they are
    resized to it; `large` has more pixels.
    """

    def __init__(self, small: Timed, large: Timed) -> None:
        assert large.pixels > small.pixels
        self._small = small
        self._a_pixel_s = max(0.0, (large.seconds - small.seconds) / (large.pixels - small.pixels))
        self._share = 1.0

    def seconds(self, pixels: int) -> float:
        """The seconds that an image of so many pixels will take."""
        more = max(0, pixels - self._small.pixels)
        return self._share * (self._small.seconds + more * self._a_pixel_s)

    def saw(self, one: Timed) -> None:
        """Take a computed image into account; smaller ones say little."""
        if one.pixels >= self._small.pixels:
            self._share *= min(1.0, one.seconds / self.seconds(one.pixels))

    def pixels_within(self, seconds: float) -> float:
        """The most pixels that take no longer; at least those of the network's input."""
        rest_s = seconds / self._share - self._small.seconds
        if rest_s <= 0:
            return self._small.pixels
        more = rest_s / self._a_pixel_s if self._a_pixel_s else math.inf
        return self._small.pixels + more
