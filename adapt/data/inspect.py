"""What is in a packed split, in numbers and in pictures. Printing is the command line's."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from adapt.data.codecs import Pixels, decode_image, decode_label
from adapt.data.label_maps import LabelSpace
from adapt.data.manifest import Index, Manifest, read_manifest
from storage.store import Store

MARGIN_PX = 4


@dataclass(frozen=True)
class Inspection:
    """A packed split in numbers. Sizes are (height, width) in pixels; shares are of all labelled
    pixels, summing to 1.

    `class_shares` is None without a label space or labels; it has one more entry, `ignored`.
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
    `LabelSpace.table`.
    """
    manifest, index = read_manifest(store, split)
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
        class_shares=class_shares(manifest.dataset, id_shares, label_space)
        if label_space and total
        else None,
        samples_with_id=dict(
            zip(manifest.ids, (index.id_pixels > 0).sum(axis=0).tolist(), strict=True)
        ),
    )


def class_shares(
    dataset: str, id_shares: dict[int, float], label_space: LabelSpace
) -> dict[str, float]:
    """Shares by id -> shares by class, in train-id order, then `ignored`."""
    table = label_space.table(dataset)
    shares = dict.fromkeys((*label_space.names, "ignored"), 0.0)
    for identity, share in id_shares.items():
        train_id = int(table[identity])
        known = train_id < label_space.num_classes
        shares[label_space.names[train_id] if known else "ignored"] += share
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

    Packed order is a shuffle, so the first ones are a fair sample. Without a label space each id
    gets a colour of its own. Raises as `read_manifest`, and `DataError` for a sample that cannot be
    decoded.
    """
    manifest, index = read_manifest(store, split)
    colours = id_colours(manifest.dataset, label_space) if manifest.labelled else None
    tiles = [
        sample_tile(*read_sample(store, manifest, index, row), colours, width_px)
        for row in range(min(count, manifest.num_samples))
    ]
    return in_grid(tiles, columns)


def read_sample(
    store: Store, manifest: Manifest, index: Index, row: int
) -> tuple[Pixels, Pixels | None]:
    """One sample by ranged reads: image (H, W, 3) uint8 and labels (H, W) uint8 ids, or None where
    it has none.
    """
    shard = f"{manifest.split}/{manifest.shards[int(index.shard[row])].name}"
    name = f"{store.uri}/{shard}: {index.keys[row]}"
    image_bytes = store.get_range(
        shard, int(index.image_offset_bytes[row]), int(index.image_length_bytes[row])
    )
    images = decode_image(image_bytes, str(index.suffix[row]), name)
    if not manifest.labelled:
        return images, None
    label_bytes = store.get_range(
        shard, int(index.label_offset_bytes[row]), int(index.label_length_bytes[row])
    )
    return images, decode_label(
        label_bytes, int(index.height_px[row]), int(index.width_px[row]), name
    )


def id_colours(dataset: str, label_space: LabelSpace | None) -> Pixels:
    """(256, 3) uint8 RGB of each of the dataset's ids; ids that are ignored are black."""
    if label_space is not None:
        return label_space.colour_table()[label_space.table(dataset)]
    golden = np.arange(256)[:, None] * np.array([0.618034, 0.754878, 0.569840])
    return (64 + 191 * (golden % 1)).astype(np.uint8)


def sample_tile(
    images: Pixels, labels: Pixels | None, colours: npt.NDArray[np.uint8] | None, width_px: int
) -> Image.Image:
    """Image and coloured labels side by side, each `width_px` wide."""
    height_px = max(1, round(images.shape[0] * width_px / images.shape[1]))
    picture = Image.fromarray(images).resize((width_px, height_px), Image.Resampling.BILINEAR)
    if labels is None or colours is None:
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
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * cell_width_px, place // columns * cell_height_px))
    return sheet


def largest(sizes: Iterable[int]) -> int:
    """The greatest of at least one size."""
    return max(sizes)
