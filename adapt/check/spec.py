"""The spec by itself: whether batches fit the ranks, networks and method fit one another, secrets
are there."""

from adapt.check.subject import Findings, Subject, red
from adapt.errors import JobError
from adapt.platforms.platform import Finding
from adapt.trainer.networks import build_without_memory, check_networks


def spec_findings(subject: Subject) -> Findings:
    """The spec is valid already; here it meets the ranks and the environment."""
    yield _ranks(subject)
    yield _networks(subject)
    if subject.job.stores:
        yield _secrets(subject)


def _ranks(subject: Subject) -> Finding:
    job, ranks = subject.job, subject.num_ranks
    try:
        job.check_ranks(ranks)
    except JobError as error:
        return red("batches", error)
    sizes = [domain.batch_size for domain in (job.source, job.target) if domain is not None]
    shares = " and ".join(str(size // ranks) for size in sizes)
    return Finding("batches", True, f"{shares} images a rank, {ranks} rank{'s'[: ranks > 1]}")


def _networks(subject: Subject) -> Finding:
    try:
        check_networks(subject.job)
        method = build_without_memory(subject.job)
    except JobError as error:
        return red("networks", error)
    model = subject.job.model
    millions = sum(parameter.numel() for parameter in method.parameters()) / 1e6
    found = f"{model.architecture} on {model.encoder}, {subject.job.method.name}: {millions:.1f} M"
    return Finding("networks", True, f"{found} parameters")


def _secrets(subject: Subject) -> Finding:
    try:
        subject.job.check_environment(subject.place.environment)
    except JobError as error:
        return red("secrets", error)
    return Finding("secrets", True, "what `stores` names is in the environment")
