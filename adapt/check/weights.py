"""The weights that training starts from: read and loaded, as the job itself will."""

from adapt.check.subject import FAILURES, Findings, Subject, red
from adapt.methods import build_method
from adapt.platforms.platform import Finding
from adapt.trainer.networks import build_network, start_adversaries

WHAT = "weights"


def weights_findings(subject: Subject) -> Findings:
    """Build the networks and load the weights that the spec names."""
    job = subject.job
    uris = {key: uri for key, uri in job.uris().items() if key.startswith(("model.", "method."))}
    unseen = {key: why for key, uri in uris.items() if (why := subject.only_there(key, uri))}
    for key, why in unseen.items():
        yield Finding(key, True, why)
    if unseen:
        return
    try:
        method = build_method(job.method, build_network(job, subject.stores))
        start_adversaries(job, subject.stores, method)
    except FAILURES as error:
        yield red(WHAT, error)
        return
    start = {"imagenet": "the encoder's of ImageNet", "none": "none: random ones"}
    loaded = ", ".join(uris.values()) or start[job.model.weights]
    yield Finding(WHAT, True, f"{loaded}")
