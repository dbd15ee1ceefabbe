"""The peak of a device in FLOP/s, by which a step's operations become a utilisation.

GPUs are known by their name: what their vendor states for dense numbers, without sparsity. A CPU is
measured, by matrix products in the job's precision on the job's threads. In `fp32` PyTorch lets
cuDNN compute convolutions in TF32 where the GPU has it, and matrix products in full precision,
unless that is changed; so both have a peak of their own.
"""

import re
import time
from functools import cache
from typing import NamedTuple

import torch

from adapt.accelerator import is_accelerator, properties_of
from adapt.engine.gpu import allowed_tf32
from adapt.engine.train_config import PRECISIONS

TERA = 1e12


class Peak(NamedTuple):
    """The peak in FLOP/s of convolutions and of matrix products; `source` names where it is
    from."""

    convolutions: float
    products: float
    source: str


class Gpu(NamedTuple):
    """A GPU's peaks in TFLOP/s, dense, at the vendor's boost clock; None where it cannot compute
    so. `name` is a pattern of the whole name that the driver gives it."""

    name: str
    fp32: float
    tf32: float | None
    bf16: float | None
    source: str


_SIZE = r"(-| )\d+GB"
GPUS = (
    Gpu(rf"Tesla V100-SXM2{_SIZE}", 15.7, None, None, "NVIDIA V100 data sheet"),
    Gpu(rf"Tesla V100-PCIE{_SIZE}", 14.0, None, None, "NVIDIA V100 data sheet"),
    Gpu(rf"Tesla V100S-PCIE{_SIZE}", 16.4, None, None, "NVIDIA V100 data sheet"),
    Gpu(r"Tesla T4", 8.1, None, None, "NVIDIA T4 data sheet"),
    Gpu(r"A10", 31.2, 62.5, 125.0, "NVIDIA A10 data sheet"),
    Gpu(r"A10G", 31.52, 35.0, 70.0, "NVIDIA A10G data sheet"),
    Gpu(r"A40", 37.4, 74.8, 149.7, "NVIDIA A40 data sheet"),
    Gpu(r"L4", 30.3, 60.0, 121.0, "NVIDIA L4 data sheet, halved: it states sparse rates"),
    Gpu(r"L40S", 91.6, 183.0, 362.0, "NVIDIA L40S data sheet"),
    Gpu(rf"A100-(SXM4|PCIE){_SIZE}|A100 80GB PCIe", 19.5, 156.0, 312.0, "NVIDIA A100 data sheet"),
    Gpu(r"H100 80GB HBM3", 67.0, 494.5, 989.5, "NVIDIA H100 data sheet (SXM), halved"),
    Gpu(r"H100 PCIe", 51.0, 378.0, 756.5, "NVIDIA H100 data sheet (PCIe), halved"),
    Gpu(r"H100 NVL", 60.0, 417.5, 835.5, "NVIDIA H100 data sheet (NVL), halved"),
    Gpu(r"H200", 67.0, 494.5, 989.5, "NVIDIA H200 data sheet (SXM), halved"),
    Gpu(r"H200 NVL", 60.0, 417.5, 835.5, "NVIDIA H200 data sheet (NVL), halved"),
    Gpu(r"B200", 75.0, 1125.0, 2250.0, "NVIDIA HGX B200 data sheet, an eighth, halved"),
    Gpu(r"GeForce RTX 3090", 35.6, 35.6, 71.0, "NVIDIA GA102 white paper, FP32 accumulation"),
    Gpu(r"GeForce RTX 4090", 82.6, 82.6, 165.2, "NVIDIA Ada white paper, FP32 accumulation"),
    Gpu(r"GeForce RTX 5090", 104.8, 104.8, 209.5, "NVIDIA RTX Blackwell white paper, FP32 acc."),
)
"""Rows match whole names: a 4090 D, a laptop's 4090 and a part of a GPU (MIG) have other peaks.
"halved" are tables that state rates with sparsity, twice the dense ones."""

_SIDE = 512
_MEASURE_S = 0.25


def peak_of(device: torch.device, precision: str) -> Peak | None:
    """The peak of a device in a precision of the spec's; None where it is not known."""
    if is_accelerator(device):
        return gpu_peak(properties_of(device).name, precision, allowed_tf32())
    return cpu_peak(precision, torch.get_num_threads())


def gpu_peak(name: str, precision: str, tf32: tuple[bool, bool] = (True, False)) -> Peak | None:
    """The peak of a GPU by its name; `tf32` says of convolutions and of matrix products whether
    they may be computed in it under `fp32`."""
    row = next((one for one in GPUS if re.fullmatch(one.name, name.removeprefix("NVIDIA "))), None)
    if row is None:
        return None
    if precision == "bf16":
        rate = None if row.bf16 is None else row.bf16 * TERA
        return None if rate is None else Peak(rate, rate, row.source)
    found = [row.tf32 if allowed and row.tf32 is not None else row.fp32 for allowed in tf32]
    return Peak(found[0] * TERA, found[1] * TERA, row.source)


@cache
def cpu_peak(precision: str, threads: int) -> Peak:
    """The best rate of matrix products on the CPU, measured for a quarter of a second."""
    values = torch.ones(_SIDE, _SIDE)
    best_s, end_s = float("inf"), time.perf_counter() + _MEASURE_S
    with torch.no_grad(), PRECISIONS[precision]("cpu"):
        while best_s == float("inf") or time.perf_counter() < end_s:
            began_s = time.perf_counter()
            values @ values
            best_s = min(best_s, time.perf_counter() - began_s)
    rate = 2 * _SIDE**3 / best_s
    return Peak(rate, rate, f"measured: {threads} thread{'s'[: threads > 1]} of the CPU")
