"""Predict pictures by model.onnx: python predict.py IMAGE|FOLDER ... --out FOLDER [--confidence]

Writes a palette PNG for each image: its pixels are class numbers (classes.json), its colours the
classes'. Bad files are named and skipped; the exit code is 4 then. Needs numpy, onnxruntime and
Pillow.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent


def read(path: str | Path) -> np.ndarray:
    """An image file -> (H, W, 3) uint8 RGB, upright; 16 bits keep their high byte."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.array(upright.convert("RGB"))


def files_of(path: Path) -> list[Path]:
    """The files in a folder, or the file itself."""
    return sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]


class Model:
    """model.onnx with classes.json: `names`, `colours` by class, the size of its input."""

    def __init__(self, folder: Path = HERE, file: str = "model.onnx", threads: int = 0) -> None:
        facts = json.loads((folder / "classes.json").read_text())
        self.names, self.colours = facts["names"], np.array(facts["colours"], np.uint8)
        self.size_hw, self.smallest_side_px = facts["size_hw"], facts["smallest_side_px"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: as many as cores
        self.session = onnxruntime.InferenceSession(folder / file, options)

    def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 RGB -> class numbers (H, W) uint8, their probabilities (H, W)."""
        height, width = pixels.shape[:2]
        if self.size_hw is not None and [height, width] != self.size_hw:
            wanted = (self.size_hw[1], self.size_hw[0])
            image = Image.fromarray(pixels).resize(wanted, Image.Resampling.BICUBIC)
            return self._run(np.array(image), (height, width))
        missing = [(0, max(0, self.smallest_side_px - side)) for side in (height, width)]
        padded = np.pad(pixels, [*missing, (0, 0)], mode="edge")
        classes, confidence = self._run(padded, padded.shape[:2])
        return classes[:height, :width], confidence[:height, :width]

    def _run(self, pixels: np.ndarray, size_hw: Any) -> tuple[np.ndarray, np.ndarray]:
        inputs = {"images": pixels[None], "size_hw": np.array(size_hw, np.int64)}
        classes, confidence = self.session.run(["class_map", "confidence"], inputs)
        return classes[0], confidence[0]


def main() -> None:
    """Read the command line, write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("predicted"))
    parser.add_argument("--model", default="model.onnx", help="another graph of this folder")
    parser.add_argument("--confidence", action="store_true", help="also write probabilities")
    given = parser.parse_args()
    model = Model(file=given.model)
    given.out.mkdir(parents=True, exist_ok=True)
    bad = 0
    for path in (path for image in given.images for path in files_of(Path(image))):
        try:
            pixels = read(path)
        except OSError as error:
            bad += 1
            print(f"skipped {path}: expected a picture [{error}]", file=sys.stderr)
            continue
        classes, confidence = model.predict(pixels)
        picture = Image.fromarray(classes)
        picture.putpalette(model.colours.tobytes())
        picture.save(given.out / f"{path.stem}.png")
        if given.confidence:
            shares = Image.fromarray((confidence * 255).round().astype(np.uint8))
            shares.save(given.out / f"{path.stem}_confidence.png")
        print(given.out / f"{path.stem}.png")
    sys.exit(4 if bad else 0)


if __name__ == "__main__":
    main()
