"""The checks of a job spec that need two of its sections."""

from typing import TYPE_CHECKING

from adapt.config.validation import Mistake
from adapt.engine.optim import schedule_length
from adapt.errors import JobError, known_names, written
from adapt.evaluation.label_free import FLIP_CONSISTENCY, TEACHER_AGREEMENT
from adapt.evaluation.metrics import subset_classes
from adapt.evaluation.protocol import EMA
from adapt.methods import METHODS, check_size, labelling_of
from adapt.methods.teacher_network import teacher_of
from adapt.stream.domains import DOMAINS, check_batch_size, datasets_of
from storage.config import key_fault
from storage.stores import READ_ONLY, STORES, settings_fault, uri_fault
from storage.uris import canonical, join, split_uri

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

LABELLING_RUN = "method.pseudo_labels.run"
"""The key of the run that labels the target."""


def check_consistency(spec: "JobSpec") -> None:
    """Raise `ValueError` or `Mistake`, named by key, where two sections do not fit together."""
    if METHODS[spec.method.name].needs_target and spec.target is None:
        raise ValueError(
            f"target: missing, expected a domain to adapt to with method {spec.method.name}"
        )
    _check_pairs(spec)
    for part in spec.parts("source"):
        _check_mapped(spec, part.key, part.config.dataset)
    _check_labelled_apart(spec)
    _check_labelling(spec)
    _check_scored(spec)
    _check_protocol(spec)
    _check_trained_only(spec)
    _check_stores(spec)


def _check_scored(spec: "JobSpec") -> None:
    """Labels that score have classes. Until the split is opened, one of a domain may have none."""
    if spec.validation is None:
        return
    domains = {part.config.dataset for key in ("source", "target") for part in spec.parts(key)}
    undecided = spec.evaluate.select_by is None and spec.validation.dataset not in domains
    if spec.evaluate.needs_labels or undecided:
        _check_mapped(spec, "validation", spec.validation.dataset)


def _check_labelled_apart(spec: "JobSpec") -> None:
    """Samples that are trained on do not score."""
    scored = spec.validation
    for key, target in datasets_of("target", spec.target).items():
        if scored is None or canonical(target.uri) != canonical(scored.uri):
            continue
        by_key = target.labelled_keys is not None or target.labelled_keys_uri is not None
        name = "split" if by_key else "labelled_split"
        if getattr(target, name) == scored.split:
            raise Mistake(
                f"{key}.{name}: expected another split than validation.split, got "
                f"{written(scored.split)} for both",
                fix="score on samples that are not trained on",
            )


def _check_protocol(spec: "JobSpec") -> None:
    evaluate = spec.evaluate
    if spec.validation is None and evaluate.select_by is not None and not evaluate.needs_labels:
        raise Mistake(
            f"evaluate.select_by: expected a validation split for {evaluate.select_by}, got none",
            fix="add the section validation; the target's own split will do, labels are not needed",
        )
    if spec.validation is None and evaluate.early_stop is not None:
        raise Mistake(
            "evaluate.early_stop: expected a validation split to see gains on, got none",
            fix="add the section validation; the target's own split will do, labels are not needed",
        )
    averaged = METHODS[spec.method.name].has_teacher or spec.train.ema is not None
    if len(spec.evaluate.networks) > 1 and not averaged:
        key = "weights" if spec.evaluate.weights == EMA else "ema"
        raise Mistake(
            f"evaluate.{key}: expected a moving average to evaluate, got none: method "
            f"{spec.method.name} has no teacher",
            fix="add train.ema: {alpha: 0.999}",
        )
    _check_compared(spec, averaged)


def _check_compared(spec: "JobSpec", averaged: bool) -> None:
    """Scores that compare two predictions get two that may differ."""
    for name in spec.evaluate.label_free_scores:
        key = "select_by" if spec.evaluate.score == name else "log_label_free"
        key = f"evaluate.{key}"
        if name == TEACHER_AGREEMENT and not averaged:
            raise Mistake(
                f"{key}: expected a score that the method can have, got {name!r}: method "
                f"{spec.method.name} has no teacher to agree with",
                fix="name another one, or add train.ema: {alpha: 0.999}",
            )
        if name == FLIP_CONSISTENCY and spec.evaluate.flip:
            raise Mistake(
                f"{key}: expected another score with evaluate.flip, got {name!r}: predictions that "
                "are averaged with the mirrored image's agree with them always",
                fix="name colour_consistency, or leave evaluate.flip out",
            )


WHOLE = "set checkpoint.trained_only: false"


def _check_trained_only(spec: "JobSpec") -> None:
    """Checkpoints leave out only a base that can be had again."""
    if not spec.checkpoint.trained_only:
        return
    key, model = "checkpoint.trained_only: expected", spec.model
    if model.adapters is None and not model.frozen_encoder:
        raise Mistake(
            f"{key} an encoder whose weights are frozen, got one that trains",
            f"add model.adapters or model.frozen_encoder, or {WHOLE}",
        )
    if model.start_uri is not None:
        raise Mistake(
            f"{key} a base at model.weights_uri or timm's, got model.start_uri, whose file has "
            "both base and trained weights",
            WHOLE,
        )
    if model.weights == "none" and model.weights_uri is None:
        raise Mistake(
            f"{key} a base that can be had again, got random weights",
            f"set model.weights_uri or model.weights: imagenet, or {WHOLE}",
        )
    if labelling_of(spec.method) is not None or teacher_of(spec.method) is not None:
        raise Mistake(
            f"{key} a method without a labelling stage or another network, got {spec.method.name}",
            WHOLE,
        )


def _check_stores(spec: "JobSpec") -> None:
    for key in spec.stores:
        fault = key_fault(key, STORES)
        if key.isidentifier() and key not in STORES:
            fault = f"stores.{key}: expected a known scheme, {known_names(key, STORES)}"
        if fault is not None:
            raise ValueError(fault)
        useless = settings_fault(key, spec.stores[key])
        if useless is not None:
            raise Mistake(*useless)
    for key, uri in spec.uris().items():
        wrong = uri_fault(uri)
        if wrong is not None:
            raise Mistake(f"{key}: {wrong[0]}", wrong[1])
    scheme, _ = split_uri(spec.checkpoint.uri)
    if scheme in READ_ONLY:
        raise ValueError(
            "checkpoint.uri: expected a store that lists and deletes (file, s3, obs, gs or "
            f"az), got {scheme}://"
        )


def _check_pairs(spec: "JobSpec") -> None:
    try:
        schedule_length(spec.optim, spec.train.steps)
        spec.loss.check_classes(spec.classes.num_classes)
        subset_classes(spec.evaluate.subsets, spec.classes.names)
        for domain in DOMAINS:
            check_batch_size(spec.datasets(domain))
            for key, one in spec.datasets(domain).items():
                if one.image_hw is not None:
                    name = "augment.crop_hw" if one.augment.crop_hw else "size_hw"
                    check_size(spec.method, f"{key}.{name}", one.image_hw)
    except JobError as error:
        raise Mistake(error.problem, error.fix) from error


def _check_labelling(spec: "JobSpec") -> None:
    section = labelling_of(spec.method)
    if section is not None and section.run is None:
        raise Mistake(
            f"{LABELLING_RUN}: missing, expected the run whose checkpoint labels the target "
            f"with method {spec.method.name}",
            fix="name a run that was trained before",
        )
    targets = spec.datasets("target")
    if section is not None and len(targets) > 1:
        raise Mistake(
            f"target: expected one dataset for the labelling stage of method "
            f"{spec.method.name}, got {len(targets)}",
            fix="name one of them",
        )
    rounds = getattr(spec.method, "rounds", 1)
    if rounds > spec.train.steps:
        raise Mistake(
            f"method.rounds: expected at most train.steps, {spec.train.steps}, got {rounds}"
        )
    labelling, own = spec.labelling_uri(), join(spec.checkpoint.uri, spec.name)
    if spec.name and labelling and f"{canonical(labelling)}/".startswith(f"{canonical(own)}/"):
        raise Mistake(
            f"{LABELLING_RUN}: expected another run, got this one, {spec.name!r}",
            fix="name the run that was trained before",
        )


def _check_mapped(spec: "JobSpec", key: str, dataset: str) -> None:
    try:
        spec.classes.table(dataset)
    except JobError as error:
        raise ValueError(f"{key}.dataset: {error}") from error
