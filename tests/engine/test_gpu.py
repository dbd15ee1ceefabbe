"""GPUs and drivers that torch does not run on are named at the start, not at the first kernel."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adapt.engine.gpu import check_driver, check_gpu, check_kernels, gpu_text
from adapt.errors import JobError

CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.mark.parametrize(
    ("kernels", "capability", "least"),
    [
        (CU130, (7, 0), "7.5"),
        (CU130, (6, 1), "7.5"),
        (CU126, (7, 0), None),
        (CU126, (3, 7), "5.0"),
        (CU130, (7, 5), None),
        (CU130, (8, 9), None),
        (CU130, (12, 1), None),
        (CU130, (13, 0), None),
        (CU126, (10, 0), "5.0 to 9.0"),
        (["sm_90a"], (9, 0), None),
        ([], (7, 0), None),
    ],
)
def test_a_gpu_without_kernels_is_refused(
    kernels: list[str], capability: tuple[int, int], least: str | None
) -> None:
    if least is None:
        check_kernels("any", capability, kernels)
        return
    got = f"{capability[0]}.{capability[1]}"
    said = rf"GPU: expected compute capability {least}.* got {got} \(Tesla\).*Fix: take"
    with pytest.raises(JobError, match=said) as caught:
        check_kernels("Tesla", capability, kernels)
    assert caught.value.exit_code == 2


def test_a_driver_that_is_too_old_is_refused() -> None:
    with pytest.raises(JobError, match=r"driver: expected NVIDIA's version 580 or later, as CUDA"):
        check_driver(570, "13.0")
    check_driver(580, "13.0")
    check_driver(535, "12.6")
    check_driver(None, "13.0")
    check_driver(100, "99.0")


VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Nov 4\nGCC version: 12.2.0\n"


@pytest.mark.parametrize(
    ("driver", "devices", "environment", "refused"),
    [
        ("535.183.01", ["nvidia0"], {}, True),
        ("535.183.01", ["nvidia0"], {"CUDA_VISIBLE_DEVICES": ""}, False),
        ("535.183.01", ["nvidiactl"], {}, False),
        ("580.65.06", ["nvidia0"], {}, False),
        ("of my own", ["nvidia0"], {}, False),
    ],
)
def test_a_job_does_not_train_on_the_cpu_for_an_old_driver(
    driver: str,
    devices: list[str],
    environment: dict[str, str],
    refused: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch takes the machine for one without GPUs; a profile's `gpus: 0` hides them on purpose."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name in devices:
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / "dev" / name).touch()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(VERSION.format(driver))
    if refused:
        with pytest.raises(JobError, match="got 535"):
            check_gpu(torch.device("cpu"), environment, tmp_path)
    else:
        check_gpu(torch.device("cpu"), environment, tmp_path)


def test_the_device_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(value: Any) -> Any:
        return lambda *_: value

    monkeypatch.setattr(torch.cuda, "get_device_capability", answer((7, 0)))
    monkeypatch.setattr(torch.cuda, "get_device_name", answer("Tesla V100"))
    monkeypatch.setattr(torch.cuda, "get_arch_list", answer(CU130))
    with pytest.raises(JobError, match="Tesla V100"):
        check_gpu(torch.device("cuda", 0), {})


@pytest.mark.parametrize("driver", ["580.65.06", None])
def test_one_line_names_the_gpu_and_its_libraries(
    driver: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if driver is not None:
        path = tmp_path / "proc" / "driver" / "nvidia" / "version"
        path.parent.mkdir(parents=True)
        path.write_text(VERSION.format(driver))
    facts = SimpleNamespace(name="NVIDIA H200", total_memory=139 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: facts)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 28, 9))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91501)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert gpu_text(torch.device("cuda", 0), tmp_path) == (
        f"NVIDIA H200, 139 GiB, compute capability 9.0, driver {driver or 'unknown'}, CUDA 13.0, "
        "cuDNN 91501, NCCL 2.28.9"
    )
