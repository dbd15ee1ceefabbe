"""The order in which a domain's samples are drawn: a pure function of the seed, the domain's number
and what is packed.

Draws are numbered 0, 1, 2, ... for ever. Ranks, threads, caches and arrival times have no
influence, so the whole state of a stream is the number of its next draw.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from adapt.config.section import Section
from adapt.data.packed.mixture import Mixture
from adapt.data.packed.packed_split import PackedSplit

NUM_DOMAINS = 2
"""Source and target; each part of a domain but the first has a number above them."""

LOOKAHEAD_DRAWS = 256
"""Draws ahead for which shards are fetched, where each draw may need another shard."""

Ints = npt.NDArray[np.int64]


class OrderConfig(Section):
    """The settings of the orders, a part of the section `stream`."""

    rare_class_temperature: float = Field(
        0.01,
        gt=0,
        description="sampling: rare_classes. Lower draws the rarest class more often (DAFormer's "
        "number).",
    )
    rare_class_min_pixels: int = Field(
        3000,
        ge=0,
        description="sampling: rare_classes. A sample shows a class by more pixels than this. "
        "Random crops (augment.crop_hw) are drawn again, up to ten times, until more than half of "
        "it is inside (DAFormer's number).",
    )
    window_shards: int = Field(
        16,
        ge=1,
        description="Shards whose samples are shuffled together (sampling: windows); another "
        "number gives another order.",
    )


class Drawing(NamedTuple):
    """The facts that build a domain's order, beside the settings in `stream`. `domain` is the
    domain's number in the job; `planned_draws` is how many draws the job's schedule foresees."""

    split: PackedSplit | Mixture
    seed: int
    domain: int
    planned_draws: int = 1

    def parts(self) -> "list[Drawing]":
        """The drawing of each part of the split: with its share of the draws, and random words of
        its own, those of the first as if it were alone."""
        pairs = zip(self.split.parts, self.split.shares, strict=True)
        return [
            Drawing(
                part,
                self.seed,
                self.domain + NUM_DOMAINS * number,
                ceil(self.planned_draws * share),
            )
            for number, (part, share) in enumerate(pairs)
        ]


@dataclass(frozen=True)
class Order(ABC):
    """Draw number -> sample index, for one domain.

    `shard_sizes` holds the number of samples of each shard; sample indices count through the shards
    in turn.
    """

    shard_sizes: tuple[int, ...]
    seed: int
    domain: int

    @property
    @abstractmethod
    def random_access(self) -> bool:
        """True where any draw may need any shard."""

    @classmethod
    @abstractmethod
    def build(cls, drawing: Drawing, config: OrderConfig) -> "Order":
        """The order of a domain under these settings. Raises `JobError` where they do not fit its
        samples."""

    @cached_property
    def num_samples(self) -> int:
        """N."""
        return sum(self.shard_sizes)

    @cached_property
    def shard_ends(self) -> Ints:
        """(shards,): the first sample index after each shard."""
        return np.cumsum(self.shard_sizes)

    @abstractmethod
    def sample(self, draw: int) -> int:
        """The index of the sample that draw number `draw` takes."""

    @abstractmethod
    def near(self, start: int, stop: int) -> list[int]:
        """The shards that draws `start` to `stop` - 1 are spread over."""

    @abstractmethod
    def same_until(self, draw: int) -> int:
        """The first later draw at which other shards may be near or upcoming."""

    @abstractmethod
    def upcoming_shards(self, draw: int) -> list[int]:
        """The shards that draws from `draw` on will need soon, in order of need."""

    def wanted_class(self, draw: int) -> int | None:  # noqa: ARG002, most orders want none
        """The class for which the draw takes its sample, where a class is the reason."""
        return None


class ScatteredOrder(Order):
    """An order in which any draw may need any shard."""

    @property
    def random_access(self) -> bool:
        """It may."""
        return True

    def near(self, start: int, stop: int) -> list[int]:
        """The shards of just these draws."""
        samples = [self.sample(draw) for draw in range(start, stop)]
        shards = np.searchsorted(self.shard_ends, samples, side="right")
        return list(dict.fromkeys(shards.tolist()))

    def same_until(self, draw: int) -> int:
        """A quarter of the lookahead later, which is soon enough."""
        return draw + LOOKAHEAD_DRAWS // 4

    def upcoming_shards(self, draw: int) -> list[int]:
        """The shards of the next `LOOKAHEAD_DRAWS` draws."""
        return self.near(draw, draw + LOOKAHEAD_DRAWS)
