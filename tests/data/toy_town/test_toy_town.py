"""The toy town: what the demo's two domains share (streets, labels) and what they do not (looks),
and its layouts.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.data.toy_town.camera import GAME, camera_look, expose
from adapt.data.toy_town.raster import EDGE_ON, ROAD, SKY, Face, Raster, Viewpoint
from adapt.data.toy_town.shading import shadows
from adapt.data.toy_town.streets import build_town
from adapt.data.toy_town.town import (
    LABEL_COLOURS,
    TOY_CLASSES,
    LookName,
    render_scene,
    write_cityscapes,
    write_gta5,
)

ALLOWED = {label_id for label_ids in TOY_CLASSES.values() for label_id in label_ids}
LOOKS: tuple[LookName, ...] = ("game", "camera")
SMALL = (48, 96)
SHARES = {
    "road": (0.22, 0.40),
    "sidewalk": (0.03, 0.13),
    "building": (0.17, 0.35),
    "pole": (0.005, 0.03),
    "vegetation": (0.06, 0.17),
    "sky": (0.12, 0.28),
    "car": (0.025, 0.11),
}
LEVEL = Viewpoint(x_m=0.0, height_m=1.5, pitch_rad=0.0, yaw_rad=0.0, roll_rad=0.0, focal=1.0)


def plain_road(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    return np.full(x.shape, ROAD, np.int16)


@pytest.mark.parametrize("look", LOOKS)
def test_scene_is_a_pure_function_of_its_arguments(look: LookName) -> None:
    first, again, other = (render_scene(seed, look, SMALL) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("size_hw", [(48, 96), (33, 57), (128, 256)])
def test_shapes_types_and_ids(size_hw: tuple[int, int]) -> None:
    for look in LOOKS:
        image, labels = render_scene(1, look, size_hw)
        assert image.shape == (*size_hw, 3) and image.dtype == np.uint8
        assert labels.shape == size_hw and labels.dtype == np.uint8
        assert set(np.unique(labels)) <= ALLOWED


@pytest.mark.parametrize("seed", range(4))
def test_looks_share_labels_where_they_share_the_viewpoint(seed: int) -> None:
    game, game_labels = render_scene(seed, "game", SMALL, viewpoint="camera")
    camera, camera_labels = render_scene(seed, "camera", SMALL)
    assert np.array_equal(game_labels, camera_labels)
    assert np.abs(game.astype(int) - camera).mean() > 20
    assert not np.array_equal(game_labels, render_scene(seed, "game", SMALL)[1])


def test_labels_are_exact_to_the_pixel() -> None:
    """In the game's look nothing blurs: sky is where blue or white stands, and only there."""
    image, labels = render_scene(2, "game")
    interior = np.ones_like(labels, bool)
    for axis in (0, 1):
        for shift in (-1, 1):
            interior &= np.roll(labels, shift, axis) == labels
    sky = image[interior & (labels == 23)].astype(int)
    road = image[interior & (labels == 7)].astype(int)
    assert (sky[:, 2] >= 225).all() and (sky[:, 2] >= sky[:, 0]).all()
    assert (np.ptp(road, axis=1) <= 30).all()


def test_class_shares_are_those_of_a_street() -> None:
    counts = np.zeros(256)
    for seed in range(20):
        counts += np.bincount(render_scene(seed, LOOKS[seed % 2], SMALL)[1].ravel(), minlength=256)
    shares = {name: counts[list(ids)].sum() / counts.sum() for name, ids in TOY_CLASSES.items()}
    assert sum(shares.values()) == pytest.approx(1)
    for name, (low, high) in SHARES.items():
        assert low <= shares[name] <= high, (name, shares)


def test_gap_zero_is_the_game_and_more_gap_is_farther() -> None:
    game = render_scene(5, "game", SMALL, viewpoint="camera")[0].astype(int)
    none, half, full, beyond = (
        render_scene(5, "camera", SMALL, gap=gap)[0] for gap in (0.0, 0.5, 1.0, 1.5)
    )
    assert np.array_equal(none, game)
    distances = [np.abs(image - game).mean() for image in (none, half, full, beyond)]
    assert distances == sorted(distances) and distances[1] > 5


def test_photographs_differ_in_light_and_the_game_does_not() -> None:
    means = {
        look: [render_scene(seed, look, SMALL)[0].mean((0, 1)) for seed in range(8)]
        for look in LOOKS
    }
    spread = {look: np.std(values, axis=0).mean() for look, values in means.items()}
    assert spread["camera"] > 1.5 * spread["game"]


def test_raster_puts_the_nearer_face_before_the_farther() -> None:
    raster = Raster(LEVEL, (20, 20), plain_road)
    near, far = (Face((-9, 0, z), (18, 0, 0), (0, 18, 0), number) for number, z in ((4, 5), (5, 9)))
    raster.draw([near, far])
    assert (raster.buffers.surfaces[:16] == 4).all() and (
        raster.buffers.surfaces[16:] == ROAD
    ).all()
    assert np.allclose(raster.buffers.inverse_depths[:16], 1 / 5)


def test_raster_places_a_face_where_projection_says() -> None:
    """A square of 1 m, 10 m ahead at eye height, focal length 100 px: 10 px from the middle on."""
    raster = Raster(LEVEL, (100, 100), plain_road)
    raster.draw([Face((0, 1.5, 10), (1, 0, 0), (0, 1, 0), 4)])
    rows, columns = np.nonzero(raster.buffers.surfaces == 4)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 49, 50, 59)
    assert raster.buffers.up[40, 50] == pytest.approx(0.95) and raster.buffers.surfaces[0, 0] == SKY


def test_raster_clips_at_the_camera_and_skips_what_is_behind_or_edge_on() -> None:
    raster = Raster(LEVEL, (40, 40), plain_road)
    empty = raster.buffers.surfaces.copy()
    behind = Face((-1, 0, -5), (2, 0, 0), (0, 3, 0), 4)
    edge_on = Face((0, 0, 2), (0, 0, 5), (0, 3, 0), 4)
    assert abs(np.linalg.det([edge_on.along, edge_on.up, (0, -1.5, 2)])) < EDGE_ON
    raster.draw([behind, edge_on])
    assert np.array_equal(raster.buffers.surfaces, empty)
    raster.draw([Face((2, 0, -5), (0, 0, 60), (0, 30, 0), 4)])
    assert (raster.buffers.surfaces[:20, -1] == 4).all() and not (
        raster.buffers.surfaces[:, :20] == 4
    ).any()


def test_shadows_fall_away_from_the_sun() -> None:
    town = build_town(0)
    trees = [thing for thing in town.casters if thing.shape == "disc"]
    for thing, face in zip(trees, shadows(trees, GAME), strict=True):
        assert face.origin[0] + face.along[0] / 2 > thing.x
        assert face.origin[2] + face.up[2] / 2 > thing.z


def test_camera_adds_noise_and_the_game_does_not() -> None:
    flat = np.full((32, 64, 3), 120, np.float32)
    assert (expose(flat, GAME, 0) == 120).all()
    assert expose(flat, camera_look(0), 0).std() > 1


def test_gta5_layout_reads_back(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_gta5(
        tmp_path, 3, 7, size_hw=SMALL, on_progress=lambda done, total: seen.append((done, total))
    )
    names = ["00001.png", "00002.png", "00003.png"]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == names
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with (
        Image.open(tmp_path / "labels" / names[0]) as labels,
        Image.open(tmp_path / "images" / names[0]) as image,
    ):
        assert labels.mode == "P" and image.mode == "RGB" and labels.size == image.size == (96, 48)
        ids = np.asarray(labels)
        assert set(np.unique(ids)) <= ALLOWED
        colours = np.asarray(labels.convert("RGB"))
    assert tuple(colours[ids == 7][0]) == LABEL_COLOURS[7]


def test_cityscapes_layout_reads_back_and_splits_differ(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, {"train": 2, "val": 2}, 7, size_hw=SMALL)
    write_gta5(tmp_path, 2, 7, size_hw=SMALL)
    stems = [f"toytown_{number:06d}_000019" for number in range(2)]
    pictures = []
    for split in ("train", "val"):
        images = tmp_path / "leftImg8bit" / split / "toytown"
        labels = tmp_path / "gtFine" / split / "toytown"
        assert sorted(path.name for path in images.iterdir()) == [
            f"{s}_leftImg8bit.png" for s in stems
        ]
        assert sorted(path.name for path in labels.iterdir()) == [
            f"{s}_gtFine_labelIds.png" for s in stems
        ]
        for path in sorted(labels.iterdir()):
            with Image.open(path) as picture:
                assert picture.mode == "L" and picture.size == (96, 48)
                pictures.append(np.asarray(picture).tobytes())
    pictures += [np.asarray(Image.open(p)).tobytes() for p in (tmp_path / "labels").iterdir()]
    assert len(set(pictures)) == 6


def test_processes_write_what_one_process_writes(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_gta5(tmp_path / str(workers), 2, 1, size_hw=SMALL, workers=workers)
    for path in sorted((tmp_path / "1").rglob("*.png")):
        twin = tmp_path / "2" / path.relative_to(tmp_path / "1")
        assert path.read_bytes() == twin.read_bytes()


def test_unknown_parts_are_programmer_errors(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="valid"):
        write_cityscapes(tmp_path, {"valid": 1}, 0)
    with pytest.raises(AssertionError):
        render_scene(-1, "game")
