"""The content of a folder or a packed dataset: its layout, its splits, sizes of its images,
values in its labels.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low

from adapt.data.archives import with_archives
from adapt.data.datasets import DATASETS, RawLayout, RawSample, known_layout
from adapt.data.found_files import FoundFiles, image_files
from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.encodings import ENCODINGS
from adapt.data.packed.manifest import Manifest
from adapt.data.packed.split_files import packed_splits, read_manifest
from adapt.data.problems import refuse, shown
from adapt.data.writing.draft import DEFAULT_ENCODING
from adapt.data.writing.survey import survey
from adapt.errors import DataError, JobError, counted
from adapt.proposal.label_values import LabelValues, Value, count_values, palette_of
from storage.stores import Stores
from storage.uris import split_uri

GENERIC_SPLITS = ("train", "val", "test")
"""Splits that are sought where a layout takes any name."""
FOLDERS = next(name for name, row in DATASETS.items() if not row.needs_labels)
"""The layout of a user's own folders."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Held:
    """The data of one domain. `layout` is None for a packed dataset; `splits` counts samples,
    `labelled` those with labels; `keys` are of the split to train on, with `labelled_keys`;
    `size_hw` is the median height and width in pixels.
    """

    where: str
    name: str
    layout: str | None
    splits: Mapping[str, int]
    labelled: Mapping[str, int]
    size_hw: tuple[int, int]
    keys: tuple[str, ...] = ()
    labelled_keys: tuple[str, ...] = ()
    values: LabelValues | None = None
    packed: Mapping[str, Manifest] = field(default_factory=dict)

    @property
    def train(self) -> str:
        """The split to train on."""
        return "train" if "train" in self.splits else next(iter(self.splits))


def look(
    where: str,
    stores: Stores,
    *,
    layout: str | None = None,
    name: str | None = None,
    pairs_only: bool = False,
    needs_labels: bool,
    most_labels: int,
    on_progress: Progress = lambda _done, _total: None,
) -> Held:
    """Find what is there. Raises `DataError` where nothing can be packed, naming the files, and
    `JobError` for an unknown layout."""
    if split_uri(where)[0] != "file" or list(Path(where).glob("*/manifest.json")):
        return look_packed(where, stores, needs_labels)
    raw_dir = with_archives(Path(where))
    if not raw_dir.is_dir():
        raise DataError(
            f"{where}: expected a folder of images or a packed dataset, got none",
            fix="pass the folder as it was downloaded, or the URI that `pack` wrote to",
        )
    row_name = layout or layout_of(raw_dir)
    return look_raw(raw_dir, row_name, name, pairs_only, needs_labels, most_labels, on_progress)


def look_packed(uri: str, stores: Stores, needs_labels: bool) -> Held:
    """A packed dataset, from its manifests and indexes alone."""
    store = stores.open(uri)
    names = packed_splits(store)
    if not names:
        raise DataError(
            f"{uri}: expected a packed split, got none", fix="pack it first, or pass a raw folder"
        )
    found = {split: read_manifest(store, split) for split in sorted(names)}
    manifests = {split: manifest for split, (manifest, _) in found.items()}
    train = "train" if "train" in found else next(iter(found))
    manifest, index = found[train]
    if needs_labels and not manifest.labelled:
        raise DataError(
            f"{uri}/{train}: expected labels of the source, got images alone",
            fix="pack it without --unlabelled, or pass the folder with labels as SOURCE",
        )
    labelled = {split: one.num_samples for split, one in manifests.items() if one.labelled}
    counted_in = next((one for one in (train, *labelled) if one in labelled), train)
    pixels: dict[Value, int] = dict(manifests[counted_in].id_pixels.items())
    values = LabelValues(False, pixels, {}, manifest.num_samples, manifest.num_samples)
    return Held(
        where=uri,
        name=manifest.dataset,
        layout=None,
        splits={split: one.num_samples for split, one in manifests.items()},
        labelled=labelled,
        size_hw=manifest.size_hw
        or (median_low(index.height_px.tolist()), median_low(index.width_px.tolist())),
        values=values if labelled else None,
        packed=manifests,
    )


def look_raw(
    raw_dir: Path,
    row_name: str,
    name: str | None,
    pairs_only: bool,
    needs_labels: bool,
    most_labels: int,
    on_progress: Progress,
) -> Held:
    """A raw folder: every header is read, and at most so many labels."""
    row = known_layout(row_name)
    splits = splits_of(row, raw_dir)
    if not splits:
        raise nothing_found(raw_dir)
    train = "train" if "train" in splits else next(iter(splits))
    samples = samples_of(row, raw_dir, train, needs_labels, pairs_only)
    surveyed = survey(samples, ENCODINGS[DEFAULT_ENCODING])
    refuse(raw_dir, [problem for one in surveyed for problem in one.problems])
    sizes = [one.planned.size_hw for one in surveyed if one.planned]
    labelled = {split: len(row.find_labels(raw_dir, split).files) for split in splits}
    labels = [one.label_path for one in samples if one.label_path]
    if not labels:
        scored = next((split for split, count in labelled.items() if count), None)
        found = FoundFiles() if scored is None else row.find_labels(raw_dir, scored)
        labels = list(found.files.values())
    values = count_values(row, labels, most_labels, on_progress) if labels else None
    return Held(
        where=str(raw_dir),
        name=name or (row_name if row.known_ids is not None else name_of(raw_dir)),
        layout=row_name,
        splits={**splits, train: len(samples)},
        labelled={split: count for split, count in labelled.items() if count},
        size_hw=(median_low(h for h, _ in sizes), median_low(w for _, w in sizes)),
        keys=tuple(one.key for one in samples),
        labelled_keys=tuple(one.key for one in samples if one.label_path),
        values=values,
    )


def samples_of(
    row: RawLayout, raw_dir: Path, split: str, needs_labels: bool, pairs_only: bool
) -> list[RawSample]:
    """The samples of a split, with the labels that are there; of a source each needs one."""
    if needs_labels:
        found = row.find(raw_dir, split, pairs_only=pairs_only)
        refuse(raw_dir, found.problems)
        if not any(one.label_path for one in found.samples):
            raise DataError(
                f"{shown(raw_dir)}: expected labels of the source beside "
                f"{counted(len(found.samples), 'image')}, got none",
                fix="put them into labels/, with the names of the images, or pass the folder with "
                "labels as SOURCE",
            )
        return found.samples
    found = row.find(raw_dir, split, unlabelled=True)
    refuse(raw_dir, found.problems)
    labels = row.find_labels(raw_dir, split).files
    return [one._replace(label_path=labels.get(one.key)) for one in found.samples]


def splits_of(row: RawLayout, raw_dir: Path) -> dict[str, int]:
    """The splits that a folder has in this layout -> number of images."""
    found = {}
    for split in row.splits or GENERIC_SPLITS:
        try:
            count = len(row.find_images(raw_dir, split).files)
        except JobError:  # no list of that split
            continue
        if count:
            found[split] = count
    return found


def layout_of(raw_dir: Path) -> str:
    """The row of `DATASETS` that a folder is laid out as: one whose images have labels, of two the
    one with ids of its own if its colours show them, else the user's own folders, else the one row
    that finds images. `DataError` where none fits."""
    found = {name: pairs_in(row, raw_dir) for name, row in DATASETS.items()}
    labelled = [name for name, (_, pairs) in found.items() if pairs]
    own = found[FOLDERS][0]
    special = [name for name in labelled if name != FOLDERS]
    if found[FOLDERS][1]:  # the files are the same
        special = [name for name in special if is_shown(raw_dir, name)]
    if special:
        return max(special, key=lambda name: found[name][1])
    if own:
        return FOLDERS
    images = [name for name, (count, _) in found.items() if count]
    if len(images) == 1:
        return images[0]
    raise nothing_found(raw_dir)


def pairs_in(row: RawLayout, raw_dir: Path) -> tuple[int, int]:
    """Images of a folder in this layout, and those that have labels."""
    images: set[str] = set()
    labels: set[str] = set()
    for split in splits_of(row, raw_dir):
        images |= row.find_images(raw_dir, split).files.keys()
        labels |= row.find_labels(raw_dir, split).files.keys()
    return len(images), len(images & labels)


def is_shown(raw_dir: Path, dataset: str) -> bool:
    """Return whether the first label's palette has the colours of this dataset's classes."""
    row = DATASETS[dataset]
    split = next(iter(splits_of(row, raw_dir)))
    try:
        palette = palette_of(next(iter(row.find_labels(raw_dir, split).files.values())))
    except (DataError, StopIteration):
        return False
    return any(
        all(
            palette.get(identity) == one.colour
            for one in space.root
            for identity in one.ids.get(dataset, ())
        )
        for space in LABEL_SPACES.values()
        if dataset in space.datasets
    )


def nothing_found(raw_dir: Path) -> DataError:
    """The error for a folder of no known layout, with what it holds."""
    count = len(image_files(raw_dir).files)
    inside = sorted(path.name for path in raw_dir.iterdir() if path.is_dir())[:5]
    got = f"{counted(count, 'image')} in other places" if count else "no images"
    folders = f" (folders: {', '.join(map(shown, inside))})" if inside else ""
    return DataError(
        f"{shown(raw_dir)}: expected images/ and labels/, or the layout of a known dataset, got "
        f"{got}{folders}",
        fix="move images into images/ and labels of equal names into labels/, or name the layout "
        "with --source-layout or --target-layout",
    )


def name_of(raw_dir: Path) -> str:
    """A dataset's name from its folder's."""
    return re.sub(r"[^a-z0-9]+", "_", raw_dir.resolve().name.lower()).strip("_") or "data"
