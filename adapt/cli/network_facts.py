"""Facts of architectures and encoders, the choices of a job's `model`: plain data, as `--json`
prints them, and the list of all of them at the usual size.

The list is counted when the code changes (`make docs`) and read from a file of the package, since
counting takes a minute. Nothing here imports torch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

LISTED_HW, LISTED_CLASSES = (512, 1024), 19
"""Image and number of classes that the file's numbers are of."""

LISTED = Path(__file__).with_name("networks.json")


@dataclass(frozen=True)
class Stage:
    """Channels of an encoder's stage, and input pixels per pixel of it, a side."""

    channels: int
    reduction: int


@dataclass(frozen=True)
class Key:
    """A key of `model` that an architecture adds or describes anew."""

    name: str
    default: Any
    description: str


@dataclass(frozen=True)
class Architecture:
    """One architecture on one encoder; `heads`: the weight of each one's loss, main head first.

    `groups`: what each layer group has and costs, the fields of `LayerGroup`.
    """

    name: str
    description: str
    encoder: str
    output_stride: int
    parameters: int
    macs: int
    heads: Mapping[str, float]
    fits: str
    keys: Sequence[Key]
    stages: Sequence[Stage]
    groups: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class EncoderChoice:
    """One encoder at one of its output strides.

    `output_strides`: of a vision transformer the side of its own patches; `pyramid_strides`: those
    that its stages are resized to for architectures over CNNs. `weights`: full name of its default
    weights; None for an encoder without any. `groups` as those of `Architecture`.
    """

    name: str
    output_stride: int
    output_strides: Sequence[int]
    pyramid_strides: Sequence[int]
    parameters: int
    macs: int
    weights: str | None
    licence: str | None
    stages: Sequence[Stage]
    groups: Sequence[Mapping[str, Any]]


class Networks(NamedTuple):
    """Every architecture on its default encoder, and every listed encoder."""

    architectures: Sequence[Architecture]
    encoders: Sequence[EncoderChoice]

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """Plain values."""
        return {name: [asdict(row) for row in rows] for name, rows in self._asdict().items()}


def listed_networks() -> Networks:
    """Those of the package's file, at `LISTED_HW` with `LISTED_CLASSES`."""
    found = json.loads(LISTED.read_text(encoding="utf-8"))
    architectures = [
        Architecture(**_with_stages(row) | {"keys": [Key(**key) for key in row["keys"]]})
        for row in found["architectures"]
    ]
    return Networks(architectures, [EncoderChoice(**_with_stages(r)) for r in found["encoders"]])


def _with_stages(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "stages": [Stage(**stage) for stage in row["stages"]]}
