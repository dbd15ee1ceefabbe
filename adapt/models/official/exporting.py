"""Our networks and discriminators -> files that the papers' programs load."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapt.errors import JobError
from adapt.models.no_weights import NoWeights
from adapt.models.official.names import (
    DISCRIMINATOR_FILES,
    Style,
    official_discriminator,
    official_heads,
    official_name,
)
from adapt.models.weight_files import read_content
from adapt.models.weights import STATE, WEIGHTS, read_description, read_weights


class ExportReport(NamedTuple):
    """The files written: the network's first, then its discriminators'."""

    written: tuple[Path, ...]
    keys: int


def export_checkpoint(checkpoint: Path, out: Path, style: Style) -> ExportReport:
    """Write a network under the names of a program, and its discriminators beside it.

    `checkpoint` is a weights.safetensors, or the folder of a checkpoint; discriminators are in the
    folder's state alone and become `OUT_D1.pth` (AdaptSegNet) or `OUT_D_main.pth` (ADVENT). Raises
    `JobError` for weights that do not say whose they are, and for networks that those programs do
    not have.
    """
    if out.suffix != ".pth":
        raise JobError(f"--out: expected a .pth file, got {out.name!r}")
    weights = checkpoint / WEIGHTS if checkpoint.is_dir() else checkpoint
    network = _official_network(weights, style)
    written = [_save(network, out)]
    if checkpoint.is_dir() and (checkpoint / STATE).is_file():
        for head, state in adversaries_of(checkpoint / STATE).items():
            ending = DISCRIMINATOR_FILES[style].get(head)
            if ending is not None:
                path = out.with_name(f"{out.stem}_{ending}.pth")
                written.append(_save(official_discriminator(state, style), path))
    return ExportReport(tuple(written), len(network))


def adversaries_of(state_path: Path) -> dict[str, dict[str, Tensor]]:
    """The discriminators in a checkpoint's state.pt, by head."""
    try:
        state: Any = read_content(state_path)
    except NoWeights as error:
        raise JobError(
            f"CHECKPOINT: expected a checkpoint's {STATE}, got a file {error.problem}", error.fix
        ) from error
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state["engine"]["method"].items():
        part, _, rest = key.partition(".")
        if part == "discriminators":
            head, _, name = rest.partition(".")
            found.setdefault(head, {})[name] = tensor
    return found


def _official_network(weights: Path, style: Style) -> dict[str, Tensor]:
    if not weights.is_file():
        raise JobError(f"CHECKPOINT: expected a file, got none at {weights}")
    described = read_description(weights, key="CHECKPOINT")
    if described is None or described.get("architecture") != "deeplab_v2":
        found = "no description" if described is None else described.get("architecture")
        raise JobError(
            f"CHECKPOINT: expected weights that say they are deeplab_v2's, as run and "
            f"import-checkpoint write them, got {found} in {weights.name}"
        )
    heads = official_heads(described["encoder"], 2 if described["aux"] else 1, style)
    return {
        official_name(key, heads): tensor
        for key, tensor in read_weights(weights, key="CHECKPOINT").items()
    }


def _save(state: dict[str, Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: tensor.clone() for key, tensor in state.items()}, path)
    return path
