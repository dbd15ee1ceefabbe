"""Statistics and pictures of a packed split. Printing is the command line's."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.data.packed.codecs import Pixels, decode_image, decode_label
from adapt.data.packed.index import Index
from adapt.data.packed.manifest import Manifest
from adapt.data.packed.split_files import read_manifest
from storage.store import Store

MARGIN_PX = 4


@dataclass(frozen=True)
class Inspection:
    """A packed split in numbers. Sizes are (height, width) in pixels; shares are of all labelled
    pixels, summing to 1.

    `class_shares` is None without labels, and where neither the labels are train ids nor a label
    space was given; it has one more entry, `ignored`.
    """

    manifest: Manifest
    num_samples: int
    num_shards: int
    size_bytes: int
    min_hw: tuple[int, int]
    median_hw: tuple[int, int]
    max_hw: tuple[int, int]
    id_shares: dict[int, float]
    class_shares: dict[str, float] | None
    samples_with_id: dict[int, int]


def inspect(store: Store, split: str, label_space: LabelSpace | None = None) -> Inspection:
    """Count a packed split from its manifest and index alone. Raises as `read_manifest` and
    `LabelSpace.table`, and `DataError` for labels that are train ids of another label space.
    """
    manifest, index = read_manifest(store, split)
    legend = legend_of(manifest, label_space, f"{store.uri}/{split}")
    total = sum(manifest.id_pixels.values())
    id_shares = (
        {identity: pixels / total for identity, pixels in manifest.id_pixels.items()}
        if total
        else {}
    )
    return Inspection(
        manifest=manifest,
        num_samples=manifest.num_samples,
        num_shards=len(manifest.shards),
        size_bytes=sum(shard.size_bytes for shard in manifest.shards),
        min_hw=(int(index.height_px.min()), int(index.width_px.min())),
        median_hw=(int(np.median(index.height_px)), int(np.median(index.width_px))),
        max_hw=(int(index.height_px.max()), int(index.width_px.max())),
        id_shares=id_shares,
        class_shares=class_shares(id_shares, legend) if legend.names and total else None,
        samples_with_id=dict(
            zip(manifest.ids, (index.id_pixels > 0).sum(axis=0).tolist(), strict=True)
        ),
    )


@dataclass(frozen=True)
class Legend:
    """The meaning of ids in stored labels: (256,) uint8 train ids and (256, 3) uint8 RGB of each,
    names of the classes in train-id order. Without classes there are no names and every id has a
    colour, its class's where a label space of the project maps the dataset.
    """

    names: tuple[str, ...]
    table: npt.NDArray[np.uint8]
    colours: Pixels


def legend_of(manifest: Manifest, label_space: LabelSpace | None, uri: str) -> Legend:
    """The legend of a split's labels: of the classes they were packed with, else of `label_space`,
    else of none.
    """
    packed = manifest.label_space
    if not manifest.labelled or (packed is None and label_space is None):
        return Legend((), np.arange(256, dtype=np.uint8), usual_colours(manifest.dataset))
    if packed is None:
        assert label_space is not None
        table = label_space.table(manifest.dataset)
        return Legend(label_space.names, table, label_space.colour_table()[table])
    space = label_space or LABEL_SPACES.get(packed.name)
    table = manifest.own_table()
    if space is None:
        colours = distinct_colours() * (np.arange(256) < len(packed.classes))[:, None]
        if packed.colours is not None:
            colours[: len(packed.classes)] = packed.colours
        return Legend(packed.classes, table, colours)
    manifest.check_classes(space.names, uri)
    return Legend(packed.classes, table, space.colour_table()[table])


def usual_colours(dataset: str) -> Pixels:
    """(256, 3) uint8 RGB of a dataset's ids: those of the first label space that maps it, where
    there is one; ids without class have a colour of their own.
    """
    colours = distinct_colours()
    for space in LABEL_SPACES.values():
        if dataset in space.datasets:
            for identity, index in space.ids[dataset].items():
                colours[identity] = space.colours[index]
            break
    return colours


def class_shares(id_shares: dict[int, float], legend: Legend) -> dict[str, float]:
    """Shares by stored id -> shares by class, in train-id order, then `ignored`."""
    shares = dict.fromkeys((*legend.names, "ignored"), 0.0)
    for identity, share in id_shares.items():
        train_id = int(legend.table[identity])
        known = train_id < len(legend.names)
        shares[legend.names[train_id] if known else "ignored"] += share
    return shares


def contact_sheet(
    store: Store,
    split: str,
    label_space: LabelSpace | None = None,
    *,
    columns: int = 4,
    count: int = 16,
    width_px: int = 320,
) -> Image.Image:
    """The first samples of a split as one picture: each image, beside it its labels in the classes'
    colours.

    Packed order is a shuffle, so the first ones are a fair sample. Ids of no known class get a
    colour of their own. Raises as `inspect`, and `DataError` for a sample that cannot be
    decoded.
    """
    manifest, index = read_manifest(store, split)
    colours = legend_of(manifest, label_space, f"{store.uri}/{split}").colours
    tiles = [
        sample_tile(*read_sample(store, manifest, index, row), colours, width_px)
        for row in range(min(count, manifest.num_samples))
    ]
    return in_grid(tiles, columns)


def read_sample(
    store: Store, manifest: Manifest, index: Index, row: int
) -> tuple[Pixels, Pixels | None]:
    """One sample by ranged reads: image (H, W, 3) uint8 and labels (H, W) uint8 as stored, or None
    where it has none.
    """
    shard = f"{manifest.split}/{manifest.shards[int(index.shard[row])].name}"
    name = f"{store.uri}/{shard}: {index.keys[row]}"
    image_bytes = store.get_range(
        shard, int(index.image_offset_bytes[row]), int(index.image_length_bytes[row])
    )
    size_hw = (int(index.height_px[row]), int(index.width_px[row]))
    images = decode_image(image_bytes, str(index.suffix[row]), name, size_hw)
    if not manifest.labelled:
        return images, None
    label_bytes = store.get_range(
        shard, int(index.label_offset_bytes[row]), int(index.label_length_bytes[row])
    )
    return images, decode_label(label_bytes, *size_hw, name)


def distinct_colours() -> Pixels:
    """(256, 3) uint8 RGB, all different."""
    golden = np.arange(256)[:, None] * np.array([0.618034, 0.754878, 0.569840])
    return (64 + 191 * (golden % 1)).astype(np.uint8)


def sample_tile(
    images: Pixels, labels: Pixels | None, colours: Pixels, width_px: int
) -> Image.Image:
    """Image and coloured labels side by side, each `width_px` wide."""
    height_px = max(1, round(images.shape[0] * width_px / images.shape[1]))
    picture = Image.fromarray(images).resize((width_px, height_px), Image.Resampling.BILINEAR)
    if labels is None:
        return picture
    coloured = Image.fromarray(colours[labels]).resize(
        (width_px, height_px), Image.Resampling.NEAREST
    )
    tile = Image.new("RGB", (2 * width_px, height_px))
    tile.paste(picture, (0, 0))
    tile.paste(coloured, (width_px, 0))
    return tile


def in_grid(tiles: list[Image.Image], columns: int) -> Image.Image:
    """Tiles row by row on white, each cell as large as the largest tile."""
    cell_width_px = largest(tile.width for tile in tiles) + MARGIN_PX
    cell_height_px = largest(tile.height for tile in tiles) + MARGIN_PX
    columns = max(1, min(columns, len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * cell_width_px, rows * cell_height_px), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * cell_width_px, number // columns * cell_height_px))
    return sheet


def largest(sizes: Iterable[int]) -> int:
    """The greatest of at least one size."""
    return max(sizes)
