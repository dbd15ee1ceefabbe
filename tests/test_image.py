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


@pytest.mark.parametrize("brought", [False, True])
def test_a_base_that_brings_torch_keeps_its_own(brought: bool) -> None:
    (pattern,) = re.findall(r"brought='(torch\S*)'", DOCKERFILE)
    (script,) = re.findall(r'sed -E "(.+?)" /tmp/requirements.lock', DOCKERFILE)
    script = script.replace("$brought", pattern if brought else "no package")
    script = script.replace("\\\\", "\\").replace("\\$", "$")  # as the shell takes it
    sed = shutil.which("sed")
    assert sed is not None
    left = subprocess.run(
        [sed, "-E", script], input=LOCK, capture_output=True, text=True, check=True
    ).stdout
    gone = pins(LOCK).keys() - pins(left).keys()
    if not brought:
        assert left == LOCK
        return
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-bindings"} <= gone
    assert not {"numpy", "timm", "setuptools", "sympy"} & gone
    assert lock_entries(left) == {k: v for k, v in lock_entries(LOCK).items() if k not in gone}


def test_only_finished_folders_reach_the_images() -> None:
    stages = re.split(r"^FROM (\S+) AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    parents = dict(zip(stages[1::3], stages[::3], strict=True))
    texts = dict(zip(stages[1::3], stages[2::3], strict=True))
    for image in ("job", "stack"):
        assert parents[image] == "user", "not of the stage that installs"
        assert not re.search(r"^(RUN|ADD)", texts[image], re.MULTILINE)
        copied = re.findall(r"^COPY (.+)$", texts[image], re.MULTILINE)
        folders = ("/opt/venv", "/opt/segadapt")
        assert copied and set(copied) <= {f"--from={image}_packages {f} {f}" for f in folders}
    assert "--require-hashes" in texts["job_packages"] and "--no-deps" in texts["job_packages"]


def test_the_health_check_runs_what_is_there() -> None:
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (.+)$", DOCKERFILE, re.MULTILINE)
    assert check == "cd /opt/segadapt && exec python -m adapt.launch.health"
    assert (ROOT / "adapt" / "launch" / "health.py").exists()


@pytest.mark.parametrize(
    ("cuda", "brings", "index", "left"),
    [
        ("13", False, False, True),
        ("12", False, True, False),
        ("12", True, False, False),
        ("13", True, False, False),
    ],
)
def test_the_image_has_torchs_wheels_for_the_cuda_that_is_asked_for(
    cuda: str, brings: bool, index: bool, left: bool, tmp_path: Path
) -> None:
    """The build's own script, with a pip that only says what it would install."""
    ended = job_packages(cuda, brings, tmp_path)
    assert ended.returncode == 0, ended.stderr
    (torch,) = pins(LOCK)["torch"]
    (vision,) = pins(LOCK)["torchvision"]
    said = f"pip --index-url https://index torch=={torch} torchvision=={vision}"
    assert (said in ended.stdout) is index
    kept = pins((tmp_path / "wanted.lock").read_text())
    assert ("torch" in kept) is left and ("nvidia-cublas" in kept) is left and "numpy" in kept


def test_another_cuda_is_refused(tmp_path: Path) -> None:
    ended = job_packages("11", False, tmp_path)
    assert ended.returncode == 1 and "CUDA: expected 12 or 13, got 11" in ended.stdout


def job_packages(cuda: str, brings: bool, folder: Path) -> "subprocess.CompletedProcess[str]":
    (script,) = re.findall(r"^RUN (set -eu; +brought=.*)$", DOCKERFILE, re.MULTILINE)
    (folder / "requirements.lock").write_text(LOCK)
    script = script.replace("/tmp/", f"{folder}/")
    script = re.sub(
        r"/opt/venv/bin/python -c \S+ torch, torchvision\"", str(brings).lower(), script
    )
    variables = {"CUDA": cuda, "TORCH_INDEX": "https://index", "INSTALL": "echo pip"}
    return subprocess.run(
        ["sh", "-c", script],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )
