"""Exports a loaded model: traces it, compares the result with the model, and writes the file.

The file appears whole, after the comparison; its metadata has what a file of weights states, and
the comparison.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from adapt import __version__
from adapt.errors import JobError
from adapt.export.compare import TOLERANCE, Compared, compare, refuse_differences
from adapt.export.deployed import (
    INPUTS,
    OUTPUTS,
    DeployedNetwork,
    deployed,
    exported_views,
    header_of_model,
)
from adapt.export.programs import FORMATS, Format, exported_program
from adapt.export.wanted import DEFAULT_OPSET, check_ending, need_libraries
from adapt.use.model import LoadedModel
from storage.files import write_blocks

ENTRY = "segadapt.export"


class Exported(NamedTuple):
    """A graph that computes what the model does: its bytes with metadata, the comparison, and the
    deployed network that it was made of."""

    content: bytes
    compared: list[Compared]
    network: DeployedNetwork
    entries: dict[str, str]

    def record(self) -> dict[str, Any]:
        """The metadata about the export as plain data."""
        found: dict[str, Any] = json.loads(self.entries[ENTRY])
        return found


def export_model(
    model: LoadedModel,
    to: str = "onnx",
    opset: int = DEFAULT_OPSET,
    whole_image: bool = False,
    on_stage: Callable[[str], None] = lambda _text: None,
) -> Exported:
    """Trace a model and compare the result with it at three sizes. `on_stage` gets texts.

    Raises `JobError` for a model that one graph cannot hold, and for a result beyond the tolerance.
    """
    row = FORMATS[to]
    if to == "onnx":
        need_libraries()
    views = exported_views(model, whole_image)
    network = deployed(model, whole_image)
    on_stage("tracing the network")
    program = exported_program(network)
    on_stage(f"writing it for {to}")
    content = row.write(program, network, opset)
    on_stage("comparing it with the model at three sizes")
    found = _compared(row, content, model, network, whole_image)
    refuse_differences(found, f"--to {to}")
    entries = {
        **header_of_model(model, views).entries(),
        ENTRY: json.dumps(_statement(to, opset, network, found)),
    }
    return Exported(row.describe(content, entries), found, network, entries)


def write_export(content: bytes, out: Path, to: str) -> None:
    """Write a file under its name, whole. Raises `JobError` for another ending, `StoreError`."""
    check_ending(out, to)
    write_blocks(out, [content])


def _compared(
    row: Format, content: bytes, model: LoadedModel, network: DeployedNetwork, whole_image: bool
) -> list[Compared]:
    views = exported_views(model, whole_image)
    try:
        return compare(row.run(content), network.segmenter, views, model.size_hw)
    except (RuntimeError, ValueError, AssertionError) as error:  # onnxruntime's are RuntimeErrors
        config = network.segmenter.config
        text = str(error).strip().partition("\n")[0]
        raise JobError(
            f"model: expected a network that runs at sizes that vary once it is exported, got "
            f"{config.architecture} on {config.encoder} ({text})",
            "export a network on another encoder",
        ) from error


def _statement(
    to: str, opset: int, network: DeployedNetwork, found: list[Compared]
) -> dict[str, Any]:
    """The entry about the export."""
    return {
        "version": __version__,
        "to": to,
        **({"opset": opset} if to == "onnx" else {}),
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "smallest_side_px": network.smallest_side_px,
        "tolerance": TOLERANCE._asdict(),
        "compared": [one._asdict() for one in found],
    }
