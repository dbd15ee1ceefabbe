"""More rows of `DATASETS`: street datasets, and one of land cover, as their owners ship them.

Sources of the layouts: the download pages and readmes of ACDC and Dark Zurich (ETH), BDD100K,
Mapillary Vistas 1.2, IDD with AutoNUE's labels, KITTI's semantics (cvlibs), Synscapes, UrbanSyn,
Virtual KITTI 2 (Naver), CARLA's semantic camera, SHIFT's toolkit, LoveDA. Ids: `street_ids.py`.
"""

from collections.abc import Mapping
from functools import partial

from adapt.batch import IGNORED
from adapt.data.colours import RGB, ColouredClass, ColourTable
from adapt.data.raw_files import AS_NAMED, Find, find_listed, find_matching
from adapt.data.raw_labels import read_colours, read_ids, read_red_ids
from adapt.data.raw_layout import RawLayout, ReadLabel

CITYSCAPES_IDS = frozenset(range(34))
TRAIN_IDS = frozenset((*range(19), IGNORED))

VKITTI2_COLOURS: tuple[tuple[str, RGB], ...] = (
    ("Undefined", (0, 0, 0)),
    ("Terrain", (210, 0, 200)),
    ("Sky", (90, 200, 255)),
    ("Tree", (0, 199, 0)),
    ("Vegetation", (90, 240, 0)),
    ("Building", (140, 140, 140)),
    ("Road", (100, 60, 100)),
    ("GuardRail", (250, 100, 255)),
    ("TrafficSign", (255, 255, 0)),
    ("TrafficLight", (200, 200, 0)),
    ("Pole", (255, 130, 0)),
    ("Misc", (80, 80, 80)),
    ("Truck", (160, 60, 60)),
    ("Car", (255, 127, 80)),
    ("Van", (0, 139, 139)),
)
"""Virtual KITTI 2's classes and colours; the place in the list is the id."""
VKITTI2_TABLE = ColourTable(
    ColouredClass(name, colour, number) for number, (name, colour) in enumerate(VKITTI2_COLOURS)
)

OFFICIAL = {"train": ("training",), "val": ("validation",), "test": ("testing",)}
"""Names of splits in Mapillary Vistas and KITTI."""
LOVEDA = {
    "train": ("Train/Urban", "Train/Rural"),
    "val": ("Val/Urban", "Val/Rural"),
    "test": ("Test/Urban", "Test/Rural"),
    **{
        f"{split}_{domain}": (f"{split.capitalize()}/{domain.capitalize()}",)
        for split in ("train", "val", "test")
        for domain in ("urban", "rural")
    },
}
"""LoveDA's splits, and those of one of its two domains."""


def row(
    summary: str,
    splits: tuple[str, ...],
    known_ids: frozenset[int],
    images: tuple[str, ...],
    labels: tuple[str, ...],
    read_label: ReadLabel = read_ids,
    named: Mapping[str, tuple[str, ...]] = AS_NAMED,
) -> RawLayout:
    """A layout whose files fit patterns (`find_matching`). A dataset whose patterns have no split
    takes lists of its images."""
    find_images: Find = find_matching(*images, splits=named)
    has_splits = any("SPLIT" in one for one in images)
    return RawLayout(
        summary=summary,
        splits=splits,
        known_ids=known_ids,
        find_images=find_images if has_splits else find_listed(find_images),
        find_labels=find_matching(*labels, splits=named),
        read_label=read_label,
    )


STREET_DATASETS: dict[str, RawLayout] = {
    "acdc": row(
        "rgb_anon/CONDITION/SPLIT/SEQUENCE/*_rgb_anon.png, gt/.../*_gt_labelIds.png",
        ("train", "val", "test", "train_ref", "val_ref", "test_ref"),
        CITYSCAPES_IDS,
        ("rgb_anon/*/SPLIT/*/*_rgb_anon.png", "rgb_anon/*/SPLIT/*/*_rgb_ref_anon.png"),
        ("gt/*/SPLIT/*/*_gt_labelIds.png",),
    ),
    "dark_zurich": row(
        "rgb_anon/SPLIT/TIME/SEQUENCE/*_rgb_anon.png, gt/.../*_gt_labelIds.png",
        ("train", "val", "val_ref", "test"),
        CITYSCAPES_IDS,
        ("rgb_anon/SPLIT/*/*/*_rgb_anon.png",),
        ("gt/SPLIT/*/*/*_gt_labelIds.png",),
    ),
    "bdd100k": row(
        "images/10k/SPLIT/*.jpg, labels/sem_seg/masks/SPLIT/*.png, with or without bdd100k/ before",
        ("train", "val", "test"),
        TRAIN_IDS,
        ("images/10k/SPLIT/*.jpg", "bdd100k/images/10k/SPLIT/*.jpg"),
        ("labels/sem_seg/masks/SPLIT/*.png", "bdd100k/labels/sem_seg/masks/SPLIT/*.png"),
    ),
    "mapillary_vistas": row(
        "training/images/*.jpg, training/v1.2/labels/*.png, and validation/, testing/",
        ("train", "val", "test"),
        frozenset(range(66)),
        ("SPLIT/images/*.jpg",),
        ("SPLIT/v1.2/labels/*.png",),
        named=OFFICIAL,
    ),
    "idd": row(
        "leftImg8bit/SPLIT/DRIVE/*_leftImg8bit.png (or .jpg), gtFine/.../*_gtFine_labelcsTrainIds"
        ".png, which AutoNUE's createLabels.py writes",
        ("train", "val", "test"),
        TRAIN_IDS,
        ("leftImg8bit/SPLIT/*/*_leftImg8bit.IMG",),
        ("gtFine/SPLIT/*/*_gtFine_labelcsTrainIds.png",),
    ),
    "kitti": row(
        "training/image_2/*.png, training/semantic/*.png, testing/image_2/*.png",
        ("train", "test"),
        CITYSCAPES_IDS,
        ("SPLIT/image_2/*.png",),
        ("SPLIT/semantic/*.png",),
        named=OFFICIAL,
    ),
    "synscapes": row(
        "img/rgb/*.png (or img/rgb-2k), img/class/*.png",
        ("train",),
        CITYSCAPES_IDS,
        ("img/rgb/*.png", "img/rgb-2k/*.png"),
        ("img/class/*.png",),
    ),
    "urbansyn": row(
        "rgb/rgb_*.png, ss/ss_*.png",
        ("train",),
        frozenset(range(20)),
        ("rgb/rgb_*.png",),
        ("ss/ss_*.png",),
    ),
    "vkitti2": row(
        "SCENE/VARIATION/frames/rgb/CAMERA/rgb_*.jpg, .../classSegmentation/CAMERA/classgt_*.png",
        ("train",),
        frozenset(range(len(VKITTI2_COLOURS))),
        ("*/*/frames/rgb/*/rgb_*.jpg",),
        ("*/*/frames/classSegmentation/*/classgt_*.png",),
        partial(read_colours, colours=VKITTI2_TABLE),
    ),
    "carla": row(
        "rgb/*.png, semantic/*.png of one frame number (the semantic camera's images, unconverted)",
        ("train",),
        frozenset(range(29)),
        ("rgb/*.png",),
        ("semantic/*.png",),
        read_red_ids,
    ),
    "shift": row(
        "discrete/images/SPLIT/front/img/SEQUENCE/*_img_front.jpg, .../semseg/.../*_semseg_front"
        ".png",
        ("train", "val", "test"),
        frozenset(range(23)),
        ("discrete/images/SPLIT/front/img/*/*_img_front.jpg",),
        ("discrete/images/SPLIT/front/semseg/*/*_semseg_front.png",),
        read_red_ids,
    ),
    "loveda": row(
        "Train/Urban/images_png/*.png, Train/Urban/masks_png/*.png, and Rural/, Val/, Test/",
        tuple(LOVEDA),
        frozenset(range(8)),
        ("SPLIT/images_png/*.png",),
        ("SPLIT/masks_png/*.png",),
        named=LOVEDA,
    ),
}
"""Of ACDC and Dark Zurich also the reference images (`_ref`), which have no labels."""
