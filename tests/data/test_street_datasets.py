"""The street datasets: patterns of files, reference images, domains, classes of their ids."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.data.datasets import DATASETS
from adapt.data.label_maps import CITYSCAPES_ROWS, LABEL_SPACES
from adapt.data.street_datasets import VKITTI2_COLOURS
from adapt.data.street_ids import CLASSES, STREET_IDS
from adapt.errors import DataError

MakeRaw = Callable[..., Path]


def names(separator: str, text: str) -> list[str]:
    """The owners' names in the order of ids."""
    return text.split(separator)


MAPILLARY = names(
    ", ",
    "bird, ground animal, curb, fence, guard rail, barrier, wall, bike lane, crosswalk plain, curb "
    "cut, parking, pedestrian area, rail track, road, service lane, sidewalk, bridge, building, "
    "tunnel, person, bicyclist, motorcyclist, other rider, marking crosswalk, marking general, "
    "mountain, sand, sky, snow, terrain, vegetation, water, banner, bench, bike rack, billboard, "
    "catch basin, cctv camera, fire hydrant, junction box, mailbox, manhole, phone booth, pothole, "
    "street light, pole, traffic sign frame, utility pole, traffic light, sign back, sign front, "
    "trash can, bicycle, boat, bus, car, caravan, motorcycle, on rails, other vehicle, trailer, "
    "truck, wheeled slow, car mount, ego vehicle, unlabeled",
)
CARLA = names(
    " ",
    "unlabeled roads sidewalks building wall fence pole trafficlight trafficsign vegetation "
    "terrain sky pedestrian rider car truck bus train motorcycle bicycle static dynamic other "
    "water roadline ground bridge railtrack guardrail",
)
SHIFT = names(
    " ",
    "unlabeled building fence other pedestrian pole roadline road sidewalk vegetation vehicle wall "
    "trafficsign sky ground bridge railtrack guardrail trafficlight static dynamic water terrain",
)
NAMES = {
    "mapillary_vistas": MAPILLARY,
    "carla": CARLA,
    "shift": SHIFT,
    "vkitti2": [name.lower() for name, _ in VKITTI2_COLOURS],
}
"""The owners' names in the order of ids."""
MEANT = {
    "road": "road|roads|roadline|bike lane|crosswalk plain|service lane|marking .*|manhole|pothole",
    "sidewalk": "sidewalks?|curb|curb cut|pedestrian area",
    "pole": "pole|utility pole",
    "traffic light": "traffic ?light",
    "traffic sign": "traffic ?sign|sign front",
    "vegetation": "vegetation|tree",
    "terrain": "terrain|sand",
    "person": "person|pedestrian",
    "rider": "rider|bicyclist|motorcyclist|other rider",
    "car": "car|van|vehicle",
    "train": "train|on rails",
}
"""A class of Cityscapes -> the owners' names that are it; others are their own."""


@pytest.mark.parametrize("dataset", NAMES)
def test_ids_are_of_classes_that_mean_the_same(dataset: str) -> None:
    owners = NAMES[dataset]
    known = DATASETS[dataset].known_ids
    assert known is not None and len(owners) == len(known)
    for one, ids in STREET_IDS[dataset].items():
        meant = MEANT.get(one, one)
        expected = {number for number, name in enumerate(owners) if re.fullmatch(meant, name)}
        assert set(ids) == expected, one
    assert set(STREET_IDS[dataset]) <= set(CLASSES)


def test_train_ids_are_cityscapes_order() -> None:
    assert tuple(name for name, _, _ in CITYSCAPES_ROWS) == CLASSES
    space = LABEL_SPACES["cityscapes19"]
    for dataset in ("bdd100k", "idd", "urbansyn"):
        assert space.ids[dataset] == {number: number for number in range(19)}
    for dataset in ("acdc", "dark_zurich", "kitti", "synscapes"):
        assert space.ids[dataset] == space.ids["cityscapes"]
    sixteen = LABEL_SPACES["cityscapes16"]
    assert sixteen.ids["idd"][18] == 15 and 9 not in sixteen.ids["idd"]


def test_keys_have_what_tells_two_files_apart(make_raw: MakeRaw) -> None:
    keys = {name: DATASETS[name].pairs(make_raw(name, 1), "train")[0].key for name in DATASETS}
    assert keys["acdc"] == "fog_GOPR0475_GOPR0475_frame_00000"
    assert keys["vkitti2"] == "Scene01_15-deg-left_Camera_0_00000"
    assert keys["shift"] == "0003-17fb_00000" and keys["kitti"] == "00000"


def test_reference_images_are_splits_without_labels(make_raw: MakeRaw) -> None:
    raw_dir = make_raw("acdc", 1)
    path = raw_dir / "rgb_anon/fog/train_ref/GOPR0475/GOPR0475_frame_000020_rgb_ref_anon.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(path)
    (one,) = DATASETS["acdc"].pairs(raw_dir, "train_ref", unlabelled=True)
    assert one.image_path == path and one.label_path is None


def test_domains_of_loveda_are_splits_of_their_own(make_raw: MakeRaw) -> None:
    raw_dir = make_raw("loveda", 2)
    for kind in ("images_png", "masks_png"):
        (raw_dir / "Train/Rural" / kind).mkdir(parents=True)
        moved = raw_dir / "Train/Urban" / kind / "00001.png"
        moved.rename(raw_dir / "Train/Rural" / kind / "00001.png")
    layout = DATASETS["loveda"]
    keys = {s: [one.key for one in layout.pairs(raw_dir, s)] for s in ("train", "train_rural")}
    assert keys == {"train": ["00000", "00001"], "train_rural": ["00001"]}


def test_other_files_are_counted(make_raw: MakeRaw) -> None:
    raw_dir = make_raw("bdd100k", 1)
    (raw_dir / "bdd100k/images/10k/train/other.webp").touch()
    left_out = DATASETS["bdd100k"].find(raw_dir, "train").notes.left_out
    assert left_out["files that are not *.jpg"] == 1


def test_unknown_colours_of_virtual_kitti_are_named(make_raw: MakeRaw) -> None:
    layout = DATASETS["vkitti2"]
    path = layout.pairs(make_raw("vkitti2", 1), "train")[0].label_path
    assert path is not None
    Image.new("RGB", (4, 4), (255, 100, 255)).save(path)
    with pytest.raises(DataError, match=r"1 unknown colour: \(255, 100, 255\) .*'GuardRail'"):
        layout.read_label(path)


def test_single_channel_tags_are_read_too(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(ids).save(tmp_path / "a.png")
    assert np.array_equal(DATASETS["shift"].read_label(tmp_path / "a.png"), ids)
