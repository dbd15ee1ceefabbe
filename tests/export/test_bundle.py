"""The folder for the edge: whole, with the model's pixels, without SegAdapt and torch."""

import importlib.metadata
import json
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from adapt.errors import JobError
from adapt.export import bundle_predict
from adapt.export.bundle import write_bundle
from adapt.export.compare import example_images
from adapt.export.export import Exported
from adapt.use.model import LoadedModel
from tests.export.conftest import SPACE

pytestmark = pytest.mark.slow
FILES = ["README.md", "classes.json", "model.onnx", "predict.py", "requirements.txt"]


@pytest.fixture
def bundle(exported: Exported, mirrored: LoadedModel, tmp_path: Path) -> Path:
    assert write_bundle(mirrored, exported, tmp_path / "edge" / "bundle") == FILES
    return tmp_path / "edge" / "bundle"


def test_the_folder_is_whole_and_states_itself(bundle: Path) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == FILES
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"], "no leftovers"
    facts = json.loads((bundle / "classes.json").read_text())
    assert facts["names"] == list(SPACE.names) and facts["size_hw"] == [64, 96]
    readme = (bundle / "README.md").read_text()
    assert "deeplab_v2 on test_resnet" in readme and "64x96 pixels" in readme
    assert not re.search(r"[{}]", readme), "a number that was left out"
    assert len((bundle / "predict.py").read_text().splitlines()) < 100


@pytest.mark.parametrize("size_hw", [(64, 96), None])
def test_pixels_are_those_of_the_loaded_model(
    bundle: Path, mirrored: LoadedModel, size_hw: tuple[int, int] | None
) -> None:
    """Resized, and of their own size, also smaller than the deepest stage allows."""
    model = bundle_predict.Model(bundle, threads=1)
    model.size_hw = None if size_hw is None else list(size_hw)
    mirrored.size_hw = size_hw
    try:
        for shape in ((1, 64, 96), (1, 75, 50), (1, 11, 40)):
            image = example_images(shape)[0]
            expected = mirrored.predict(image)
            class_map, confidence = model.predict(image)
            assert np.mean(expected.class_map != class_map) < 1e-3
            assert np.allclose(expected.probabilities.max(0), confidence, atol=1e-5)
    finally:
        mirrored.size_hw = (64, 96)


def test_files_are_read_as_by_adapt(mirrored: LoadedModel, tmp_path: Path) -> None:
    rgb = example_images((1, 20, 30))[0]
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 256 + 9).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([rgb, rgb[..., :1]])).save(tmp_path / "alpha.png")
    for path in tmp_path.iterdir():
        assert np.array_equal(bundle_predict.read(path), mirrored.predict(path).image), path


def test_what_is_there_is_kept(exported: Exported, mirrored: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(JobError, match=r"--bundle: expected a new or an empty folder, got .*full"):
        write_bundle(mirrored, exported, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert write_bundle(mirrored, exported, tmp_path / "empty") == FILES


def test_an_environment_of_its_packages_alone(
    bundle: Path, mirrored: LoadedModel, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    for name in requirements((bundle / "requirements.txt").read_text()):
        link(name, site)
    image = example_images((1, 75, 50))[0]
    Image.fromarray(image).save(tmp_path / "street.png")
    python = tmp_path / "venv" / "bin" / "python"
    for absent in ("torch", "adapt", "onnx"):
        assert run(python, "-c", f"import {absent}", folder=tmp_path).returncode == 1
    arguments = ("street.png", "--out", "out", "--confidence")
    ended = run(python, bundle / "predict.py", *arguments, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    expected = mirrored.predict(image)
    with Image.open(tmp_path / "out" / "street.png") as picture:
        assert np.mean(np.array(picture) != expected.class_map) < 1e-3
        colours = np.array(picture.convert("RGB"))
    assert np.mean(colours != expected.colours) < 3e-3
    with Image.open(tmp_path / "out" / "street_confidence.png") as picture:
        shares = np.array(picture) / 255
    assert np.allclose(shares, expected.probabilities.max(0), atol=0.5 / 255 + 1e-5)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "street.png").rename(tmp_path / "pictures" / "b.png")
    (tmp_path / "pictures" / "a.png").write_text("no picture")
    ended = run(python, bundle / "predict.py", "pictures", "gone.png", folder=tmp_path)
    assert ended.returncode == 4 and ended.stdout == "predicted/b.png\n"
    skipped = [line.partition(":")[0] for line in ended.stderr.splitlines()]
    assert skipped == ["skipped pictures/a.png", "skipped gone.png"], ended.stderr


def run(python: Path, *arguments: object, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Without what the tests' own environment has, such as PYTHONPATH."""
    return subprocess.run(
        [python, *map(str, arguments)],
        cwd=folder,
        env={"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def requirements(text: str) -> list[str]:
    """The packages of a file of requirements, and theirs."""
    wanted, found = [Requirement(line).name for line in text.split()], list[str]()
    while wanted:
        name = wanted.pop()
        found.append(name)
        for more in map(Requirement, importlib.metadata.requires(name) or ()):
            if (more.marker is None or more.marker.evaluate({"extra": ""})) and (
                more.name not in (*found, *wanted)
            ):
                wanted.append(more.name)
    return found


def link(name: str, site: Path) -> None:
    """Put an installed package into another environment."""
    distribution = importlib.metadata.distribution(name)
    tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
    for top in tops:
        (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    assert tops, f"{name} in {sys.prefix}"
