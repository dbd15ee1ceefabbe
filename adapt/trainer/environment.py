"""The environment of a run: versions that can change its numbers, kept beside its job spec."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import adapt

ENVIRONMENT = "environment.json"
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "Pillow",
    "simplejpeg",
    "qoi",
    "safetensors",
    "zstandard",
)
"""The packages that compute, decode and augment."""


def environment() -> dict[str, Any]:
    """Versions of this process: SegAdapt, Python, the machine's kind, and packages by name."""
    return {
        "segadapt": adapt.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{f"packages.{name}": _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
