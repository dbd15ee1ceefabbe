"""Licences of pretrained weights that a job must accept by name: gated and non-commercial ones.

timm states the licence of each file of weights; MiT's are NVIDIA's. All others are permissive, and
need nothing.
"""

from typing import NamedTuple

from adapt.errors import JobError, written
from adapt.models.config import SegmenterConfig
from adapt.models.encoders.mit import LICENCE as MIT_LICENCE
from adapt.models.encoders.mit import SIZES as MIT_SIZES

RESTRICTED: dict[str, str] = {
    "dinov3-license": "Meta's own terms, gated",
    "sapiens2-license": "Meta's own terms, gated",
    "seer-license": "Meta's own terms",
    "fair-noncommercial-research-license": "Meta's own terms, for non-commercial research alone",
    "nvidia-open-model-license": "NVIDIA's own terms",
    MIT_LICENCE: "NVIDIA's own terms, for non-commercial use alone",
    "apple-amlr": "Apple's own terms, for research alone",
    "gemma": "Google's own terms, gated",
    "qwen-community-1.0": "Alibaba's own terms",
    "cc-by-nc-4.0": "for non-commercial use alone",
}
"""Licence, as timm writes it where it has the weights -> what it is."""

KEY = "model.accept_license"
MIT_PAGE = "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"


class Terms(NamedTuple):
    """The licence of an encoder's pretrained weights, their name, and where it can be read."""

    licence: str
    weights: str
    page: str


def check_licence(config: SegmenterConfig) -> None:
    """Raise `JobError` where the job starts from pretrained weights under a licence of `RESTRICTED`
    that it does not accept.

    Files at `weights_uri` count as the encoder's own; a whole network at `start_uri` does not.
    """
    pretrained = config.weights == "imagenet" or config.weights_uri is not None
    if config.start_uri is not None or not pretrained:
        return
    terms = terms_of(config.encoder)
    if terms is None or terms.licence not in RESTRICTED:
        return
    if config.accept_license != terms.licence:
        raise JobError(
            f"{KEY}: expected {terms.licence!r} ({RESTRICTED[terms.licence]}), the licence of the "
            f"weights of {terms.weights!r}, got {written(config.accept_license)}",
            fix=f"read it at {terms.page} and write {KEY}: {terms.licence}, or choose another "
            "encoder",
        )


def terms_of(encoder: str) -> Terms | None:
    """The terms of the weights that an encoder starts from; None for the papers' own encoders."""
    if encoder in MIT_SIZES:
        return Terms(MIT_LICENCE, encoder, MIT_PAGE)
    from adapt.models.encoders.timm import timm_knows

    if not timm_knows(encoder):
        return None
    from adapt.models.encoders.pretrained import default_weights, weights_licence

    weights = default_weights(encoder)
    return Terms(weights_licence(encoder), weights, f"https://huggingface.co/timm/{weights}")
