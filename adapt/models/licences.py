"""Licences of pretrained weights that a job must accept by name: gated and non-commercial ones.

timm states the licence of each file of weights. All others are permissive, and need nothing.
"""

from adapt.errors import JobError, written
from adapt.models.config import SegmenterConfig

RESTRICTED: dict[str, str] = {
    "dinov3-license": "Meta's own terms, gated",
    "sapiens2-license": "Meta's own terms, gated",
    "seer-license": "Meta's own terms",
    "fair-noncommercial-research-license": "Meta's own terms, for non-commercial research alone",
    "nvidia-open-model-license": "NVIDIA's own terms",
    "apple-amlr": "Apple's own terms, for research alone",
    "gemma": "Google's own terms, gated",
    "qwen-community-1.0": "Alibaba's own terms",
    "cc-by-nc-4.0": "for non-commercial use alone",
}
"""Licence, as timm writes it -> what it is."""

KEY = "model.accept_license"


def check_licence(config: SegmenterConfig) -> None:
    """Raise `JobError` where the job starts from pretrained weights under a licence of `RESTRICTED`
    that it does not accept.

    Files at `weights_uri` count as the encoder's own; a whole network at `start_uri` does not.
    """
    pretrained = config.weights == "imagenet" or config.weights_uri is not None
    if config.start_uri is not None or not pretrained:
        return
    from adapt.models.encoders.timm import timm_knows

    if not timm_knows(config.encoder):
        return
    from adapt.models.encoders.pretrained import default_weights, weights_licence

    licence = weights_licence(config.encoder)
    if licence in RESTRICTED and config.accept_license != licence:
        weights = default_weights(config.encoder)
        raise JobError(
            f"{KEY}: expected {licence!r} ({RESTRICTED[licence]}), the licence of the weights of "
            f"{weights!r}, got {written(config.accept_license)}",
            fix=f"read it at https://huggingface.co/timm/{weights} and write {KEY}: {licence}, or "
            "choose another encoder",
        )
