"""Suggests target images to label, and writes a folder for annotators.

OUT/images/KEY.png  OUT/ids.csv  OUT/keys.txt  OUT/sheet.png  OUT/suggestion.json
OUT/prelabels/      the network's predictions in the formats of the tools
OUT/export/         empty: the place of what the tool exports, which `pack` reads
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from adapt.data.annotations.annotated import TABLE, Annotated, ClassTable
from adapt.data.annotations.formats import ANNOTATIONS, EXPORT, IMAGES
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.packed_split import PackedSplit
from adapt.engine.device import prepare_device
from adapt.errors import DataError, JobError
from adapt.evaluation.inference import EnsembleMember, class_map, image_size, predictions
from adapt.evaluation.pictures import entropy_map, panel_grid, prediction_panel
from adapt.evaluation.prediction_files import ids_of_classes
from adapt.models.segmenter import Segmenter
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.stream.config import TargetConfig
from adapt.suggest.choose import choice, image_weights
from adapt.suggest.pool import read_pool, standard
from adapt.trainer.opening import (
    decoding_threads,
    listed_keys,
    open_cache,
    open_split,
    open_stores,
)
from adapt.trainer.score import checkpoint_network
from adapt.trainer.tracked_run import tracking_uri
from adapt.use.locate import model_at
from storage.stores import Stores

KEYS, SHEET, PRELABELS, RECORD = "keys.txt", "sheet.png", "prelabels", "suggestion.json"
SHOWN = 24
"""Most images on the contact sheet."""


class Suggested(NamedTuple):
    """An image to label: its key, mean entropy in [0, 1] and weight, uncertainty times rarity, over
    the mean of all."""

    key: str
    entropy: float
    weight: float


class Suggestion(NamedTuple):
    """The images in the order of their choice, out of `samples` of the target's `split`."""

    out: Path
    dataset: str
    split: str
    samples: int
    by: str
    images: tuple[Suggested, ...]


def suggest(
    job: JobSpec,
    place: Place,
    model: str,
    out: Path,
    *,
    count: int = 100,
    by: str = "score",
    seed: int = 0,
    base: str | None = None,
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
) -> Suggestion:
    """Choose `count` images of the job's target to label, by the network `model`, and write them,
    their predictions and a contact sheet to the folder `out`.

    `model` and `base` are as of `diagnose`. Those that `target.labelled_keys` names are labelled
    already: they are not suggested, and others are chosen far from them. Raises `JobError` for a
    job with several targets or none, a folder with other files, or a class without an id in the
    target's dataset, `DataError`, `StoreError`.
    """
    target, choose = _target(job), choice(by)
    _check_folder(out)
    classes = _class_table(job.classes, target.dataset)
    device, stores = prepare_device(place.local_rank), open_stores(job, place)
    weights = model_at(model, stores, tracking_uri(job, place)).uri
    network = checkpoint_network(job, stores, weights, base).to(device)
    cache, threads = open_cache(job, place), decoding_threads(job.stream, place)
    split = open_split(job, target, stores, cache, labelled=False)
    try:
        pool = read_pool(network, split, device, threads, on_image)
        merits = image_weights(pool.entropy, pool.class_shares)
        chosen = _labelled(target, split, stores)
        picked = choose(standard(pool.features), merits, count, seed, chosen)
        images = tuple(
            Suggested(split.key(one), pool.entropy[one].item(), merits[one].item())
            for one in picked
        )
        found = Suggestion(out, target.dataset, target.split, len(split), by, images)
        _write(found, job.classes, classes, network, split, picked, device, threads)
    finally:
        split.cache.close()
        split.close()
    return found


def _target(job: JobSpec) -> TargetConfig:
    if not isinstance(job.target, TargetConfig):
        got = "none" if job.target is None else "several"
        raise JobError(
            f"target: expected one dataset to choose images of, got {got}",
            fix="name one dataset as the target",
        )
    return job.target


def _check_folder(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise JobError(f"{out}: expected an empty folder, got files", "name another with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"{out}: expected a folder to write, got: {error.strerror}") from error


def _class_table(space: LabelSpace, dataset: str) -> ClassTable:
    ids = ids_of_classes(space, dataset)
    return ClassTable(space.names, space.colours, tuple(ids.tolist()))


def _labelled(target: TargetConfig, split: PackedSplit, stores: Stores) -> list[int]:
    """The numbers of the samples that are labelled already. Raises `DataError` for an unknown
    key."""
    keys: Sequence[str] = target.labelled_keys or ()
    if target.labelled_keys_uri is not None:
        keys = listed_keys(target.labelled_keys_uri, stores)
    numbers = {split.key(number): number for number in range(len(split))}
    missing = [key for key in keys if key not in numbers]
    if missing:
        raise DataError(
            f"{split.uri}: expected the samples that are labelled already, got none of {missing[0]}"
        )
    return [numbers[key] for key in keys]


def _write(
    found: Suggestion,
    space: LabelSpace,
    classes: ClassTable,
    network: Segmenter,
    split: PackedSplit,
    picked: Sequence[int],
    device: torch.device,
    threads: int,
) -> None:
    """Images, pre-labels, sheet, table and keys."""
    out = found.out
    for part in (IMAGES, PRELABELS, EXPORT):
        (out / part).mkdir()
    annotated: list[Annotated] = []
    panels: list[Image.Image] = []
    seen = predictions(
        (EnsembleMember(network),),
        split,
        picked,
        image_size,
        device,
        threads=threads,
    )
    for number, sample, logits in seen:
        name, pixels = f"{split.key(number)}.png", sample.pixels()
        Image.fromarray(pixels).save(out / IMAGES / name)
        labels = class_map(logits).to(torch.uint8).cpu().numpy()
        annotated.append(Annotated(name, labels))
        if len(panels) < SHOWN:
            last = len(panels) + 1 == min(SHOWN, len(picked))
            names = space.names if last else ()
            entropy = entropy_map(logits)
            panels.append(
                prediction_panel(pixels, None, labels, entropy, space.colours, names, name)
            )
    for row in ANNOTATIONS.values():
        row.write(out / PRELABELS, classes, annotated)
    (out / TABLE).write_text(classes.text())
    (out / KEYS).write_text("".join(f"{one.key}\n" for one in found.images))
    panel_grid(panels).save(out / SHEET)
    images = [one._asdict() for one in found.images]
    record = {**found._asdict(), "out": str(out), "images": images}
    (out / RECORD).write_text(json.dumps(record, indent=1))
