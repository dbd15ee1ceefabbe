"""The frozen networks that teach a job's own: built, and loaded with the weights that the spec
names."""

from adapt.errors import keys_renamed
from adapt.methods.distillation import Distillation, DistillationConfig
from adapt.methods.method import AddOn
from adapt.models import build_encoder, is_transformer
from adapt.models.config import SegmenterConfig
from adapt.models.encoders.encoder import UNDILATED_STRIDE, Encoder
from adapt.models.licences import check_licence
from adapt.models.segmenter import Segmenter
from adapt.models.weights import load_fitting, read_weights
from adapt.spec.job_spec import JobSpec
from adapt.trainer.fetched import fetched
from storage.stores import Stores

_STATED = {"encoder", "weights", "weights_uri", "accept_license"}


def build_add_ons(
    job: JobSpec, segmenter: Segmenter, stores: Stores | None = None
) -> dict[str, AddOn]:
    """The add-ons of the job's method by section; without `stores` their networks are left random.

    Raises `JobError` where their weights do not fit.
    """
    config = job.distillation
    if config is None:
        return {}
    with keys_renamed("model.", "distillation."):
        check_licence(SegmenterConfig(architecture="none", **config.model_dump(include=_STATED)))
        teacher = _frozen_encoder(config.encoder)
        if stores is not None:
            _load_encoder(teacher, config, stores)
    return {"distillation": Distillation(config, segmenter, teacher)}


def _frozen_encoder(name: str) -> Encoder:
    """Of a vision transformer its own stages; other networks as classifiers are trained."""
    transformer = is_transformer(name)
    return build_encoder(name, None if transformer else UNDILATED_STRIDE, transformer)


def _load_encoder(encoder: Encoder, config: DistillationConfig, stores: Stores) -> None:
    """Give it the weights that the section names."""
    if config.weights_uri is not None:
        with fetched(stores, config.weights_uri) as path:
            weights = read_weights(path, config.weights_sha256, key="model.weights_uri")
            load_fitting(weights, encoder.load, "model.weights_uri")
    elif config.weights == "imagenet":
        encoder.load(encoder.imagenet_weights())
