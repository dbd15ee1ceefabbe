"""The job's networks: built, loaded with the spec's weights, checked without memory."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from adapt.engine.activation_checkpointing import CHECKPOINTING
from adapt.engine.frozen_weights import FROZEN
from adapt.engine.optim import build_optimizers
from adapt.errors import JobError, keys_renamed, known_names
from adapt.methods import build_method, labelling_of
from adapt.methods.distil import teacher_of
from adapt.methods.method import Method
from adapt.methods.pinned import with_pinned
from adapt.models import ENCODERS, build_segmenter
from adapt.models.config import SegmenterConfig, without_weights
from adapt.models.licences import check_licence
from adapt.models.segmenter import Segmenter
from adapt.models.weights import (
    check_description,
    load_fitting,
    misfit,
    read_description,
    read_weights,
)
from adapt.spec.consistency import LABELLING_RUN
from adapt.spec.job_spec import JobSpec
from adapt.trainer.fetched import fetched
from adapt.trainer.labelling_run import checkpoint_uri
from adapt.trainer.teachers import build_add_ons
from storage.stores import Stores


def check_networks(job: JobSpec) -> Method:
    """Build all networks and optimizers without memory or weights; the method with them.

    Raises `JobError` where model, method and optimizers do not fit one another.
    """
    if not starts_as_labeller(job):
        check_licence(job.model)
    section = teacher_of(job.method)
    if section is not None and section.uri is None:
        with keys_renamed("model.", "method.teacher.model."):
            check_licence(section.model)
    method = build_without_memory(job)
    with torch.device("meta"):
        build_optimizers(job.optim, method)
    for network in method.learning():
        CHECKPOINTING[job.train.activation_checkpointing](network.encoder, nullcontext)
    FROZEN[job.train.frozen_weights](with_pinned(method))
    for name in _discriminator_uris(job):
        _adversary(method, name)
    starts_nowhere = job.model.weights_uri is None and job.model.start_uri is None
    starts_nowhere &= not starts_as_labeller(job)
    if job.model.weights == "imagenet" and starts_nowhere and job.model.encoder in ENCODERS:
        method.segmenter.encoder.imagenet_weights()  # its error names the weights that it needs
    return method


def build_without_memory(job: JobSpec) -> Method:
    """The job's method and networks on the meta device, without weights. Raises `JobError`."""
    with torch.device("meta"):
        segmenter = build_segmenter(without_weights(job.model), job.classes.num_classes)
        segmenter.set_loss(job.loss)
        section, teacher = teacher_of(job.method), None
        if section is not None:
            with keys_renamed("model.", "method.teacher.model."):
                teacher = build_segmenter(without_weights(section.model), job.classes.num_classes)
            teacher.set_loss(job.loss)
        return build_method(job.method, segmenter, build_add_ons(job, segmenter), teacher)


def starts_as_labeller(job: JobSpec) -> bool:
    """True where training starts from the weights that label the target."""
    section = labelling_of(job.method)
    return section is not None and section.start


def build_network(job: JobSpec, stores: Stores, resumed: bool = False) -> Segmenter:
    """The segmentation network with the weights it starts from; `resumed` jobs, which load others,
    need no run that labels.

    Raises `JobError` where they do not fit, or where their description is of another network.
    """
    model, num_classes = job.model, job.classes.num_classes
    if starts_as_labeller(job):
        if resumed:
            return build_segmenter(without_weights(model), num_classes)
        uri = checkpoint_uri(job, stores)
        return load_network(model, num_classes, stores, uri, LABELLING_RUN)
    return started_network(model, num_classes, stores)


def started_network(model: SegmenterConfig, num_classes: int, stores: Stores) -> Segmenter:
    """The network of a config with the weights that its section starts from.

    Raises `JobError` where they do not fit, or where their description is of another network.
    """
    if model.start_uri is not None:
        return load_network(model, num_classes, stores, model.start_uri, "model.start_uri")
    if model.weights_uri is None:
        return build_segmenter(model, num_classes)
    with fetched(stores, model.weights_uri) as path:
        weights = read_weights(path, model.weights_sha256)
        _check_description(model, num_classes, path, "model.weights_uri")
        return load_fitting(
            weights,
            lambda tensors: build_segmenter(model, num_classes, tensors),
            "model.weights_uri",
        )


def load_network(
    model: SegmenterConfig, num_classes: int, stores: Stores, uri: str, key: str
) -> Segmenter:
    """The network of a config with its weights from a file of whole networks, whose key is `key`.

    Raises `JobError` where they do not fit, or where their description is of another network.
    """
    whole = {"weights": "none", "weights_uri": None, "start_uri": uri}
    segmenter = build_segmenter(model.model_copy(update=whole), num_classes)
    with fetched(stores, uri) as path:
        return _filled(segmenter, path, key)


def network_of_file(model: SegmenterConfig, num_classes: int, path: Path, key: str) -> Segmenter:
    """The same for a file on the local disk."""
    return _filled(build_segmenter(without_weights(model), num_classes), path, key)


def _filled(segmenter: Segmenter, path: Path, key: str) -> Segmenter:
    _check_description(segmenter.config, segmenter.num_classes, path, key)
    load_fitting(read_weights(path, key=key), segmenter.load_weights, key)
    return segmenter


def start_adversaries(job: JobSpec, stores: Stores, method: Method) -> None:
    """Give adversaries the weights that `method.discriminator_uris` names.

    Raises `JobError` for an adversary the method does not have, or weights that do not fit.
    """
    for name, uri in _discriminator_uris(job).items():
        key, adversary = f"method.discriminator_uris.{name}", _adversary(method, name)
        with fetched(stores, uri) as path:
            weights = read_weights(path, key=key)
        load_fitting(weights, partial(_load_adversary, adversary, key), key)


def _load_adversary(adversary: nn.Module, key: str, weights: Mapping[str, Tensor]) -> None:
    differences = misfit(adversary.state_dict(), weights)
    if differences:
        raise JobError(f"{key}: expected weights of a discriminator, got {differences}")
    adversary.load_state_dict(weights)


def _discriminator_uris(job: JobSpec) -> dict[str, str]:
    """Only some methods' sections have the key."""
    return getattr(job.method, "discriminator_uris", {})


def _adversary(method: Method, name: str) -> nn.Module:
    """The adversary of an adapted head. Raises `JobError` where the method has none there."""
    known = {key.removeprefix("discriminator_"): one for key, one in method.adversaries().items()}
    if name not in known:
        raise JobError(
            f"method.discriminator_uris.{name}: expected an adapted head, "
            f"{known_names(name, known)}"
        )
    return known[name]


def _check_description(model: SegmenterConfig, num_classes: int, path: Path, key: str) -> None:
    described = read_description(path, key)
    if described is not None:
        check_description(described, model, num_classes, key)
