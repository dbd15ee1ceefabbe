"""Exports of annotation tools: hand-built ones in the tools' documented forms, and the way back of
every format that we write."""

import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from adapt.data.annotations.annotated import Annotated, ClassTable
from adapt.data.annotations.coco import decode_counts, encode_counts, long_form
from adapt.data.annotations.formats import ANNOTATIONS, as_folders, key_of_name
from adapt.data.annotations.label_studio import decode_mask, encode_mask
from adapt.data.annotations.masks import labelmap
from adapt.data.writing.pack import pack
from adapt.errors import DataError, JobError
from storage.stores import open_store

CLASSES = ClassTable(("road", "car, parked"), ((128, 64, 128), (0, 0, 142)), (7, 26))
LABELS = np.array([[0, 0, 1], [255, 1, 1]], np.uint8)
IDS = [[7, 7, 26], [255, 26, 26]]


def export_of(folder: Path, name: str = "a_01.png") -> Path:
    """A folder as `suggest` leaves it, with an empty export/."""
    (folder / "images").mkdir(parents=True)
    (folder / "export").mkdir()
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(folder / "images" / name)
    (folder / "ids.csv").write_text(CLASSES.text())
    return folder


def labels_of(layout: str, folder: Path) -> list[list[int]]:
    """The ids of the one label that an export has."""
    with as_folders(layout, folder, "few") as (packed_as, raw):
        assert packed_as == "folders"
        (path,) = (raw / "few" / "labels").iterdir()
        with Image.open(path) as picture:
            assert (raw / "few" / "images" / path.name).is_file()
            found: list[list[int]] = np.asarray(picture).tolist()
            return found


@pytest.mark.parametrize("layout", ANNOTATIONS)
def test_every_format_comes_back(layout: str, tmp_path: Path) -> None:
    folder = export_of(tmp_path / "few")
    ANNOTATIONS[layout].write(folder / "export", CLASSES, [Annotated("a_01.png", LABELS)])
    if layout == "label_studio":
        accept(folder / "export" / "label_studio.json")
    assert labels_of(layout, folder) == IDS


def accept(path: Path) -> None:
    """As a person does who submits the predictions unchanged."""
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] = task.pop("predictions")
    path.write_text(json.dumps(tasks))


@pytest.mark.parametrize("layout", ANNOTATIONS)
def test_pack_reads_every_format(layout: str, tmp_path: Path) -> None:
    folder = export_of(tmp_path / "few")
    ANNOTATIONS[layout].write(folder / "export", CLASSES, [Annotated("a_01.png", LABELS)])
    if layout == "label_studio":
        accept(folder / "export" / "label_studio.json")
    store = open_store(str(tmp_path / "packed"))
    with as_folders(layout, folder, "few") as (packed_as, raw):
        manifest = pack(packed_as, raw, store, "few", name="camera")
    assert manifest.num_samples == 1 and manifest.id_pixels == {7: 2, 26: 3, 255: 1}


def test_cvat_as_its_manual_shows_it(tmp_path: Path) -> None:
    """docs.cvat.ai, Segmentation Mask: palette or RGB, a folder in the archive or none."""
    folder = export_of(tmp_path / "few")
    picture = Image.fromarray(np.array([[1, 1, 2], [0, 2, 2]], np.uint8))
    picture.putpalette([0, 0, 0, 128, 64, 128, 0, 0, 142])
    picture.save(tmp_path / "mask.png")
    with ZipFile(folder / "export" / "task_7.zip", "w") as archive:
        archive.writestr(
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar, parked:0,0,142::\n"
            "road:128,64,128::\n",
        )
        archive.writestr("ImageSets/Segmentation/default.txt", "a_01\n")
        archive.write(tmp_path / "mask.png", "SegmentationClass/a_01.png")
    assert labels_of("cvat", folder) == IDS
    assert labelmap(CLASSES).splitlines()[1:] == [
        "background:0,0,0::",
        "road:128,64,128::",
        "car, parked:0,0,142::",
    ]


def test_the_run_lengths_of_label_studio_are_those_of_a_real_export() -> None:
    """A public export of a picture of 3332 x 2527 pixels begins so: its size, words of 8 bits,
    counts of 3, 4, 8 or 16 bits, then 65536 zeros."""
    empty = encode_mask(np.zeros((2527, 3332), bool))
    assert empty[:10] == [2, 1, 233, 240, 57, 27, 255, 255, 255, 0]


def test_runs_that_are_not_repeated_are_read() -> None:
    """1 x 2 pixels by hand: 8 values, words of 8 bits, counts of 4 bits, one run of 8 words."""
    bits = f"{8:032b}{7:05b}" + f"{3:04b}" * 4 + "0" + "00" + f"{7:04b}"
    bits += f"{0:08b}" * 4 + f"{255:08b}" * 4
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    assert decode_mask(data, (1, 2)).tolist() == [[False, True]]
    with pytest.raises(ValueError, match="not height x width"):
        decode_mask(data, (2, 2))
    with pytest.raises(ValueError, match="ends early"):
        decode_mask(data[:-3], (1, 2))


def test_label_studio_takes_the_last_annotation_that_was_not_skipped(tmp_path: Path) -> None:
    folder = export_of(tmp_path / "few")

    def annotation(cancelled: bool, *classes: tuple[str, int]) -> dict[str, object]:
        value = [
            {
                "type": "brushlabels",
                "original_width": 3,
                "original_height": 2,
                "value": {"rle": encode_mask(number == LABELS), "brushlabels": [name]},
            }
            for name, number in classes
        ]
        return {"was_cancelled": cancelled, "result": value}

    tasks = [
        {
            "data": {"image": "/data/upload/3/0a1b2c3d-a_01.png"},
            "annotations": [
                annotation(False, ("car, parked", 0)),
                annotation(False, ("road", 0), ("car, parked", 1)),
                annotation(True, ("road", 1)),
            ],
        },
        {"data": {"image": "other.png"}, "annotations": []},
    ]
    (folder / "export" / "project-1.json").write_text(json.dumps(tasks))
    assert labels_of("label_studio", folder) == IDS


def test_run_lengths_of_coco_by_hand() -> None:
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    assert encode_counts(mask) == [2, 1, 1, 2]
    assert decode_counts([2, 1, 1, 2], (2, 3)).tolist() == mask.tolist()
    assert encode_counts(~mask) == [0, 2, 1, 1, 2]
    with pytest.raises(ValueError, match="7 pixels"):
        decode_counts([2, 5], (2, 3))


def test_the_short_form_of_run_lengths_by_hand() -> None:
    """A character has 48 + 5 bits and a bit for more; the fourth count is a difference."""
    assert long_form("2342") == [2, 3, 4, 3 + 2]
    assert long_form("4231") == [4, 2, 3, 2 + 1]
    assert long_form("P40") == [4 * 32, 0]
    assert long_form("5552" + "O") == [5, 5, 5, 7, 4]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=9))
def test_masks_come_back(rows: list[list[bool]]) -> None:
    mask = np.array(rows)
    assert (decode_counts(encode_counts(mask), mask.shape) == mask).all()
    assert (decode_mask(encode_mask(mask), mask.shape) == mask).all()


def test_long_runs_are_split() -> None:
    mask = np.zeros((300, 200), bool)
    mask[150:] = True
    assert (decode_mask(encode_mask(mask), mask.shape) == mask).all()


def test_coco_as_tools_export_it_with_polygons(tmp_path: Path) -> None:
    folder = export_of(tmp_path / "few")
    content = {
        "images": [{"id": 5, "file_name": "sub/a_01.png", "height": 2, "width": 3}],
        "categories": [{"id": 3, "name": "road"}, {"id": 9, "name": "car, parked"}],
        "annotations": [
            {"image_id": 5, "category_id": 3, "segmentation": [[0, 0, 2, 0, 2, 0, 0, 0]]},
            {
                "image_id": 5,
                "category_id": 9,
                "segmentation": {"size": [2, 3], "counts": "330"},
            },
        ],
    }
    (folder / "export" / "instances_default.json").write_text(json.dumps(content))
    assert labels_of("coco", folder) == [[7, 7, 26], [255, 26, 26]]


def test_panoptic_segments_of_several_bytes(tmp_path: Path) -> None:
    """COCO's own ids are R + 256 G + 65536 B."""
    folder = export_of(tmp_path / "few")
    segments = np.array([[70000, 70000, 300], [0, 300, 300]])
    rgb = np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=-1)
    (folder / "export" / "panoptic_val").mkdir()
    Image.fromarray(rgb.astype(np.uint8)).save(folder / "export" / "panoptic_val" / "a_01.png")
    content = {
        "images": [{"id": 1, "file_name": "a_01.jpg"}],
        "categories": [{"id": 1, "name": "car, parked"}, {"id": 2, "name": "road"}],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "a_01.png",
                "segments_info": [{"id": 70000, "category_id": 2}, {"id": 300, "category_id": 1}],
            }
        ],
    }
    (folder / "export" / "panoptic_val.json").write_text(json.dumps(content))
    assert labels_of("coco_panoptic", folder) == IDS


def test_names_of_uploads() -> None:
    assert key_of_name("0a1b2c3d-a_01.png", ["a_01"]) == "a_01"
    assert key_of_name("a-b.png", ["a-b", "b"]) == "a-b"
    assert key_of_name("c.png", ["a"]) is None


@pytest.mark.parametrize("layout", ANNOTATIONS)
def test_an_export_that_is_missing_or_of_another_kind_is_refused(
    layout: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"ids.csv: expected the table of classes, got none"):
        labels_of(layout, tmp_path)
    folder = export_of(tmp_path / "few")
    with pytest.raises(DataError, match=r"expected .*, got (none|0 annotated images)"):
        labels_of(layout, folder)
    (folder / "export").rmdir()
    with pytest.raises(DataError, match="expected the folder with the tool's export, got none"):
        labels_of(layout, folder)


@pytest.mark.parametrize("layout", ["label_studio", "coco", "coco_panoptic"])
def test_a_file_of_another_form_is_refused(layout: str, tmp_path: Path) -> None:
    folder = export_of(tmp_path / "few")
    (folder / "export" / "a.json").write_text('[{"annotations": [{"result": 5}]}]')
    with pytest.raises(DataError, match="got another file"):
        labels_of(layout, folder)
    (folder / "export" / "a.json").write_text("{")
    with pytest.raises(DataError, match="name the layout of the export: annotated_png, cvat"):
        labels_of(layout, folder)


def test_classes_and_images_that_the_folder_does_not_have(tmp_path: Path) -> None:
    folder = export_of(tmp_path / "few")
    other = ClassTable(("rood", "car"), CLASSES.colours, CLASSES.ids)
    ANNOTATIONS["coco"].write(folder / "export", other, [Annotated("a_01.png", LABELS)])
    with pytest.raises(DataError, match=r"expected a class of ids.csv, got 'rood'; did you mean"):
        labels_of("coco", folder)
    ANNOTATIONS["coco"].write(folder / "export", CLASSES, [Annotated("b.png", LABELS)])
    with pytest.raises(DataError, match=r"expected annotations of images in images/, got 'b.png'"):
        labels_of("coco", folder)
    (folder / "export" / "coco.json").unlink()
    Image.fromarray(np.full((2, 3), 9, np.uint8)).save(folder / "export" / "a_01.png")
    with pytest.raises(DataError, match=r"expected ids of ids.csv and 255, got 9"):
        labels_of("annotated_png", folder)
    (folder / "export" / "bad.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="expected a zip archive"):
        labels_of("cvat", folder)


def test_a_black_class_cannot_go_to_cvat(tmp_path: Path) -> None:
    black = ClassTable(("road", "car"), ((0, 0, 0), (1, 1, 1)), (0, 1))
    with pytest.raises(JobError, match="colours other than black, CVAT's background, got it for"):
        ANNOTATIONS["cvat"].write(tmp_path, black, [])


def test_plain_files_are_the_ids_of_the_dataset(tmp_path: Path) -> None:
    ANNOTATIONS["annotated_png"].write(tmp_path, CLASSES, [Annotated("a.jpg", LABELS)])
    with Image.open(tmp_path / "png" / "a.png") as picture:
        assert np.asarray(picture).tolist() == IDS
