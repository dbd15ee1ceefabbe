"""A folder that predicts without SegAdapt or torch: the graph, a script, the classes, a README.

It appears whole: the folder is written beside its place and then gets its name.
"""

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from adapt.export.compare import TOLERANCE
from adapt.export.export import Exported
from adapt.export.wanted import check_free
from adapt.use.model import LoadedModel
from storage.files import file_errors

MODEL, INT8_MODEL, SCRIPT = "model.onnx", "model.int8.onnx", "predict.py"
_PACKAGES = ("numpy", "onnxruntime", "Pillow")
_INT8_LINE = (
    f"\n`--model {INT8_MODEL}` takes the graph of 8 bits, which is smaller and less exact.\n"
)


def write_bundle(
    model: LoadedModel, exported: Exported, folder: Path, int8: bytes | None = None
) -> list[str]:
    """Write the folder and return the names of its files.

    Raises `JobError` where something is in its place, `StoreError` where it cannot be written.
    """
    check_free(folder)
    files = _files(model, exported, int8)
    with file_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".segadapt-", dir=folder.parent) as scratch:
            draft = Path(scratch) / "bundle"
            draft.mkdir()
            for name, content in files.items():
                (draft / name).write_bytes(content)
            if folder.is_dir():
                folder.rmdir()
            shutil.move(draft, folder)
    return sorted(files)


def _files(model: LoadedModel, exported: Exported, int8: bytes | None) -> dict[str, bytes]:
    """Content by name."""
    facts = {
        "names": model.classes.names,
        "colours": model.classes.colours,
        "size_hw": model.size_hw,
        "smallest_side_px": exported.network.smallest_side_px,
        "lineage": dict(model.lineage),
        "export": exported.record(),
    }
    packages = "".join(f"{name}=={version(name)}\n" for name in _PACKAGES)
    files = {
        MODEL: exported.content,
        SCRIPT: Path(__file__).with_name("bundle_predict.py").read_bytes(),
        "classes.json": json.dumps(facts, indent=2).encode(),
        "requirements.txt": packages.encode(),
        "README.md": _readme(model, exported, int8 is not None).encode(),
    }
    return files if int8 is None else {**files, INT8_MODEL: int8}


def _readme(model: LoadedModel, exported: Exported, has_int8: bool) -> str:
    """The page of the bundle, with its numbers."""
    config, compared = model.segmenter.config, exported.compared
    worst = max(compared, key=lambda one: one.difference)
    resized = "Images are read at their own size"
    if model.size_hw:
        resized = "Images are resized to {}x{} pixels (HxW) by Pillow's bicubic filter"
        resized = resized.format(*model.size_hw)
    return (
        Path(__file__)
        .with_name("bundle_readme.md")
        .read_text()
        .format(
            network=f"{config.architecture} on {config.encoder}",
            num_classes=model.classes.num_classes,
            int8=_INT8_LINE if has_int8 else "",
            smallest_side_px=exported.network.smallest_side_px,
            resized=resized,
            difference=worst.difference,
            largest_logit=worst.largest_logit,
            equal_pixels=min(one.equal_pixels for one in compared),
            allowed=TOLERANCE.difference,
            least=TOLERANCE.equal_pixels,
        )
    )
