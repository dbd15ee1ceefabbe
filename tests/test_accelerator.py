"""Code for a device goes through torch.accelerator, so that other kinds than CUDA can run."""

import re
from types import SimpleNamespace

import pytest
import torch

from adapt import accelerator as accelerators
from adapt.accelerator import CPU, Properties, accelerator, is_accelerator, num_accelerators
from adapt.ranks import backend_of
from tests.commands import ROOT

OF_CUDA = {"adapt/engine/gpu.py"}
"""What CUDA alone has."""
NAMED = re.compile(r"torch\.(cuda|backends\.cu|version\.cuda)|[\"'](cuda|nccl)[\"']|Activity\.CUDA")


def test_no_other_file_names_cuda() -> None:
    apart = {"platforms", "profiling"}  # an image's CUDA, and the names of its kernels
    paths = [path for path in ROOT.glob("adapt/**/*.py") if not apart & {*path.parts}]
    found = {str(path.relative_to(ROOT)) for path in paths if NAMED.search(path.read_text())}
    assert found == OF_CUDA


@pytest.fixture(params=["cuda", "xpu"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine with two accelerators of a kind."""
    name: str = request.param
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(name))
    facts = SimpleNamespace(name="Some One", total_memory=64 * 10**9)
    module = SimpleNamespace(get_device_properties=lambda _device: facts)
    monkeypatch.setattr(torch, "get_device_module", lambda _device: module)
    return name


def test_accelerators_of_any_kind(kind: str) -> None:
    assert num_accelerators() == 2
    assert accelerator(1) == torch.device(kind, 1) and accelerator() == torch.device(kind)
    assert is_accelerator(accelerator(1))
    assert accelerators.properties_of(accelerator(0)) == Properties("Some One", 64 * 10**9)


def test_a_machine_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert num_accelerators() == 0 and accelerator() == accelerator(1) == CPU
    assert not is_accelerator(CPU) and not is_accelerator(torch.device("meta"))


def test_ranks_talk_by_the_devices_own_backend() -> None:
    assert backend_of(CPU) == "gloo"
    assert backend_of(torch.device("cuda", 1)) == "cpu:gloo,cuda:nccl"
    assert backend_of(torch.device("xpu", 0)) == "cpu:gloo,xpu:xccl"
