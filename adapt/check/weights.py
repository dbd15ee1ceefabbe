"""The weights that training starts from, and those that label the target: read and loaded, as the
job itself will."""

from adapt.check.subject import FAILURES, Findings, Subject, red
from adapt.methods import build_method
from adapt.platforms.platform import Finding
from adapt.spec.consistency import LABELLING_RUN
from adapt.trainer.labelling import labelling_network
from adapt.trainer.networks import (
    build_network,
    start_adversaries,
    starts_as_labeller,
)
from adapt.trainer.teacher_network import build_teacher
from adapt.trainer.teachers import build_add_ons

WHAT, LABELLER = "weights", "pseudo-labels"


def weights_findings(subject: Subject) -> Findings:
    """Build the networks and load the weights that the spec names."""
    job = subject.job
    uris = {
        key: uri
        for key, uri in job.uris().items()
        if key.startswith(("model.", "method.", "distillation."))
        and (key != LABELLING_RUN or starts_as_labeller(job))
    }
    unseen = {key: why for key, uri in uris.items() if (why := subject.only_there(key, uri))}
    for key, why in unseen.items():
        yield Finding(key, True, why)
    if unseen:
        return
    try:
        network = build_network(job, subject.stores)
        add_ons = build_add_ons(job, network, subject.stores)
        teacher = build_teacher(job, subject.stores, subject.place)
        method = build_method(job.method, network, add_ons, teacher)
        start_adversaries(job, subject.stores, method)
    except FAILURES as error:
        yield red(WHAT, error)
        return
    start = {"imagenet": "the encoder's of ImageNet", "none": "none: random ones"}
    loaded = ", ".join(uris.values()) or start[job.model.weights]
    yield Finding(WHAT, True, f"{loaded}")


def labelling_findings(subject: Subject) -> Findings:
    """Load the network that labels the target; none for methods without a labelling stage."""
    job = subject.job
    uri = job.labelling_uri()
    if uri is None:
        return
    only_there = subject.only_there(LABELLING_RUN, uri)
    if only_there is not None:
        yield Finding(LABELLER, True, only_there)
        return
    try:
        network, weights_uri = labelling_network(job, subject.stores)
    except FAILURES as error:
        yield red(LABELLER, error)
        return
    by = f"{network.config.architecture} on {network.config.encoder}"
    yield Finding(LABELLER, True, f"made by {weights_uri}, {by}")
