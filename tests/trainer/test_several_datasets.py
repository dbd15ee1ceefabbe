"""Jobs on several sources and targets: label maps of their own, exact resume, every fault at its
dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapt.check import Subject
from adapt.check.data import check_split, parts_of
from adapt.data.packed.mixture import Mixture
from adapt.data.writing.pack import pack
from adapt.errors import DataError
from adapt.places import Place
from adapt.trainer.opening import open_job
from storage.stores import open_store
from tests.check.subjects import assert_green, assert_red
from tests.conftest import TINY_CLASSES, small_method, write_raw_folders
from tests.trainer.jobs import job_of, stopped_and_calm


@pytest.fixture
def several(tiny_job: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The tiny job with a second source and target, `other`: the same 22 images, whose labels have
    ids 13 to 10 for the classes 0 to 3."""
    write_raw_folders(tmp_path / "raw", 22, seed=22)
    for path in (tmp_path / "raw" / "labels").glob("*.png"):
        Image.fromarray(13 - np.asarray(Image.open(path))).save(path)
    pack("folders", tmp_path / "raw", open_store(str(tmp_path / "other")), "train", name="other")
    ids = [{"tiny": [index], "other": [13 - index]} for index in range(4)]
    classes = [{**one, "ids": both} for one, both in zip(TINY_CLASSES, ids, strict=True)]
    other = {"dataset": "other", "uri": str(tmp_path / "other")}
    return {
        **tiny_job,
        "classes": classes,
        "source": [{**tiny_job["source"], "weight": 2}, {**tiny_job["source"], **other}],
        "target": [tiny_job["target"], {**tiny_job["target"], **other, "weight": 3}],
        "train": {"steps": 4, "log_every_steps": 1},
    }


def test_each_dataset_has_its_own_label_map(several: dict[str, Any], place: Place) -> None:
    with open_job(job_of(several), place) as opened:
        source, target = opened.data.source, opened.data.target
        assert isinstance(source, Mixture) and isinstance(target, Mixture)
        one, other = source.parts
        places = {other.key(row): row for row in range(22)}
        for row in range(0, 22, 7):
            expected, found = one.read(row), source.read(22 + places[one.key(row)])
            assert expected.labels is not None and found.labels is not None
            assert found.labels.equal(expected.labels) and found.image.equal(expected.image)
            assert set(found.labels.unique().tolist()) == {0, 1, 2, 3}
        assert target.read(30).labels is None and target.shares == (0.25, 0.75)
        pixels = source.label_pixels(4)
        assert pixels[:22].sum() == pytest.approx(2 * pixels[22:].sum())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dacs", "advent"])
def test_a_stopped_job_ends_bit_identical(
    several: dict[str, Any], place: Place, tmp_path: Path, method: str
) -> None:
    rare = {"sampling": "rare_classes", "rare_class_min_pixels": 100}
    values = {**several, "method": small_method(method), "stream": rare}
    stopped_and_calm(values, place, tmp_path, stops=(2,))


def test_check_names_the_dataset_that_has_a_fault(several: dict[str, Any], place: Place) -> None:
    one = Subject(job_of(several, "target[1].labelled_keys=['001']"), place)
    names = ["source.0", "source.1", "labelled target.1", "target.0", "target.1", "validation"]
    assert [part.name for part in parts_of(one.job)] == names
    assert_green(check_split(one, "source.1").findings, "source.1", "22 samples of other")
    assert_green(check_split(one, "source.1").findings, "source.1 classes", "pixels of 4 classes")
    wrong = Subject(job_of(several, "source[1].split=absent", "target[1].dataset=tiny"), place)
    assert_green(check_split(wrong, "source.0").findings, "source.0", "22 samples of tiny")
    assert_red(check_split(wrong, "source.1").findings, "source.1", 4, "other/absent")
    assert_red(check_split(wrong, "target.1").findings, "target.1", 4, "shards packed as 'other'")


def test_a_source_without_any_of_the_classes_is_named(
    several: dict[str, Any], place: Place
) -> None:
    classes = [
        {**one, "ids": {"tiny": one["ids"]["tiny"], "other": [one["ids"]["other"][0] + 50]}}
        for one in several["classes"]
    ]
    with (
        pytest.raises(DataError, match=r"/other: expected pixels of the job's classes, got none"),
        open_job(job_of({**several, "classes": classes}), place),
    ):
        pass
