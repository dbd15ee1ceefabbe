"""Predictions as PNG files of the dataset's own label ids, as for Cityscapes' test server.

A file is named after its image, so that the server (and cityscapesScripts) can pair it:
`berlin_000000_000019.png`. The server searches all folders, and refuses a second file of the
same beginning; the names of pictures in the classes' colours therefore begin otherwise.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from adapt.batch import Sample
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import JobError
from adapt.evaluation.inference import (
    WHOLE_IMAGE,
    EnsembleMember,
    InferenceConfig,
    SizeOf,
    members_of,
    predicted_views,
)
from adapt.models.segmenter import Segmenter

Pixels = npt.NDArray[np.uint8]


def write_predictions(
    segmenters: Segmenter | Sequence[EnsembleMember],
    split: PackedSplit,
    out_dir: Path,
    classes: LabelSpace,
    device: torch.device,
    *,
    size_hw: tuple[int, int] | None = None,
    colours: bool = False,
    views: InferenceConfig = WHOLE_IMAGE,
    threads: int = 2,
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
) -> int:
    """Write `OUT_DIR/KEY.png` for each sample of `split`, which needs no labels; returns their
    number.

    `size_hw` in pixels is by default the image's own, where the shards hold that. With `colours`
    also `OUT_DIR/colours/colours_KEY.png`, palette PNGs as the papers' programs write them.
    `on_image` gets the number of images done, and of all. Raises `JobError` where a class has no id
    in the dataset, the size is not known, or the folder cannot be made.
    """
    ids = ids_of_classes(classes, split.manifest.dataset)
    size_of = _size_in(split, size_hw)
    _make_folder(out_dir / "colours" if colours else out_dir)
    palette = [part for colour in classes.colours for part in colour]
    seen = predicted_views(
        members_of(segmenters),
        split,
        range(len(split)),
        size_of,
        device,
        views=views,
        threads=threads,
    )
    with closing(seen):
        for number, _, found in seen:
            train_ids = found.class_maps()[0].to(torch.uint8).cpu().numpy()
            key = split.key(number)
            Image.fromarray(ids[train_ids]).save(out_dir / f"{key}.png")
            if colours:
                picture = Image.fromarray(train_ids)
                picture.putpalette(palette)
                picture.save(out_dir / "colours" / f"colours_{key}.png")
            on_image(number + 1, len(split))
    return len(split)


def ids_of_classes(classes: LabelSpace, dataset: str) -> Pixels:
    """(K,) uint8: the id of each class in the dataset, the first where it has several.

    Raises `JobError` where a class has none.
    """
    missing = [entry.name for entry in classes.root if not entry.ids.get(dataset)]
    if missing:
        raise JobError(
            f"classes: expected an id of dataset {dataset!r} for every class, got none for "
            f"{', '.join(map(repr, missing))}",
            fix=f"name {_datasets_of(classes)}, or add ids of {dataset!r} to `classes`",
        )
    return np.array([entry.ids[dataset][0] for entry in classes.root], np.uint8)


def _datasets_of(classes: LabelSpace) -> str:
    """The datasets in whose ids predictions can be written."""
    named = [set(entry.ids) for entry in classes.root]
    return " or ".join(sorted(set.intersection(*named))) or "another dataset"


def _size_in(split: PackedSplit, size_hw: tuple[int, int] | None) -> SizeOf:
    """Index and sample -> size of the prediction in pixels."""
    if size_hw is not None:
        return lambda _index, _sample: size_hw
    if split.manifest.size_hw is not None:
        raise JobError(
            f"size_hw: expected the size of the predictions, got none, and {split.store.uri}/"
            f"{split.split} was packed at {list(split.manifest.size_hw)}",
            fix="give the originals' size (--size-hw; Cityscapes: 1024 2048)",
        )

    def own(number: int, _sample: Sample) -> tuple[int, int]:
        return int(split.index.height_px[number]), int(split.index.width_px[number])

    return own


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            f"{folder}: expected a folder for predictions, got: {error.strerror}"
        ) from error
