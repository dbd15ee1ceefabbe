"""Averages over grids for ONNX (PSPNet's and ICNet's pyramids), at sizes that are known only when
the graph runs.

ONNX has no adaptive pooling, and what the exporter writes for it holds for one size. Window i of n
over a side of L pixels is [floor(i L / n), ceil((i + 1) L / n)), as in PyTorch; the averages are
matrix products with each window's shares.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18

op: Any = opset18
_ROWS, _COLUMNS = 2, 3
_FLOAT = 1
"""ONNX's number for float32."""


def average_pool(images: Any, output_size: Sequence[int]) -> Any:
    """`aten.adaptive_avg_pool2d`: (B, C, H, W) -> (B, C, *output_size)."""
    if tuple(output_size) == (1, 1):
        return op.GlobalAveragePool(images)
    rows = _shares(images, _ROWS, output_size[0])
    columns = _shares(images, _COLUMNS, output_size[1])
    return op.MatMul(op.MatMul(rows, images), op.Transpose(columns, perm=[1, 0]))


def _shares(images: Any, axis: int, count: int) -> Any:
    """Each pixel's share in each of `count` windows over the side: (count, L) float32."""
    length = op.Shape(images, start=axis, end=axis + 1)
    starts = op.Div(op.Mul(_column(range(count)), length), _numbers(count))
    following = op.Mul(_column(range(1, count + 1)), length)
    ends = op.Div(op.Add(following, _numbers(count - 1)), _numbers(count))
    pixels = op.Range(_number(0), op.Squeeze(length), _number(1))
    inside = op.And(op.GreaterOrEqual(pixels, starts), op.Less(pixels, ends))
    return op.Div(op.Cast(inside, to=_FLOAT), op.Cast(op.Sub(ends, starts), to=_FLOAT))


def _column(values: Sequence[int]) -> Any:
    return op.Unsqueeze(_numbers(*values), _numbers(1))


def _number(value: int) -> Any:
    return op.Constant(value_int=value)


def _numbers(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.adaptive_avg_pool2d.default: average_pool,
    torch.ops.aten._adaptive_avg_pool2d.default: average_pool,
}
"""PyTorch's operator -> the function that writes it in ONNX, for `torch.onnx.export`."""
