"""What architectures demand of their encoders: what passes, and every message."""

from collections.abc import Mapping

import pytest
from torch import Tensor

from adapt.errors import JobError
from adapt.models import ARCHITECTURES, build_segmenter
from adapt.models.demands import PYRAMID, Demands
from adapt.models.encoders.encoder import Encoder, LoadReport


class Described(Encoder):
    """An encoder of which nothing but its description is known."""

    def __init__(self, *reductions: int, name: str = "bare") -> None:
        super().__init__()
        self.name, self.reductions, self.output_stride = name, reductions, reductions[-1]
        self.channels = (1,) * len(reductions)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def load(self, state: Mapping[str, Tensor]) -> LoadReport:
        raise NotImplementedError

    def multiplicities(self) -> dict[str, int]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("demands", "encoder"),
    [
        (Demands(), Described(8, 8)),
        (Demands(encoders=("own", "bare")), Described(1, 2)),
        (PYRAMID, Described(2, 4, 8, 16, 32)),
        (PYRAMID, Described(1, 2, 4, 8, 16, 32)),
        (Demands(halving=True), Described(1, 2, 4, 8, 16)),
        (Demands(halving=True, reductions=(4,)), Described(4, 8, 16, 32)),
        (Demands(num_stages=4), Described(2, 4, 4, 4)),
    ],
)
def test_an_encoder_that_fits_passes(demands: Demands, encoder: Encoder) -> None:
    demands.check("some_net", encoder)


@pytest.mark.parametrize(
    ("demands", "encoder", "message"),
    [
        (
            Demands(encoders=("own_a", "own_b")),
            Described(2, 4, name="own_c"),
            "model.encoder: expected one of some_net's own, got 'own_c'; did you mean 'own_b'? "
            "(known: own_a, own_b)",
        ),
        (
            Demands(),
            Described(8),
            "model.encoder: expected at least 2 stages for some_net, got 1 with 'bare'",
        ),
        (
            Demands(num_stages=4),
            Described(4, 8, 16),
            "model.encoder: expected at least 4 stages for some_net, got 3 with 'bare'",
        ),
        (
            PYRAMID,
            Described(2, 4, 8, 16, 16),
            "model.output_stride: some_net expected stages reduced by 1/4, 1/8, 1/16, 1/32, got "
            "1/2, 1/4, 1/8, 1/16, 1/16 with encoder 'bare' at output stride 16. "
            "Fix: set model.output_stride: 32.",
        ),
        (
            PYRAMID,
            Described(8, 16, 32),
            "model.encoder: some_net expected stages reduced by 1/4, 1/8, 1/16, 1/32, got 1/8, "
            "1/16, 1/32 with encoder 'bare' at output stride 32. Fix: choose another encoder.",
        ),
        (
            Demands(halving=True),
            Described(2, 4, 8, 8),
            "model.output_stride: some_net expected each stage half the one before it, got 1/2, "
            "1/4, 1/8, 1/8 with encoder 'bare' at output stride 8. Fix: set "
            "model.output_stride: 32.",
        ),
        (
            Demands(halving=True),
            Described(4, 8, 32),
            "model.encoder: some_net expected each stage half the one before it, got 1/4, 1/8, "
            "1/32 with encoder 'bare' at output stride 32. Fix: choose another encoder.",
        ),
    ],
)
def test_what_does_not_fit_is_named(demands: Demands, encoder: Encoder, message: str) -> None:
    with pytest.raises(JobError) as caught:
        demands.check("some_net", encoder)
    assert str(caught.value) == message


def test_demands_are_checked_before_weights_are_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`imagenet` would ask the hub for weights that a network which cannot be does not need."""
    monkeypatch.setattr(ARCHITECTURES["deeplab_v2"], "demands", Demands(encoders=("own",)))
    values = {"architecture": "deeplab_v2", "encoder": "resnet18", "weights": "imagenet"}
    with pytest.raises(JobError, match="expected one of deeplab_v2's own, got 'resnet18'"):
        build_segmenter(values)
