"""The image's files, without building it: the lock agrees with the requirements, and stages leave
nothing behind. `tests/platforms/test_docker_engine.py` builds and runs it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.docker_engine import FEW, lock_entries

LOCK = (ROOT / "requirements.lock").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)", re.MULTILINE)


def pins(text: str) -> dict[str, set[str]]:
    """The versions of each package; several where they differ by Python or platform."""
    found: dict[str, set[str]] = {}
    for name, version in PIN.findall(text):
        found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(version)
    return found


def test_the_lock_agrees_with_the_requirements() -> None:
    locked = pins(LOCK)
    for name, versions in pins((ROOT / "requirements.txt").read_text()).items():
        assert locked.get(name) == versions, f"{name}: run `make lock`"


def test_every_package_of_the_lock_has_a_version_and_hashes() -> None:
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    packages = [line for line in lines if not line.startswith(" ")]
    assert len(packages) == sum(map(len, pins(LOCK).values())) > 50
    for first, second in zip(lines, [*lines[1:], ""], strict=True):
        assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", first) or PIN.match(first)
        assert not PIN.match(first) or second.startswith("    --hash=sha256:"), first
    assert "make lock" in "\n".join(LOCK.splitlines()[:3])


def test_the_tests_build_takes_real_entries_of_the_lock() -> None:
    entries = lock_entries(LOCK)
    assert set(FEW) <= set(entries) and len(entries) == len(pins(LOCK))
    assert all(PIN.findall(entries[name])[0][0] == name for name in FEW)
    assert "\n".join(entries["xxhash"].splitlines()) in LOCK


def test_torch_and_what_it_brings_are_apart(tmp_path: Path) -> None:
    """So that their layer stays when other packages change."""
    locks(tmp_path)
    torch = pins((tmp_path / "torch" / "torch.lock").read_text())
    others = pins((tmp_path / "others.lock").read_text())
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-bindings"} <= torch.keys()
    assert {"numpy", "timm", "setuptools", "sympy"} <= others.keys()
    assert torch | others == pins(LOCK) and not torch.keys() & others.keys()
    texts = [(tmp_path / name).read_text() for name in ("torch/torch.lock", "others.lock")]
    assert lock_entries(texts[0]) | lock_entries(texts[1]) == lock_entries(LOCK)
    order = DOCKERFILE[DOCKERFILE.index(" AS job\n") :]
    assert order.index("/opt/torch ") < order.index("/opt/venv ") < order.index("/opt/segadapt ")


def test_only_finished_folders_reach_the_images() -> None:
    stages = re.split(r"^FROM (\S+) AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    parents = dict(zip(stages[1::3], stages[::3], strict=True))
    texts = dict(zip(stages[1::3], stages[2::3], strict=True))
    for image in ("job", "stack"):
        assert parents[image] == "user", "not of the stage that installs"
        assert not re.search(r"^(RUN|ADD)", texts[image], re.MULTILINE)
        copied = re.findall(r"^COPY (.+)$", texts[image], re.MULTILINE)
        folders = [(image, "/opt/venv"), (image, "/opt/segadapt"), ("torch", "/opt/torch")]
        known = {f"--from={stage}_packages {f} {f}" for stage, f in folders}
        assert copied and set(copied) <= known
    for stage in ("job_packages", "torch_packages"):
        assert "--require-hashes" in texts[stage] and "--no-deps" in texts[stage]


def test_the_health_check_runs_what_is_there() -> None:
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (.+)$", DOCKERFILE, re.MULTILINE)
    assert check == "cd /opt/segadapt && exec python -m adapt.launch.health"
    assert (ROOT / "adapt" / "launch" / "health.py").exists()


@pytest.mark.parametrize(
    ("cuda", "installed"),
    [
        ("13", "--no-deps --require-hashes -r {folder}/torch.lock"),
        ("12", "--index-url https://index/cu126 torch=={torch} torchvision=={vision}"),
        ("cpu", "--index-url https://index/cpu torch=={torch} torchvision=={vision}"),
    ],
)
def test_the_image_has_torchs_wheels_for_the_cuda_that_is_asked_for(
    cuda: str, installed: str, tmp_path: Path
) -> None:
    """The build's own script, with a pip that only says what it would install."""
    (torch,) = pins(LOCK)["torch"]
    (vision,) = pins(LOCK)["torchvision"]
    ended = torch_packages(cuda, tmp_path)
    assert ended.returncode == 0, ended.stderr
    said = installed.format(folder=tmp_path, torch=torch, vision=vision)
    assert ended.stdout == f"pip --target {tmp_path}/opt {said}\n"


def test_a_lock_of_another_cuda_is_taken_with_its_hashes(tmp_path: Path) -> None:
    ended = torch_packages("cpu", tmp_path, "requirements-cpu.lock")
    lock = f"--index-url https://index/cpu -r {tmp_path}/requirements-cpu.lock"
    assert f"--no-deps --require-hashes {lock}\n" in ended.stdout
    others = torch_packages("12", tmp_path, "requirements-cpu.lock")
    assert "https://index/cu126 torch==" in others.stdout


@pytest.mark.parametrize("cuda", ["12", "13", "cpu"])
def test_a_base_that_brings_torch_keeps_its_own(cuda: str, tmp_path: Path) -> None:
    ended = torch_packages(cuda, tmp_path, brought=True)
    assert (ended.returncode, ended.stdout) == (0, "torch is the base's own\n")
    assert (tmp_path / "opt").is_dir(), "the image copies it"


def test_another_cuda_is_refused(tmp_path: Path) -> None:
    ended = torch_packages("11", tmp_path)
    assert ended.returncode == 1 and "CUDA: expected 12, 13 or cpu, got 11" in ended.stdout


def locks(folder: Path, *more: str) -> None:
    """Run the script of the stage `locks` in a folder, where there may be more locks."""
    folder.joinpath("requirements.lock").write_text(LOCK)
    for name in more:
        folder.joinpath(name).write_text("torch==1\n")
    ended = shell(folder, re.findall(r"^RUN (set -eu; +own=.*)$", DOCKERFILE, re.MULTILINE)[0])
    assert ended.returncode == 0, ended.stderr


def torch_packages(
    cuda: str, folder: Path, *more: str, brought: bool = False
) -> "subprocess.CompletedProcess[str]":
    """Run the script of the stage `torch_packages`, after that of the stage before."""
    shutil.rmtree(folder / "torch", ignore_errors=True)
    locks(folder, *more)
    for path in (folder / "torch").iterdir():
        path.rename(folder / path.name)
    (script,) = re.findall(r"^RUN (set -eu; +case .*)$", DOCKERFILE, re.MULTILINE)
    asked = r"/opt/venv/bin/python -c \S+ torch, torchvision\""
    script = re.sub(asked, str(brought).lower(), script)
    return shell(folder, script, CUDA=cuda, TORCH_INDEX="https://index", INSTALL="echo pip")


def shell(folder: Path, script: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a script of the Dockerfile with a folder as /tmp, and its `opt` as /opt/torch."""
    here = {"/tmp/": f"{folder}/", "/opt/torch": f"{folder}/opt"}
    return subprocess.run(
        ["sh", "-c", re.sub("/tmp/|/opt/torch", lambda found: here[found[0]], script)],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )
