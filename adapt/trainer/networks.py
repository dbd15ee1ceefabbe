"""The job's networks: built, loaded with the spec's weights, checked without memory."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from adapt.engine.activation_checkpointing import CHECKPOINTING
from adapt.engine.frozen_weights import FROZEN, FrozenWeights
from adapt.engine.optim import build_optimizers
from adapt.errors import JobError, keys_renamed, known_names
from adapt.methods import build_method, labelling_of
from adapt.methods.method import Method
from adapt.methods.pinned import with_pinned
from adapt.methods.teacher_network import teacher_of
from adapt.models import ENCODERS, build_segmenter
from adapt.models.base_weights import (
    Base,
    base_of,
    frozen_names,
    read_base,
    take_out,
)
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
from storage.errors import MissingObject
from storage.stores import Stores

BASE_OPTION = "base"
GIVE_BASE = "name the file with the weights of the encoder that it was trained on: --base FILE"


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
    """The segmentation network with the weights it starts from, its adapters not started; `resumed`
    jobs, which load others, need no run that labels.

    With `checkpoint.trained_only` it notes its `base`. Raises `JobError` where they do not fit, or
    where their description is of another network.
    """
    network = _with_weights(job, stores, resumed)
    if job.checkpoint.trained_only:
        narrow = job.train.frozen_weights == "bf16"
        network.leave_out(base_of(network.encoder, job.model.weights_uri, narrow))
    return network


def _with_weights(job: JobSpec, stores: Stores, resumed: bool) -> Segmenter:
    model, num_classes = job.model, job.classes.num_classes
    if starts_as_labeller(job):
        if resumed:
            return build_segmenter(without_weights(model), num_classes)
        uri = checkpoint_uri(job, stores)
        return load_network(model, num_classes, stores, uri, LABELLING_RUN)
    return started_network(model, num_classes, stores)


def started_network(model: SegmenterConfig, num_classes: int, stores: Stores) -> Segmenter:
    """The network of a config with the weights that its section starts from, its adapters not
    started unless those weights have them.

    Raises `JobError` where they do not fit, or where their description is of another network.
    """
    if model.start_uri is not None:
        return load_network(model, num_classes, stores, model.start_uri, "model.start_uri")
    if model.weights_uri is None:
        return build_segmenter(model, num_classes, start_adapters=False)
    with fetched(stores, model.weights_uri) as path:
        weights = read_weights(path, model.weights_sha256)
        _check_description(model, num_classes, path, "model.weights_uri")
        return load_fitting(
            weights,
            lambda tensors: build_segmenter(model, num_classes, tensors, start_adapters=False),
            "model.weights_uri",
        )


def load_network(
    model: SegmenterConfig,
    num_classes: int,
    stores: Stores,
    uri: str,
    key: str,
    base: str | None = None,
) -> Segmenter:
    """The network of a config with its weights from a file of whole networks, whose key is `key`.

    A file that leaves out its base is completed by the encoder's weights at `base`, else at the
    config's `weights_uri`, else where its header says. Raises `JobError` where they do not fit, or
    where their description is of another network.
    """
    with fetched(stores, uri) as path:
        return network_of_file(model, num_classes, path, key, stores, base)


def network_of_file(
    model: SegmenterConfig,
    num_classes: int,
    path: Path,
    key: str,
    stores: Stores,
    base: str | None = None,
) -> Segmenter:
    """The same for a file on the local disk."""
    left_out = read_base(path, key)
    if base is not None and left_out is None:
        raise JobError(
            f"{BASE_OPTION}: expected weights that leave out their base, got those of a whole "
            f"network ({key})",
            "leave it out",
        )
    if left_out is None:
        segmenter = build_segmenter(without_weights(model), num_classes, start_adapters=False)
        _check_description(model, num_classes, path, key)
        load_fitting(read_weights(path, key=key), segmenter.load_weights, key)
        return segmenter
    _check_description(model, num_classes, path, key)
    segmenter = _on_base(model, num_classes, stores, left_out, base)
    check_base(left_out, base_of(segmenter.encoder, base), key)
    given = read_weights(path, key=key)
    take_out(segmenter, given)
    if left_out.bf16:
        FrozenWeights(segmenter).round_to_bf16()
    own = segmenter.state_dict()
    frozen = [f"encoder.{name}" for name in frozen_names(segmenter.encoder)]
    segmenter.load_weights({**{key: own[key] for key in frozen}, **given})
    segmenter.config = without_weights(model)
    return segmenter


def _on_base(
    model: SegmenterConfig, num_classes: int, stores: Stores, left_out: Base, base: str | None
) -> Segmenter:
    """The network with its base's weights alone."""
    uri = base or model.weights_uri or left_out.weights_uri
    given = {"weights": "imagenet", "weights_uri": uri, "weights_sha256": None, "start_uri": None}
    model = model.model_copy(update=given)
    try:
        if uri is None:
            return build_segmenter(model, num_classes, start_adapters=False)
        with fetched(stores, uri) as path:
            return load_fitting(
                read_weights(path, key=BASE_OPTION),
                lambda tensors: build_segmenter(model, num_classes, tensors, start_adapters=False),
                BASE_OPTION,
            )
    except (JobError, MissingObject) as error:
        raise JobError(error.problem, GIVE_BASE) from error


def check_base(left_out: Base, found: Base, key: str) -> None:
    """Raise `JobError` where the base is another than the one that the weights at `key` leave
    out."""
    if found.sha256 != left_out.sha256:
        where = left_out.weights_uri or "timm's hub"
        raise JobError(
            f"{key}: expected the base that it was trained on, {left_out.encoder} of {where} with "
            f"sha256 {left_out.sha256[:12]}... of its tensors, got one with {found.sha256[:12]}...",
            GIVE_BASE,
        )


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
