"""Fixtures every test may use: the shared folder beside the project, a tiny packed dataset, a tiny
job."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from adapt.data.writing.pack import pack
from adapt.methods import METHODS
from storage.store import Store
from storage.stores import Stores
from tests import mlflow_tables, processes

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


pytest_plugins = ["tests.servers", "tests.docker_engine", "tests.slurm_cluster"]


def pytest_configure() -> None:
    """Shells let their background jobs ignore Ctrl-C, and all processes that tests start would."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mlflow_tables.copy_from_now_on()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whole jobs, the longest tests, are first. Tests of a file that share a fixture of their
    module run on one worker, so that it is made once."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)
    for item in items:
        fixtures = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 - mypy knows no such
        shared = any(found[-1].scope == "module" for found in fixtures.values())
        if shared and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_finish(session: pytest.Session) -> None:
    """pytest 9.2 ignores, without a word, the groups that pytest-xdist 3.8 makes."""
    if session.config.getoption("loadgroup", False):
        grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
        assert all("@" in item.nodeid for item in grouped), "this pytest ignores xdist_group"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors are slower on many threads, and test processes run side by side."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def subnormal_floats() -> None:
    """A test whose code flushes subnormal floats to zero does so for the process: hypothesis then
    draws no floats in the tests after it."""
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def cold_starts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests marked `cold_start` start no process from the fork server."""
    if request.node.get_closest_marker("cold_start"):
        monkeypatch.setattr(processes, "cold", True)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with golden vectors and real images; tests that need it are skipped where it is
    absent."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("the folder ../shared (golden vectors, real images) is not beside the project")
    return SHARED


TINY_HW = (48, 64)


def write_raw_folders(
    raw_dir: Path, count: int, seed: int, size_hw: tuple[int, int] = TINY_HW
) -> None:
    """A raw dataset of layout `folders`: noise whose brightness follows the labels, ids 0 to 3."""
    random = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (raw_dir / part).mkdir(parents=True, exist_ok=True)
    height, width = size_hw
    for number in range(count):
        rows = np.linspace(0, 3.99, height)[:, None] + random.normal(0, 0.3, (1, width))
        labels = np.clip(rows, 0, 3).astype(np.uint8)
        noise = random.integers(0, 40, (height, width, 3))
        images = (labels[..., None] * np.array([50, 30, 60]) + noise).astype(np.uint8)
        Image.fromarray(images).save(raw_dir / "images" / f"{number:03d}.png")
        Image.fromarray(labels).save(raw_dir / "labels" / f"{number:03d}.png")


@pytest.fixture(scope="session")
def tiny_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A packed dataset `tiny` with the splits train (22 samples in several shards) and val (5)."""
    root = tmp_path_factory.mktemp("tiny")
    pack_tiny(root, Stores().open(str(root / "packed")))
    return str(root / "packed")


def pack_tiny(root: Path, store: Store) -> None:
    """Pack the dataset of `tiny_uri` into a store; `root` is for the raw files."""
    for split, count in (("train", 22), ("val", 5)):
        write_raw_folders(root / split, count, seed=count)
        names = [f"{number:03d}.png" for number in range(count)]
        (root / split / f"{split}.txt").write_text("\n".join(names))
        pack("folders", root / split, store, split, name="tiny", shard_bytes=30_000)


TINY_CLASSES = [
    {"name": f"band {index}", "colour": [60 * index, 90, 200], "ids": {"tiny": [index]}}
    for index in range(4)
]


@pytest.fixture
def tiny_job(tiny_uri: str, tmp_path: Path) -> dict[str, Any]:
    """A complete job spec, as plain values, that trains on `tiny` within seconds."""
    return tiny_values(tiny_uri, str(tmp_path / "runs"))


def tiny_values(tiny_uri: str, runs_uri: str) -> dict[str, Any]:
    """The values of `tiny_job` for data and runs that lie elsewhere."""
    domain = {"dataset": "tiny", "uri": tiny_uri, "batch_size": 2, "size_hw": list(TINY_HW)}
    model = {"architecture": "deeplab_v2", "encoder": "test_resnet", "output_stride": 16}
    return {
        "name": "tiny",
        "classes": TINY_CLASSES,
        "source": {**domain, "augment": {"flip": 0.5, "brightness": 0.2}},
        "target": domain,
        "validation": {"dataset": "tiny", "uri": tiny_uri, "split": "val"},
        "model": {**model, "weights": "none", "norm": "frozen_affine"},
        "method": {**small_method("advent"), "weight_adv": [0.01, 0.002]},
        "train": {"steps": 6, "log_every_steps": 1},
        "evaluate": {"every_steps": 3, "pictures": 1},
        "checkpoint": {"uri": runs_uri},
        "tracking": {"experiment": "tests"},
    }


def small_method(name: str) -> dict[str, Any]:
    """The section of a method; a discriminator of the default width takes more time than all else
    of a tiny job."""
    narrow = "discriminator_width" in METHODS[name].Config.model_fields
    return {"name": name} | ({"discriminator_width": 4} if narrow else {})
