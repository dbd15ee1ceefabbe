"""`predict_set`: a trained network on pictures, folders, videos and the like, its outputs in a
folder or a store. The command `predict` is a few lines over it.

Items are shared out in blocks of their order, to slices and, within one, to ranks or nodes; none
waits for another but ranks of one launcher, at the end.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from threading import Event
from typing import Any, NamedTuple

import torch
import xxhash

from adapt.data.problems import Problem
from adapt.data.writing.plan import Slice
from adapt.errors import JobError
from adapt.places import Place
from adapt.ranks import gather_keys, open_ranks
from adapt.use.inputs import Search, find_items
from adapt.use.items import CAMERA, IMAGE, Item
from adapt.use.model import LoadedModel
from adapt.use.outputs import Wanted
from adapt.use.predictions import Predictor, Summary
from adapt.use.record import Record
from adapt.use.video import require_av
from adapt.use.work import Progress, Work
from storage.stores import READ_ONLY, Stores
from storage.uris import split_uri, without_password

_PATIENT = timedelta(days=30)
"""Ranks end when their shares do."""


@dataclass(frozen=True)
class PredictOptions:
    """The settings of `predict_set`.

    `write`: kinds of outputs, comma-separated. `ids_of`: the dataset whose ids `ids` are, by
    default train ids. `split`: of packed inputs, by default their only one. `part`: the slice
    I/N. `threads`: that read, and as many that write; by default by the number of cores.
    `max_frames`: ends a camera's recording. Raises `JobError` for another text than a slice.
    """

    write: str = "overlay"
    ids_of: str | None = None
    split: str | None = None
    part: str = "0/1"
    threads: int | None = None
    batch_size: int | None = None
    overwrite: bool = False
    max_frames: int | None = None

    def __post_init__(self) -> None:
        Slice.parse(self.part)  # before a network is loaded


class Shared(NamedTuple):
    """The part of the items that a process predicts."""

    number: int
    num_parts: int

    @classmethod
    def of(cls, place: Place, part: str) -> "Shared":
        """Slice I/N, shared out again over the place's ranks, or its nodes where no launcher
        started ranks. Raises `JobError`."""
        piece = Slice.parse(part)
        own = (place.rank, place.num_ranks) if place.launched else (place.node, place.num_nodes)
        return cls(piece.number * own[1] + own[0], piece.num_slices * own[1])

    def of_items(self, items: Sequence[Item]) -> Sequence[Item]:
        """Its items: a block, so that those of one shard stay together."""
        first = len(items) * self.number // self.num_parts
        return items[first : len(items) * (self.number + 1) // self.num_parts]


def predict_set(
    model: LoadedModel,
    inputs: Sequence[str],
    out: str,
    stores: Stores,
    place: Place,
    options: PredictOptions | None = None,
    stop: Event | None = None,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> Summary:
    """Predict all items of the inputs and write them below `out`, a folder or a store's URI.

    Outputs that are there whole are skipped, bad files are counted and skipped; the first `stop`
    ends the work between two images. Of several ranks the leader gets the counts of all. Raises
    `JobError`, `DataError` for an input without images, and `StoreError`.
    """
    options, stop = options or PredictOptions(), stop or Event()
    shared = Shared.of(place, options.part)
    work = _work(model, out, stores, place, options, shared)
    work.stop, work.on_progress = stop, on_progress
    search = Search(stores, out, options.split, place.shards_dir, Counter(), [])
    items = find_items(inputs, search)
    _check_items(items, options)
    settings = _settings(model, options, work.wanted)
    work.record.agree(settings, options.overwrite)
    with open_ranks(place, torch.device("cpu"), _PATIENT) if place.launched else nullcontext():
        summary = _of_all(Predictor(work).run(shared.of_items(items), options.overwrite))
    work.record.check_agreed(settings)
    if place.leader:
        work.record.write_shares(model.classes.names)
    if shared.number == 0:  # one slice names the faults of folders
        summary.bad[:0] = search.problems
    summary.left_out = dict(search.left_out)
    return summary


def _work(
    model: LoadedModel,
    out: str,
    stores: Stores,
    place: Place,
    options: PredictOptions,
    shared: Shared,
) -> Work:
    if not out.strip() or split_uri(out)[0] in READ_ONLY:
        found = without_password(out) if out.strip() else "none"
        raise JobError(
            f"--out: expected a folder or a store that can be written, got {found}", "name a folder"
        )
    store, wanted = stores.open(out), Wanted.parse(options.write, options.ids_of, model.classes)
    cores = len(os.sched_getaffinity(0)) // place.local_ranks
    return Work(
        model,
        stores,
        store,
        wanted,
        Record(store, shared.number, shared.num_parts),
        options.threads or max(2, min(16, cores)),
        options.batch_size,
        options.max_frames,
    )


def _check_items(items: Sequence[Item], options: PredictOptions) -> None:
    """Raise `JobError` for videos without PyAV, and for a limit that limits nothing."""
    for item in items:
        if item.kind != IMAGE:
            require_av(item.source)
            break
    if options.max_frames is not None and all(item.kind != CAMERA for item in items):
        raise JobError("--frames: expected a camera among the inputs, got none", "leave it out")


def _settings(model: LoadedModel, options: PredictOptions, wanted: Wanted) -> dict[str, Any]:
    """The facts that all predictions of a folder share, by the words for them."""
    ids = {"ids of": options.ids_of or "train ids"} if "ids" in wanted.kinds else {}
    return {
        "model": fingerprint(model),
        "size_hw": None if model.size_hw is None else list(model.size_hw),
        "views": model.views.model_dump(mode="json"),
        "precision": model.precision,
        **ids,
    }


def fingerprint(model: LoadedModel) -> str:
    """A digest of a network's weights and classes, wherever its file lies."""
    digest = xxhash.xxh3_128(model.classes.model_dump_json().encode())
    for key, tensor in sorted(model.segmenter.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _of_all(summary: Summary) -> Summary:
    """The counts of all ranks; alone, its own."""
    total = Summary()
    for text in gather_keys((json.dumps(summary.as_json()),)):
        own = json.loads(text)
        for name in ("images", "videos", "frames", "skipped"):
            setattr(total, name, getattr(total, name) + own[name])
        total.bad += [Problem(**one) for one in own["bad"]]
        total.stopped = total.stopped or own["stopped"]
    return total
