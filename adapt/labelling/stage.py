"""The labelling stage: a trained network predicts the target twice, and leaves splits with labels.

    RUN/pseudo_labels/round-0-DIGEST.json     what the first pass found
    RUN/pseudo_labels/round-0-DIGEST-PART/    a packed split for each part of the target

DIGEST is of all that decides the labels: the network's weights, the method's settings, the images.
All ranks call the same functions in the same order. A stage that is killed anywhere continues where
it was: facts that are stored are not gathered again, shards that are stored not written again.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import NamedTuple

import numpy as np
import torch

from adapt.data.packed.manifest import Manifest
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.merge import merge
from adapt.errors import DataError, Interrupted, JobError
from adapt.evaluation.inference import InferenceConfig
from adapt.labelling.passes import Stage, Stopped, predicted, with_labels, without_labels
from adapt.labelling.split import SplitWriter, plan_split
from adapt.methods.labeller import Facts
from adapt.models.segmenter import Segmenter
from adapt.ranks import any_rank, barrier, share_text, sum_over_ranks
from storage.errors import MissingObject
from storage.store import Store

log = logging.getLogger(__name__)


class Labels(NamedTuple):
    """Labels of the target: their name, the weights that made them, the first pass's facts, and
    the split in the store for each domain of the training."""

    name: str
    weights_uri: str
    facts: Facts
    splits: Mapping[str, str]


def digest_of(stage: Stage, segmenter: Segmenter) -> str:
    """sha256 of all that decides the labels."""
    digest = hashlib.sha256()
    for key, tensor in sorted(segmenter.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(values.view(torch.uint8).numpy())
    views = {name: getattr(stage.views, name) for name in InferenceConfig.model_fields}
    target = stage.target
    decides = [
        type(stage.labeller).__name__,
        dict(stage.labeller.settings()),
        views,
        target.manifest.dataset_id,
        target.size_hw,
        stage.classes.names,
    ]
    digest.update(json.dumps(decides, sort_keys=True).encode())
    return digest.hexdigest()


def make_labels(stage: Stage, segmenter: Segmenter, weights_uri: str) -> Labels:
    """Label the target by a network; what an earlier run has finished of it is kept.

    Raises `JobError` where the labels would be of no use, `DataError` for an image that cannot be
    read, `StoreError`, and `Interrupted`.
    """
    digest = digest_of(stage, segmenter)
    name = f"round-{stage.labeller.round_number}-{digest[:16]}"
    labels = _stored(stage, name)
    if labels is None:
        log.info("pseudo-labels: %s labels the target, into %s", weights_uri, stage.store.uri)
        facts = _observed(stage, segmenter)
        if stage.rank == 0:
            content = {
                "weights_uri": weights_uri,
                "facts": facts,
                "dataset_id": stage.target.dataset_id,
            }
            stage.store.put(f"{name}.json", json.dumps(content).encode())
        labels = _labels(stage, name, weights_uri, facts)
    for domain, split in labels.splits.items():
        if not _is_complete(stage, split):
            _write(stage, segmenter, domain, labels, digest)
    _refuse_empty(stage, labels)
    return labels


def find_labels(stage: Stage, name: str) -> Labels | None:
    """Labels by their name, where they are complete."""
    labels = _stored(stage, name)
    if labels is None or not all(_is_complete(stage, split) for split in labels.splits.values()):
        return None
    return labels


def remove_rounds_before(store: Store, round_number: int) -> None:
    """Delete the labels of earlier rounds, manifests first."""
    keys = [info.key for info in store.list("round-")]
    old = [key for key in keys if int(key.split("-")[1]) < round_number]
    for key in sorted(old, key=lambda key: not key.endswith("/manifest.json")):
        store.delete(key)


def _labels(stage: Stage, name: str, weights_uri: str, facts: Facts) -> Labels:
    parts = stage.labeller.parts(facts)
    splits = {domain: f"{name}-{part.name}" for domain, part in parts.items()}
    return Labels(name, weights_uri, facts, splits)


def _is_complete(stage: Stage, split: str) -> bool:
    """The leader's answer, on all ranks."""
    return any_rank(stage.rank == 0 and stage.store.exists(f"{split}/manifest.json"))[0]


def _stored(stage: Stage, name: str) -> Labels | None:
    """Labels whose first pass an earlier run has finished, as the leader finds them.

    Raises `DataError` where they are of another target.
    """
    text = None
    if stage.rank == 0:
        with suppress(MissingObject):
            text = stage.store.get(f"{name}.json").decode()
    text = share_text(text)
    if text is None:
        return None
    content = json.loads(text)
    now, then = stage.target.dataset_id, content.pop("dataset_id", None)
    if then not in (None, now):
        raise DataError(
            f"{stage.store.uri}/{name}: expected pseudo-labels of the job's target, got those of "
            f"another dataset ({str(then)[:12]}, now {now[:12]})",
            fix="use the target that the run began with, or start over with --fresh",
        )
    return _labels(stage, name, **content)


def _observed(stage: Stage, segmenter: Segmenter) -> Facts:
    """The first pass, over this rank's shards of the target."""
    shard_of = stage.target.index.shard
    samples = np.flatnonzero(shard_of % stage.num_ranks == stage.rank).tolist()
    unusual = torch.zeros((), dtype=torch.int64, device=stage.device)
    with suppress(Stopped), closing(predicted(stage, segmenter, samples, "observed")) as seen:
        for number, _, logits in seen:
            unusual += ~logits.isfinite().all()
            stage.labeller.observe(number, logits)
    _raise_if_stopped(stage)
    if int(sum_over_ranks(unusual)):
        raise JobError(
            "method.pseudo_labels.run: expected a network with finite logits on the target, got "
            "NaN or infinity",
            fix="name another checkpoint",
        )
    return stage.labeller.facts()


def _write(stage: Stage, segmenter: Segmenter, domain: str, labels: Labels, digest: str) -> None:
    """The second pass over one part: this rank's shards, then, by the leader, index and
    manifest."""
    part = stage.labeller.parts(labels.facts)[domain]
    labelled, split = stage.labeller.labelled[domain], labels.splits[domain]
    classes = stage.classes if labelled else None
    plan = plan_split(stage.target, split, part.samples, classes, digest)
    writer = SplitWriter(stage.store, plan, stage.rank, stage.num_ranks)
    made = (
        with_labels(stage, segmenter, writer.samples, labels.facts)
        if labelled
        else without_labels(stage, writer.samples)
    )
    with suppress(Stopped), closing(made):
        writer.write(stage.target, made)
    _raise_if_stopped(stage)
    if stage.rank == 0:
        merge(stage.store, split)
    barrier()


def _refuse_empty(stage: Stage, labels: Labels) -> None:
    """Tell the share of labelled pixels; raise `JobError`, on all ranks, where it is 0."""
    empty = False
    if stage.rank == 0:
        (domain,) = (domain for domain, labelled in stage.labeller.labelled.items() if labelled)
        manifest, _ = read_manifest(stage.store, labels.splits[domain])
        shares = labelled_shares(manifest, len(stage.classes.names))
        empty = not any(shares)
        named = zip(stage.classes.names, shares, strict=True)
        of_classes = ", ".join(f"{name} {share:.1%}" for name, share in named)
        log.info("pseudo-labels: %.1f%% of the pixels: %s", 100 * sum(shares), of_classes)
    if any_rank(empty)[0]:
        raise JobError(
            "method.pseudo_labels: expected labels for some of the target's pixels, got none",
            fix="label a larger portion, or train the run that labels longer",
        )


def labelled_shares(manifest: Manifest, num_classes: int) -> list[float]:
    """Share of a split's pixels whose label is each class, in [0, 1]."""
    total = sum(manifest.id_pixels.values())
    return [manifest.id_pixels.get(one, 0) / total for one in range(num_classes)]


def _raise_if_stopped(stage: Stage) -> None:
    if any_rank(stage.stopped())[0]:
        raise Interrupted("stopped while making pseudo-labels; finished shards are kept")
