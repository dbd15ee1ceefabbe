"""Label spaces: the papers' mappings exactly, the YAML table, and its mistakes by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from adapt.batch import IGNORED
from adapt.config.section import Section
from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.errors import JobError

YAML = """
- {name: sky, colour: [70, 130, 180], ids: {airsim: [10], camvid: [0]}}
- {name: building, colour: [70, 70, 70], ids: {airsim: [2, 3], camvid: [1]}}
"""


class Job(Section):
    classes: LabelSpace


def custom(**changes: Any) -> list[dict[str, Any]]:
    classes = yaml.safe_load(YAML)
    classes[1] |= changes
    return classes


def test_cityscapes19_is_the_official_map(shared_dir: Path) -> None:
    golden = np.load(shared_dir / "golden" / "metrics.npz")
    for dataset in ("cityscapes", "gta5"):
        table = LABEL_SPACES["cityscapes19"].table(dataset)
        assert np.array_equal(
            table[golden["cityscapes_map/ids"]], golden["cityscapes_map/trainids"]
        )
        assert (table[34:] == IGNORED).all()


def test_cityscapes19_agrees_with_cityscapes_scripts() -> None:
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    space = LABEL_SPACES["cityscapes19"]
    official = [label for label in labels if 0 <= label.trainId < IGNORED]
    assert len(official) == space.num_classes == 19
    for label in official:
        assert space.names[label.trainId] == label.name
        assert space.colours[label.trainId] == label.color
        assert space.table("cityscapes")[label.id] == label.trainId


def test_cityscapes16_is_dada_s() -> None:
    space = LABEL_SPACES["cityscapes16"]
    synthia = dict(
        zip((3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11), range(16), strict=True)
    )
    cityscapes = (7, 8, 11, 12, 13, 17, 19, 20, 21, 23, 24, 25, 26, 28, 32, 33)
    assert space.ids["synthia"] == synthia
    assert (
        space.ids["cityscapes"]
        == space.ids["gta5"]
        == dict(zip(cityscapes, range(16), strict=True))
    )


@pytest.mark.parametrize("dataset", ["cityscapes", "gta5"])
def test_classes_that_synthia_lacks_are_ignored_by_16(dataset: str) -> None:
    table = LABEL_SPACES["cityscapes16"].table(dataset)
    assert table[[22, 27, 31]].tolist() == [IGNORED] * 3
    assert (table != IGNORED).sum() == 16


def test_synthia_of_19_classes_is_bdl_s() -> None:
    expected = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11}
    expected |= {17: 12, 8: 13, 18: 14, 19: 15, 20: 16, 12: 17, 11: 18}
    assert LABEL_SPACES["cityscapes19"].ids["synthia"] == expected


def test_camvid11() -> None:
    space = LABEL_SPACES["camvid11"]
    assert space.ids["camvid"] == {identity: identity for identity in range(11)}
    assert space.names[0] == "sky" and space.names[10] == "bicyclist"


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_every_space_by_name_and_back(name: str) -> None:
    job = Job(classes=LabelSpace.named(name))
    assert job.model_dump(mode="json") == {"classes": name}
    assert len(set(job.classes.colours)) == len(set(job.classes.names)) == job.classes.num_classes


def test_an_unknown_space_names_the_known() -> None:
    with pytest.raises(
        JobError, match=r"^classes: .*got 'cityscapes9'; did you mean 'cityscapes19'"
    ):
        LabelSpace.named("cityscapes9")


def test_custom_space() -> None:
    job = Job.model_validate({"classes": custom()})
    assert job.classes.names == ("sky", "building")
    table = job.classes.table("airsim")
    assert table.dtype == np.uint8 and table.shape == (256,)
    assert (table[10], table[2], table[3], table[0]) == (0, 1, 1, IGNORED)
    assert job.classes.colour_table()[[0, IGNORED]].tolist() == [[70, 130, 180], [0, 0, 0]]
    assert Job.model_validate(job.model_dump(mode="json")) == job


def test_unknown_dataset_names_the_known() -> None:
    with pytest.raises(JobError, match=r"dataset 'camvit'.*did you mean 'camvid'.*airsim, camvid"):
        Job.model_validate({"classes": custom()}).classes.table("camvit")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (custom(name="sky"), "expected a name for each class, got 'sky' twice"),
        (
            custom(ids={"airsim": [10]}),
            "expected one class for id 10 of 'airsim', got 'sky' and 'building'",
        ),
        (custom(ids={"airsim": [256]}), "less than or equal to 255"),
        (custom(ids={"airsim": ["2"]}), "valid integer"),
        (custom(colour=[0, 0]), "colour"),
        (custom(color=[0, 0, 0]), "Extra inputs are not permitted"),
        (custom()[:1], "expected 2 to 254 classes, got 1"),
    ],
)
def test_mistakes_are_named(classes: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Job.model_validate({"classes": classes})


def test_schema_offers_names_and_a_list() -> None:
    schema = Job.model_json_schema()
    offered = schema["$defs"]["LabelSpace"]["anyOf"]
    assert offered[0]["enum"] == sorted(LABEL_SPACES)
    assert offered[1]["items"]["$ref"].endswith("SegmentationClass")
    assert "SegmentationClass" in schema["$defs"]
