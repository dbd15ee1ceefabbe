"""A deployed network as a file's bytes: an ONNX graph or a program of torch.export.

Batch, height and width of the images and the size of the outputs vary. ONNX is made of the same
exported program (`torch.onnx.export(dynamo=True)`), and what the exporter notes of the machine that
it ran on is left out of both.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from adapt.errors import JobError
from adapt.export.deployed import INPUTS, OUTPUTS, DeployedNetwork
from adapt.export.position_tables import tables_by_products

METADATA_FILE = "segadapt.json"
"""Name of the metadata in a .pt2 file."""

_DIMENSIONS = ("batch", "height", "width")
_EXAMPLE_HW = (97, 161)
_MACHINE_NOTES = ("stack_trace", "source_fn_stack", "nn_module_stack")

Run = Callable[[np.ndarray, tuple[int, int]], tuple[np.ndarray, ...]]
"""(B, H, W, 3) uint8 and the outputs' size -> `OUTPUTS`."""


def exported_program(network: DeployedNetwork) -> Any:
    """The network traced by torch.export. Raises `JobError` for one whose sizes cannot vary."""
    side = network.smallest_side_px
    height, width = (max(2 * side + 1, length) for length in _EXAMPLE_HW)
    images = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    vary = dict.fromkeys(range(len(_DIMENSIONS)), torch.export.Dim.DYNAMIC)
    shapes = {INPUTS[0]: vary, INPUTS[1]: {}}
    traced_alike = (quiet(), same_padding(), tables_by_products(), torch.no_grad())
    with _errors_of("torch.export", network), contextlib.ExitStack() as stack:
        for one in traced_alike:
            stack.enter_context(one)
        return torch.export.export(
            network, (images, torch.tensor([height, width])), dynamic_shapes=shapes
        )


def onnx_bytes(program: Any, network: DeployedNetwork, opset: int) -> bytes:
    """The program as an ONNX graph. Raises `JobError` where the exporter cannot write it."""
    from adapt.export.pooling import TRANSLATIONS

    with _errors_of(f"torch.onnx.export with opset {opset}", network), quiet(), torch.no_grad():
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=INPUTS,
            output_names=OUTPUTS,
            opset_version=opset,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
    assert written is not None, "no file was named"
    graph = written.model_proto
    _tidy(graph)
    content: bytes = graph.SerializeToString()
    return content


def torch_bytes(program: Any, _network: DeployedNetwork, _opset: int) -> bytes:
    """The program as a .pt2 file."""
    graphs = [
        one for one in program.graph_module.modules() if isinstance(one, torch.fx.GraphModule)
    ]
    for node in (node for graph in graphs for node in graph.graph.nodes):
        for note in _MACHINE_NOTES:
            node.meta.pop(note, None)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def onnx_with_metadata(content: bytes, entries: Mapping[str, str]) -> bytes:
    """The same graph with these entries in its metadata."""
    import onnx

    graph = onnx.load_from_string(content)
    onnx.helper.set_model_props(graph, dict(entries))
    found: bytes = graph.SerializeToString()
    return found


def torch_with_metadata(content: bytes, entries: Mapping[str, str]) -> bytes:
    """The same program with these entries as `METADATA_FILE`."""
    program = torch.export.load(io.BytesIO(content))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(dict(entries))})
    return buffer.getvalue()


def onnx_run(content: bytes, threads: int | None = None) -> Run:
    """A function that runs the graph in onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])

    def run(images: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, ...]:
        inputs = (images, np.array(size_hw, np.int64))
        return tuple(session.run(list(OUTPUTS), dict(zip(INPUTS, inputs, strict=True))))

    return run


def torch_run(content: bytes, _threads: int | None = None) -> Run:
    """A function that runs a .pt2 file's program on the CPU."""
    return network_run(torch.export.load(io.BytesIO(content)).module())


def network_run(network: Callable[..., tuple[Tensor, ...]]) -> Run:
    """A function that runs a network or program of torch."""

    @torch.no_grad()
    def run(images: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, ...]:
        outputs = network(torch.from_numpy(images), torch.tensor(size_hw))
        return tuple(one.numpy() for one in outputs)

    return run


class Format(NamedTuple):
    """A row of `FORMATS`: how a file is written, given its metadata, and run."""

    write: Callable[[Any, DeployedNetwork, int], bytes]
    describe: Callable[[bytes, Mapping[str, str]], bytes]
    run: Callable[..., Run]


FORMATS = {
    "onnx": Format(onnx_bytes, onnx_with_metadata, onnx_run),
    "torch": Format(torch_bytes, torch_with_metadata, torch_run),
}
"""By the command's `--to`."""


def _tidy(graph: Any) -> None:
    """Name the sizes that vary, and drop what the exporter noted of its machine."""
    names = {}
    images, *_ = graph.graph.input
    for dimension, name in zip(images.type.tensor_type.shape.dim, _DIMENSIONS, strict=False):
        names[dimension.dim_param] = name
    class_map, *_ = graph.graph.output
    for dimension, name in zip(
        class_map.type.tensor_type.shape.dim[1:], ("out_height", "out_width"), strict=True
    ):
        names[dimension.dim_param] = name
    for value in (*graph.graph.input, *graph.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = names.get(dimension.dim_param, dimension.dim_param)
    del graph.graph.value_info[:]
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""


@contextlib.contextmanager
def same_padding() -> Iterator[None]:
    """Within it timm pads "SAME" by whole numbers alone: its division and rounding of sizes that
    vary take minutes to trace, and no .pt2 file can hold them.
    """
    from timm.layers import padding

    own = padding.get_same_padding
    setattr(padding, own.__name__, _same_padding_px)
    try:
        yield
    finally:
        setattr(padding, own.__name__, own)


def _same_padding_px(side: Any, kernel_size: int, stride: int, dilation: int) -> Any:
    """Pixels to add to a side, so that ceil(side / stride) are left."""
    reach = (kernel_size - 1) * dilation + 1
    missing = ((side + stride - 1) // stride - 1) * stride + reach - side
    return missing if reach >= stride else torch.sym_max(missing, 0)


@contextlib.contextmanager
def _errors_of(step: str, network: DeployedNetwork) -> Iterator[None]:
    """Turn the exporter's refusal into a `JobError` that names the network."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        config = network.segmenter.config
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise JobError(
            f"model: expected a network that {step} takes with sizes that vary, got "
            f"{config.architecture} on {config.encoder} "
            f"({type(error).__name__}: {lines[0] if lines else ''})",
            "export a network on another encoder",
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' own warnings, which name nothing that a user can change."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
