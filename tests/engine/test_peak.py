"""Peaks of GPUs by their drivers' names, and of this CPU."""

import re
import time

import pytest
import torch

from adapt.engine.peak import GPUS, TERA, cpu_peak, gpu_peak, peak_of
from adapt.platforms.gpus import CAPABILITIES, model_in

NAMES = {
    "Tesla V100-SXM2-16GB": (15.7, 15.7, None),
    "Tesla V100-PCIE-32GB": (14.0, 14.0, None),
    "Tesla V100S-PCIE-32GB": (16.4, 16.4, None),
    "Tesla T4": (8.1, 8.1, None),
    "NVIDIA A10": (62.5, 31.2, 125.0),
    "NVIDIA A10G": (35.0, 31.52, 70.0),
    "NVIDIA A40": (74.8, 37.4, 149.7),
    "NVIDIA L4": (60.0, 30.3, 121.0),
    "NVIDIA L40S": (183.0, 91.6, 362.0),
    "NVIDIA A100-SXM4-80GB": (156.0, 19.5, 312.0),
    "NVIDIA A100-PCIE-40GB": (156.0, 19.5, 312.0),
    "NVIDIA A100 80GB PCIe": (156.0, 19.5, 312.0),
    "NVIDIA H100 80GB HBM3": (494.5, 67.0, 989.5),
    "NVIDIA H100 PCIe": (378.0, 51.0, 756.5),
    "NVIDIA H100 NVL": (417.5, 60.0, 835.5),
    "NVIDIA H200": (494.5, 67.0, 989.5),
    "NVIDIA H200 NVL": (417.5, 60.0, 835.5),
    "NVIDIA B200": (1125.0, 75.0, 2250.0),
    "NVIDIA GeForce RTX 3090": (35.6, 35.6, 71.0),
    "NVIDIA GeForce RTX 4090": (82.6, 82.6, 165.2),
    "NVIDIA GeForce RTX 5090": (104.8, 104.8, 209.5),
}
"""Driver's name -> TFLOP/s of fp32's convolutions and products, and of bf16."""


@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_is_known_by_its_drivers_name(name: str) -> None:
    convolutions, products, bf16 = NAMES[name]
    found = gpu_peak(name, "fp32")
    assert found is not None and found[:2] == (convolutions * TERA, products * TERA)
    half = gpu_peak(name, "bf16")
    assert (half and half[:2]) == (bf16 and (bf16 * TERA, bf16 * TERA))


def test_every_row_is_some_gpus() -> None:
    for row in GPUS:
        names = [one for one in NAMES if re.fullmatch(row.name, one.removeprefix("NVIDIA "))]
        assert names, row
        assert all(model_in(one) in {*CAPABILITIES, None} for one in names)
        assert "NVIDIA" in row.source
        if row.tf32 is not None and row.bf16 is not None:
            assert row.fp32 <= row.tf32 <= row.bf16 == pytest.approx(2 * row.tf32, rel=0.02)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA RTX A2000",
        "",
    ],
)
def test_another_gpu_of_like_name_is_not_known(name: str) -> None:
    assert gpu_peak(name, "fp32") is None


def test_fp32_follows_what_pytorch_may_compute_in_tf32() -> None:
    both = gpu_peak("NVIDIA A100-SXM4-40GB", "fp32", (True, True))
    neither = gpu_peak("NVIDIA A100-SXM4-40GB", "fp32", (False, False))
    assert both is not None and both[:2] == (156 * TERA, 156 * TERA)
    assert neither is not None and neither[:2] == (19.5 * TERA, 19.5 * TERA)


def test_a_cpu_is_measured_once_and_quickly() -> None:
    cpu_peak.cache_clear()
    began_s = time.perf_counter()
    found = peak_of(torch.device("cpu"), "fp32")
    assert found is not None and found.convolutions == found.products > 1e8
    threads = torch.get_num_threads()
    assert found.source == f"measured: {threads} thread{'s'[: threads > 1]} of the CPU"
    assert time.perf_counter() - began_s < 5, "a quarter of a second on a machine at rest"
    assert peak_of(torch.device("cpu"), "fp32") is found
