"""The platform: whether it would take the request, as far as its own client can tell."""

from datetime import UTC, datetime

from adapt.check.subject import FAILURES, Findings, Subject, red
from adapt.platforms import PLATFORMS
from adapt.platforms.platform import Finding, Submission
from adapt.platforms.submit import name_of


def platform_findings(subject: Subject) -> Findings:
    """What the client of the profile's platform finds; nothing without a profile."""
    profile = subject.profile
    if profile is None:
        return
    platform = PLATFORMS[profile.platform]
    name = name_of(subject.job.name, datetime.now(UTC), 1)
    try:
        request = platform.request(Submission(name, subject.job), profile)
    except FAILURES as error:
        yield red("request", error)
        return
    yield Finding("request", True, f"{name}: keeps what {profile.platform} says of names and sizes")
    try:
        yield from platform.connect(profile, subject.place.environment).check(request)
    except FAILURES as error:
        yield red(profile.platform, error)
