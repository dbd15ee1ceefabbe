"""The ids of more street datasets for Cityscapes' 19 classes.

Where an owner publishes no map, a class is mapped by Cityscapes' definitions: road includes its
markings, lanes and manholes; sidewalk includes curbs and pedestrian areas; a van is a car. What
Cityscapes does not score (parking, rail track, bridge, tunnel, guard rail, caravan, trailer, the
back of a sign) is ignored.
"""

from collections.abc import Mapping
from types import MappingProxyType

CITYSCAPES_IDS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("gta5", "acdc", "dark_zurich", "kitti", "synscapes"), "cityscapes")
)
"""Datasets whose label files hold Cityscapes' ids (7 is road)."""

CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
TRAIN_IDS: dict[str, tuple[int, ...]] = {name: (number,) for number, name in enumerate(CLASSES)}
"""Cityscapes' train ids (0 is road)."""

STREET_IDS: dict[str, dict[str, tuple[int, ...]]] = {
    "bdd100k": TRAIN_IDS,
    "idd": TRAIN_IDS,
    "urbansyn": TRAIN_IDS,
    "mapillary_vistas": {
        "road": (13, 7, 8, 14, 23, 24, 41, 43),
        "sidewalk": (15, 2, 9, 11),
        "building": (17,),
        "wall": (6,),
        "fence": (3,),
        "pole": (45, 47),
        "traffic light": (48,),
        "traffic sign": (50,),
        "vegetation": (30,),
        "terrain": (29, 26),
        "sky": (27,),
        "person": (19,),
        "rider": (20, 21, 22),
        "car": (55,),
        "truck": (61,),
        "bus": (54,),
        "train": (58,),
        "motorcycle": (57,),
        "bicycle": (52,),
    },
    "vkitti2": {
        "road": (6,),
        "building": (5,),
        "pole": (10,),
        "traffic light": (9,),
        "traffic sign": (8,),
        "vegetation": (4, 3),
        "terrain": (1,),
        "sky": (2,),
        "car": (13, 14),
        "truck": (12,),
    },
    "carla": {
        "road": (1, 24),
        "sidewalk": (2,),
        "building": (3,),
        "wall": (4,),
        "fence": (5,),
        "pole": (6,),
        "traffic light": (7,),
        "traffic sign": (8,),
        "vegetation": (9,),
        "terrain": (10,),
        "sky": (11,),
        "person": (12,),
        "rider": (13,),
        "car": (14,),
        "truck": (15,),
        "bus": (16,),
        "train": (17,),
        "motorcycle": (18,),
        "bicycle": (19,),
    },
    "shift": {
        "road": (7, 6),
        "sidewalk": (8,),
        "building": (1,),
        "wall": (11,),
        "fence": (2,),
        "pole": (5,),
        "traffic light": (18,),
        "traffic sign": (12,),
        "vegetation": (9,),
        "terrain": (22,),
        "sky": (13,),
        "person": (4,),
        "car": (10,),
    },
}
"""Sources: BDD100K's format page (sem_seg masks are train ids); AutoNUE's labels (csTrainIds);
UrbanSyn's README; Mapillary Vistas 1.2's config (66 labels in this order); Virtual KITTI 2's page
(colours, numbered from Undefined in its order); CARLA 0.9.14's sensor reference; SHIFT's toolkit,
whose one class of vehicles is car here."""
