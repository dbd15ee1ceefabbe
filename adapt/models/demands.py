"""Demands of an architecture on its encoder, as data: its `Decoder.demands`.

Checked as soon as the encoder is known, on networks without memory (`check`), never at step 1.
"""

from itertools import pairwise
from typing import NamedTuple

from adapt.errors import JobError, known_names
from adapt.models.encoders.encoder import UNDILATED_STRIDE, Encoder


class Demands(NamedTuple):
    """`encoders`: the only ones that fit, where the paper's network cannot be cut elsewhere.

    `reductions`: input pixels per pixel of stages that the decoder reads. `halving`: each stage
    must be half the size of the one before it. `num_stages`: at least so many. `equal_strides`: a
    vision transformer's own stages, which no pyramid resizes.
    """

    encoders: tuple[str, ...] = ()
    reductions: tuple[int, ...] = ()
    halving: bool = False
    num_stages: int = 2
    equal_strides: bool = False

    def check(self, architecture: str, encoder: Encoder) -> None:
        """Raise `JobError`, naming the key to change, where the encoder does not fit."""
        if self.encoders and encoder.name not in self.encoders:
            raise JobError(
                f"model.encoder: expected one of {architecture}'s own, "
                f"{known_names(encoder.name, self.encoders)}"
            )
        if len(encoder.reductions) < self.num_stages:
            raise JobError(
                f"model.encoder: expected at least {self.num_stages} stages for {architecture}, "
                f"got {len(encoder.reductions)} with {encoder.name!r}"
            )
        missing = [one for one in self.reductions if one not in encoder.reductions]
        if missing:
            raise self._wrong_stages(
                architecture, encoder, f"stages reduced by {listed(self.reductions)}"
            )
        if self.halving and any(2 * a != b for a, b in pairwise(encoder.reductions)):
            raise self._wrong_stages(architecture, encoder, "each stage half the one before it")

    def _wrong_stages(self, architecture: str, encoder: Encoder, expected: str) -> JobError:
        """Most encoders have all stages at output stride 32, so that is the fix to try."""
        dilated = encoder.output_stride < UNDILATED_STRIDE
        key = "model.output_stride" if dilated else "model.encoder"
        fix = f"set {key}: {UNDILATED_STRIDE}" if dilated else "choose another encoder"
        return JobError(
            f"{key}: {architecture} expected {expected}, got {listed(encoder.reductions)} with "
            f"encoder {encoder.name!r} at output stride {encoder.output_stride}",
            fix=fix,
        )


QUARTERS = (4, 8, 16, 32)
PYRAMID = Demands(reductions=QUARTERS)
"""Of decoders that join four stages, from a quarter of the image's size to a thirty-second."""


def listed(reductions: tuple[int, ...]) -> str:
    """`1/4, 1/8`, as messages and tables have it."""
    return ", ".join(f"1/{reduction}" for reduction in reductions)
