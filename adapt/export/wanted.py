"""The wishes of an export, checked before torch is imported or anything is loaded."""

from importlib import import_module
from pathlib import Path

from adapt.errors import JobError

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
"""Endings of the files by the command's `--to`."""

OPSETS = range(18, 24)
DEFAULT_OPSET = 18
"""The one that the exporter writes without converting; onnxruntime 1.14 and later read it."""

EXPORT_LIBRARIES = "pip install 'segadapt[export]'"
_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def need_libraries() -> None:
    """Raise `JobError` where a library is not installed that a job does without."""
    for name in _LIBRARIES:
        try:
            import_module(name)
        except ImportError as error:
            raise JobError(
                f"export: expected the library {name}, got none installed", EXPORT_LIBRARIES
            ) from error


def check_ending(out: Path, to: str) -> None:
    """Raise `JobError` for a file whose name does not end as the format's do."""
    if out.suffix.lower() != ENDINGS[to]:
        raise JobError(
            f"--out: expected a {ENDINGS[to]} file with --to {to}, got {out.name!r}",
            f"name it {out.stem}{ENDINGS[to]}",
        )


def check_free(folder: Path) -> None:
    """Raise `JobError` where something is in the bundle's place."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise JobError(
            f"--bundle: expected a new or an empty folder, got {folder} with content",
            "name another folder",
        )
