"""Two-stage jobs on a small toy town whose target has no labels: killed in every stage, they end as
a calm one does."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file

from adapt.data.toy_town.town import write_cityscapes, write_gta5
from adapt.data.writing.pack import pack
from adapt.spec.shipped import shipped_path
from storage.local import LocalStore
from tests.chaos import kill_all
from tests.commands import call, finish, start

HW = (48, 96)
SMALL = {"architecture": "deeplab_v2", "encoder": "test_resnet", "output_stride": 16}
SMALL_GAME = {"weight_adv": [0.001], "discriminator_width": 8}
METHODS: dict[str, dict[str, Any]] = {
    "cbst": {"name": "class_balanced_self_training", "rounds": 2},
    "intra_da": {"name": "intra_da", **SMALL_GAME},
}
KILLED_AT = {
    "cbst": ("labelled 4", "step 2/", "observed 4"),
    "intra_da": ("labelled 3", "step 3/"),
}
"""Words of the log at which everything is killed, one after the other, each in a new start. The
last of CBST is in the second round's stage."""


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both towns, packed, and the runs `source_only` and `advent`."""
    folder = tmp_path_factory.mktemp("town")
    write_gta5(folder / "game", 6, 1, size_hw=HW)
    write_cityscapes(folder / "camera", {"train": 8, "val": 2}, 1, size_hw=HW)
    game, camera = (LocalStore(str(folder / "packed" / name)) for name in ("game", "camera"))
    pack("gta5", folder / "game", game, "train", shard_bytes=20_000)
    sizes: dict[str, Any] = {"shard_bytes": 20_000}
    pack("cityscapes", folder / "camera", camera, "train", unlabelled=True, **sizes)
    pack("cityscapes", folder / "camera", camera, "val", **sizes)
    for name, more in (("source_only", {}), ("advent", SMALL_GAME)):
        write(folder, name, {"name": name, **more}, 12)
        assert call("run", f"{name}.yaml", folder=folder).code == 0
    return folder


def write(folder: Path, name: str, method: dict[str, Any], steps: int) -> None:
    values = yaml.safe_load(shipped_path("toy_town/source_only").read_text())
    domain = {"batch_size": 2, "size_hw": list(HW), "augment": {"flip": 0.5}}
    camera = {"dataset": "cityscapes", "uri": "packed/camera"}
    values |= {
        "source": {"dataset": "gta5", "uri": "packed/game", **domain},
        "target": {**camera, **domain},
        "validation": {**camera, "split": "val", "size_hw": list(HW)},
        "model": {**SMALL, "weights": "none", "norm": "frozen_affine"},
        "method": method,
        "train": {"steps": steps, "log_every_steps": 1},
        "evaluate": {"every_steps": steps, "pictures": 0},
        "checkpoint": {"uri": "runs", "every_steps": 1},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))


def results(folder: Path) -> dict[str, bytes]:
    """Last weights and the labels of the last round; earlier ones stay as checkpoints do."""
    weights = sorted(folder.glob("step-00000008*/weights.safetensors"))[-1]
    last = max(path.name[: len("round-0")] for path in (folder / "pseudo_labels").iterdir())
    files = (folder / "pseudo_labels").glob(f"{last}*/**/*")
    labels = [*(folder / "pseudo_labels").glob(f"{last}*.json"), *files]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in labels}
    return {**tensors_of(weights), **found}


def tensors_of(weights: Path) -> dict[str, bytes]:
    """The tensors and the header of a file but for its lineage, which names the run."""
    with safe_open(weights, framework="numpy") as file:
        header = {name: text.encode() for name, text in file.metadata().items()}
    del header["segadapt.lineage"]
    return header | {name: values.tobytes() for name, values in load_file(weights).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("cbst", "source_only"),
        pytest.param("intra_da", "advent", marks=pytest.mark.nightly),
    ],
)
def test_a_job_killed_in_each_stage_ends_as_a_calm_one(name: str, before: str, town: Path) -> None:
    stage = {"pseudo_labels": {"run": before}}
    for run in (f"{name}-calm", f"{name}-stormy"):
        write(town, run, {**METHODS[name], **stage}, 8)
    calm = call("run", f"{name}-calm.yaml", folder=town)
    assert calm.code == 0, calm.err
    for words in KILLED_AT[name]:
        process = start("run", f"{name}-stormy.yaml", folder=town)
        assert process.stderr is not None
        seen = next((line for line in process.stderr if words in line), None)
        kill_all(process)
        finish(process)
        assert seen is not None, f"{words!r} was not logged"
        shutil.rmtree(town / "scratch", ignore_errors=True)  # of another machine
    ended = finish(start("run", f"{name}-stormy.yaml", folder=town))
    assert ended.code == 0, ended.err
    assert results(town / "runs" / f"{name}-stormy") == results(town / "runs" / f"{name}-calm")
