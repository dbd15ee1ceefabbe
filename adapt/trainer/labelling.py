"""The labelling stage of a two-stage job: the network that labels, and the splits that are trained
on instead of the job's own.

Round 0 is labelled by the checkpoint that `method.pseudo_labels.run` names, each later round by the
network that is trained, as it is when the round begins. Checkpoints keep the labels' name: a job
that resumes inside a round needs that run no more.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from adapt.checkpoint.saved import step_of
from adapt.data.packed.mixture import Mixture
from adapt.data.packed.packed_split import PackedSplit
from adapt.errors import DataError
from adapt.labelling.passes import Stage
from adapt.labelling.stage import Labels, find_labels, make_labels, remove_rounds_before
from adapt.methods import METHODS, labelling_of
from adapt.models import build_segmenter
from adapt.models.config import without_weights
from adapt.models.segmenter import Segmenter
from adapt.ranks import barrier, share_text, whole
from adapt.spec.job_spec import JobSpec
from adapt.trainer.labelling_run import checkpoint_uri
from adapt.trainer.opening import JobData, Opened, decoding_threads
from adapt.trainer.resume import engine_state
from adapt.trainer.score import checkpoint_network
from storage.stores import Stores
from storage.uris import join

FOLDER = STATE_KEY = "pseudo_labels"
"""The labels' folder in the run's folder, and their name's key in a checkpoint's state."""


class Watch(NamedTuple):
    """How a stage is stopped, and where it reports each image: done, and in all."""

    stopped: Callable[[], bool] = lambda: False
    on_image: Callable[[int, int], None] = lambda _done, _total: None


def round_at(job: JobSpec, step: int) -> int:
    """The round of training that step belongs to; a round's first step comes after its labels."""
    return bisect_right(_first_steps(job), step) - 1


def round_end(job: JobSpec, step: int) -> int:
    """The step at which the round of `step` ends."""
    return next((first for first in _first_steps(job) if first > step), job.train.steps)


def _first_steps(job: JobSpec) -> list[int]:
    rounds = getattr(job.method, "rounds", 1)
    return [job.train.steps * number // rounds for number in range(rounds)]


@contextmanager
def labelled(
    opened: Opened, state: Mapping[str, Any] | None, device: torch.device, watch: Watch
) -> Iterator[Opened]:
    """The job with the data that the round of a checkpoint's `state`, or round 0, trains on; the
    labels are made where they are not there. A method without a stage trains on the job's own.

    Raises `JobError` for a run that cannot label, and as `make_labels`.
    """
    job = opened.job
    if METHODS[job.method.name].labeller is None:
        yield opened
        return
    number = 0 if state is None else round_at(job, state["engine"]["step"])
    stage = _stage(opened, number, device, watch)
    labels = _labels(stage, opened, state)
    with ExitStack() as stack:
        splits = {}
        for domain, split in labels.splits.items():
            labelled_too = stage.labeller.labelled[domain]
            splits[domain] = _open(stage, opened, split, labelled_too)
            stack.callback(splits[domain].close)
        joined = {domain: _joined(opened, domain, split) for domain, split in splits.items()}
        data: Any = {**opened.data._asdict(), **joined}
        yield opened._replace(data=JobData(**data), labels=labels.name)


def on_new_labels(state: Mapping[str, Any], opened: Opened) -> dict[str, Any]:
    """A checkpoint's state whose streams continue, where they were, on a new round's labels. Others
    of the same round are refused where the streams are opened."""
    before, after = state.get(STATE_KEY), opened.labels
    if before is None or after is None or _round_of(before) == _round_of(after):
        return dict(state)
    labeller = METHODS[opened.job.method.name].labeller
    assert labeller is not None, "others have no labels"
    now = {
        domain: state[domain] | {"dataset_id": getattr(opened.data, domain).dataset_id}
        for domain in labeller.labelled
    }
    return {**state, **now}


def _round_of(name: str) -> int:
    return int(name.split("-")[1])


def labels_uri(opened: Opened) -> str:
    """Where the opened job's labels lie; its splits begin with this."""
    return join(opened.folder.uri, FOLDER, opened.labels or "")


def label(opened: Opened, device: torch.device, watch: Watch) -> tuple[Stage, Labels]:
    """Make the labels of round 0, or find them. Raises as `labelled`."""
    stage = _stage(opened, 0, device, watch)
    return stage, _labels(stage, opened, None)


def labelling_network(job: JobSpec, stores: Stores) -> tuple[Segmenter, str]:
    """The network that labels the first round, and the URI of its weights, the same on all ranks.

    It is built by the spec beside the weights, where there is one: it may be of another
    architecture than the job's. Raises `JobError` where it has other classes, or does not fit.
    """
    uri = share_text(checkpoint_uri(job, stores))
    assert uri is not None
    return checkpoint_network(job, stores, uri), uri


def _stage(opened: Opened, number: int, device: torch.device, watch: Watch) -> Stage:
    job, place, target = opened.job, opened.place, opened.data.target
    labeller = METHODS[job.method.name].labeller
    assert labeller is not None and target is not None
    assert isinstance(target, PackedSplit), "the spec refuses several"
    num_classes, section = job.classes.num_classes, labelling_of(job.method)
    return Stage(
        store=opened.stores.open(join(job.checkpoint.uri, job.name, FOLDER)),
        target=target,
        labeller=labeller(section, num_classes, len(target), number),
        classes=job.classes,
        views=job.evaluate,
        device=device,
        threads=decoding_threads(job.stream, place),
        rank=place.rank,
        num_ranks=place.num_ranks,
        on_image=watch.on_image,
        stopped=watch.stopped,
    )


def _labels(stage: Stage, opened: Opened, state: Mapping[str, Any] | None) -> Labels:
    """Those of a checkpoint's state, where they are of its round; else new ones."""
    number = stage.labeller.round_number
    name = None if state is None else state[STATE_KEY]
    if name is not None and _round_of(name) == number:
        found = find_labels(stage, name)
        if found is not None:
            return found
        if number:
            raise DataError(
                f"{stage.store.uri}/{name}: expected the pseudo-labels that the run's checkpoint "
                "was trained on, got none",
                fix="copy them there again, or start over with --fresh",
            )
    network, uri = _network(opened, state, number)
    labels = make_labels(stage, network.to(stage.device), uri)
    if opened.place.leader:
        remove_rounds_before(stage.store, _oldest_round(opened, number))
    barrier()
    return labels


def _oldest_round(opened: Opened, now: int) -> int:
    """The first round whose labels a resume may need, when round `now` begins: that of the oldest
    checkpoint that is kept."""
    names = opened.folder.names()[-opened.job.checkpoint.keep :]
    return min([now, *(round_at(opened.job, step_of(name)) for name in names)])


def _network(opened: Opened, state: Mapping[str, Any] | None, number: int) -> tuple[Segmenter, str]:
    job = opened.job
    if number and state is not None:
        return _network_of_state(opened, state), f"step {state['engine']['step']} of this run"
    return labelling_network(job, opened.stores)


def _network_of_state(opened: Opened, state: Mapping[str, Any]) -> Segmenter:
    """The network that a checkpoint's state has, or that of a job that runs; whole on every rank,
    all of which call it."""
    job, prefix = opened.job, "segmenter."
    segmenter = build_segmenter(without_weights(job.model), job.classes.num_classes, None, False)
    named = {key: one for key, one in state["engine"]["method"].items() if key.startswith(prefix)}
    made = {**state, "engine": {"method": named}}
    tensors = engine_state(opened.folder, made, lambda size, dtype: torch.empty(size, dtype=dtype))
    segmenter.load_state_dict(
        {key.removeprefix(prefix): whole(one) for key, one in tensors["method"].items()}
    )
    return segmenter


def _joined(opened: Opened, domain: str, split: PackedSplit) -> PackedSplit | Mixture:
    """The stage's split, with the labelled samples of the target that join the source's batches."""
    parts, now = opened.job.trained_parts(domain), getattr(opened.data, domain)
    joining = now.parts[len(now.parts) - len(parts) + 1 :]
    if not joining:
        return split
    return Mixture([split, *joining], [part.weight for part in parts])


def _open(stage: Stage, opened: Opened, split: str, labelled_too: bool) -> PackedSplit:
    """A split of the stage, whose labels are train ids, for training."""
    table = np.arange(256, dtype=np.uint8) if labelled_too else None
    return PackedSplit(stage.store, split, opened.cache, table, stage.target.size_hw)
