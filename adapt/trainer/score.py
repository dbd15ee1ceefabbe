"""Scores and predictions of one checkpoint, or of an ensemble, on a job's validation split."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from math import frexp, fsum, isfinite, ldexp
from pathlib import Path

import torch

from adapt.checkpoint.located import located
from adapt.checkpoint.run_folder import SPEC
from adapt.config.strict_yaml import parse_yaml
from adapt.config.validation import validate
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.packed_split import PackedSplit
from adapt.engine.device import prepare_device
from adapt.errors import JobError
from adapt.evaluation.agreement import agreements
from adapt.evaluation.evaluate import Evaluation, evaluate
from adapt.evaluation.inference import EnsembleMember
from adapt.evaluation.label_free import FLIP_CONSISTENCY, LABEL_FREE_SCORES, without_average
from adapt.evaluation.metrics import subset_classes
from adapt.evaluation.prediction_files import write_predictions
from adapt.models import ModelSection
from adapt.models.config import SegmenterConfig
from adapt.models.segmenter import Segmenter
from adapt.models.weight_files import ENDINGS
from adapt.models.weights import NETWORK_WEIGHTS, WEIGHTS
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import with_classes
from adapt.trainer.networks import load_network
from adapt.trainer.opening import (
    decoding_threads,
    open_cache,
    open_run_folder,
    open_split,
    open_stores,
    open_validation,
)
from storage.errors import MissingObject
from storage.stores import Stores
from storage.uris import join

log = logging.getLogger(__name__)


def evaluate_checkpoint(
    job: JobSpec,
    place: Place,
    checkpoints: str | Sequence[str],
    weights: Sequence[float] | None = None,
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
    base: str | None = None,
) -> Evaluation:
    """Evaluate a checkpoint on the job's validation split, or several as an ensemble: the sum of
    their logits with `weights`, by default equal ones, divided by their sum.

    A checkpoint is the URI of a file of weights, of the folder with `weights.safetensors`, or of a
    run's folder, whose best it is, else the last. Its network is that of the spec beside it,
    `spec.yaml` or the file's name with `.yaml`, else the job's `model`. `on_image` gets the number
    of images done, and of all. `base` is as of `load_network`. Scores without labels are those that
    the job names, on a split without labels all where it names none; `teacher_agreement` is left
    out, it is a run's. Raises `JobError` where the weights do not fit.
    """
    with _networks_and_split(job, place, checkpoints, weights, base, labelled=True) as opened:
        members, split, device = opened
        done = count(1)
        evaluation = evaluate(
            members,
            split,
            device,
            views=job.evaluate,
            subsets=subset_classes(job.evaluate.subsets, job.classes.names),
            label_free=_scores_of(job, split),
            threads=decoding_threads(job.stream, place),
            batch_size=job.evaluate.batch_size,
            num_pictures=job.evaluate.pictures,
            on_image=lambda: on_image(next(done), len(split)),
        )
    if not evaluation.score.finite:
        raise JobError(
            "checkpoints: expected finite logits, got NaN or infinity",
            fix="evaluate another checkpoint",
        )
    return evaluation


def _scores_of(job: JobSpec, split: PackedSplit) -> tuple[str, ...]:
    """The scores without labels of one checkpoint or ensemble."""
    named = without_average(job.evaluate.label_free_scores, None)
    if named or split.id_table is not None:
        return named
    mirrored = job.evaluate.flip  # then classes agree with the mirrored image's always
    possible = (one for one in LABEL_FREE_SCORES if not mirrored or one != FLIP_CONSISTENCY)
    return without_average(tuple(possible), None)


def rank_checkpoints(
    job: JobSpec,
    place: Place,
    checkpoints: Sequence[str] = (),
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
    base: str | None = None,
) -> list[tuple[str, float]]:
    """Checkpoints by how well each agrees with all of them on the validation split, whose labels
    are not read, the best first: URI and mIoU in [0, 1] (`agreements`).

    `checkpoints` are as in `evaluate_checkpoint`, by default those that the job's run keeps, and
    so is `base`. Raises `JobError` for fewer than two, and where the weights do not fit.
    """
    uris = list(checkpoints) or _kept(job, place)
    if len(uris) < 2:
        raise JobError(
            f"checkpoints: expected two or more to choose from, got {len(uris)}",
            "name more, or keep more in a run by checkpoint.keep",
        )
    with _networks_and_split(job, place, uris, None, base, labelled=False) as opened:
        members, split, device = opened
        done = count(1)
        found = agreements(
            [member.segmenter for member in members],
            split,
            device,
            views=job.evaluate,
            threads=decoding_threads(job.stream, place),
            on_image=lambda: on_image(next(done), len(split)),
        )
    if not all(isfinite(one) for one in found):
        bad = [uri for uri, one in zip(uris, found, strict=True) if not isfinite(one)]
        raise JobError(f"checkpoints: expected finite logits, got NaN or infinity of {bad[0]}")
    return sorted(zip(uris, found, strict=True), key=lambda pair: -pair[1])


def _kept(job: JobSpec, place: Place) -> list[str]:
    """The checkpoints of the job's run, oldest first."""
    folder = open_run_folder(job, place)
    return [join(folder.uri, name) for name in folder.names()]


def predict_checkpoint(
    job: JobSpec,
    place: Place,
    checkpoints: str | Sequence[str],
    weights: Sequence[float] | None,
    out_dir: Path,
    size_hw: tuple[int, int] | None = None,
    colours: bool = False,
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
    base: str | None = None,
) -> int:
    """Write predictions of the job's validation split, labelled or not, as PNGs; returns their
    number.

    Checkpoints are as in `evaluate_checkpoint`, the rest as in `write_predictions`.
    """
    with _networks_and_split(job, place, checkpoints, weights, base, labelled=False) as opened:
        members, split, device = opened
        return write_predictions(
            members,
            split,
            out_dir,
            job.classes,
            device,
            size_hw=size_hw,
            colours=colours,
            views=job.evaluate,
            threads=decoding_threads(job.stream, place),
            on_image=on_image,
        )


@contextmanager
def _networks_and_split(
    job: JobSpec,
    place: Place,
    checkpoints: str | Sequence[str],
    weights: Sequence[float] | None,
    base: str | None,
    labelled: bool,
) -> Iterator[tuple[list[EnsembleMember], PackedSplit, torch.device]]:
    """The checkpoints' networks on the device, and the validation split, open."""
    if job.validation is None:
        raise JobError(
            "validation: expected a split to predict on, got none", fix="add the section validation"
        )
    uris = [checkpoints] if isinstance(checkpoints, str) else list(checkpoints)
    if not uris:
        raise JobError("checkpoints: expected at least one, got none")
    factors = _shares([1.0] * len(uris) if weights is None else weights, len(uris))
    device = prepare_device(place.local_rank)
    stores = open_stores(job, place)
    networks = [checkpoint_network(job, stores, uri, base).to(device) for uri in uris]
    cache = open_cache(job, place)
    if labelled:
        split = open_validation(job, job.validation, stores, cache)
    else:
        split = open_split(job, job.validation, stores, cache, labelled=False)
    try:
        yield [EnsembleMember(*pair) for pair in zip(networks, factors, strict=True)], split, device
    finally:
        split.cache.close()
        split.close()


def _shares(weights: Sequence[float], num_members: int) -> list[float]:
    """Weights of an ensemble whose sum is one: the logits keep their scale whatever the weights'.

    Raises `JobError` where they are not a positive number for each member.
    """
    if len(weights) != num_members:
        raise JobError(
            f"weights: expected a number for each checkpoint, got {len(weights)} for {num_members}",
            fix="give as many as checkpoints, in their order, or none for equal ones",
        )
    if not all(isfinite(weight) and weight > 0 for weight in weights):
        listed = ", ".join(f"{weight:g}" for weight in weights)
        raise JobError(
            f"weights: expected positive numbers, got {listed}",
            fix="give each checkpoint a number above 0; leave out one that shall not count",
        )
    _, exponent = frexp(max(weights))
    scaled = [ldexp(weight, -exponent) for weight in weights]  # a sum of 1e308 would overflow
    total = fsum(scaled)
    return [weight / total for weight in scaled]


def checkpoint_network(
    job: JobSpec, stores: Stores, checkpoint: str, base: str | None = None
) -> Segmenter:
    """The network by the spec beside its weights, where there is one, else by the job's `model`;
    `base` is as of `load_network`."""
    uri = located(checkpoint, stores).uri
    if uri not in (checkpoint, join(checkpoint, WEIGHTS)):
        log.info("%s: the checkpoint is %s", checkpoint, uri)
    own = _model_beside(job, stores, uri)
    try:
        num_classes = job.classes.num_classes
        return load_network(own or job.model, num_classes, stores, uri, uri, base)
    except JobError as error:
        if own is not None:
            raise
        beside = f"or put the spec that it was trained with beside it, as {spec_name(uri)}"
        raise JobError(error.problem, f"{error.fix or 'name other weights'}, {beside}") from error


def _model_beside(job: JobSpec, stores: Stores, uri: str) -> SegmenterConfig | None:
    """The `model` of the spec beside a file of weights; None where there is no spec.

    Raises `JobError` where it is none, or has other classes than the job.
    """
    found = spec_beside(stores, uri)
    if found is None:
        return None
    where, text = found
    values = parse_yaml(text, where)
    if not isinstance(values, dict) or not {"model", "classes"} <= values.keys():
        raise JobError(
            f"{where}: expected the job spec of the weights beside it, with model and classes, got "
            "another file",
            fix="rename it or put the weights' spec there",
        )
    names = validate(LabelSpace, with_classes(values)["classes"], f"{where}: classes").names
    if names != job.classes.names:
        raise JobError(
            f"classes: expected those of {where}, {', '.join(names)}, got "
            f"{', '.join(job.classes.names)}",
            fix="evaluate networks of the same classes, in the same order",
        )
    model: SegmenterConfig = validate(ModelSection, values["model"], f"{where}: model")
    return model


def spec_beside(stores: Stores, uri: str) -> tuple[str, str] | None:
    """The URI and the text of the spec beside a file of weights; None where there is none."""
    folder, _, file = uri.rpartition("/")
    in_run = [SPEC] if file in NETWORK_WEIGHTS.values() else []
    for name in (spec_name(uri), *in_run):
        try:
            text = stores.open(folder or ".").get(name).decode(errors="replace")
        except MissingObject:
            continue
        return join(folder or ".", name), text
    return None


def spec_name(uri: str) -> str:
    """`spec.yaml` beside `weights.safetensors`, as in a run's folder; else the file's own name."""
    name = uri.rpartition("/")[2]
    if name == WEIGHTS:
        return SPEC
    ending = max((one for one in ENDINGS if name.lower().endswith(one)), key=len)
    return f"{name[: -len(ending)]}.yaml"
