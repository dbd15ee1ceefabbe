"""The spec by itself: batches fit the ranks, networks and method fit one another, secrets are
there."""

from adapt.check.subject import Findings, Subject, red
from adapt.platforms.platform import Finding
from adapt.trainer.problems import checked


def spec_findings(subject: Subject) -> Findings:
    """The spec is valid already; here it meets the ranks and the environment."""
    for what, found, error in checked(subject.job, subject.place_of_job):
        yield Finding(what, True, found) if error is None else red(what, error)
