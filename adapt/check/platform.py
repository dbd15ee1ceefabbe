"""The platform: whether it would accept the request, as far as its own client knows."""

from datetime import UTC, datetime

from adapt.check.subject import FAILURES, Findings, Subject, red
from adapt.platforms import PLATFORMS
from adapt.platforms.cost import price_of
from adapt.platforms.platform import Finding, Submission
from adapt.platforms.submit import name_of


def platform_findings(subject: Subject) -> Findings:
    """The findings of the platform's client; none without a profile."""
    profile = subject.profile
    if profile is None:
        return
    price = price_of(subject.job, profile)
    if price is not None:
        yield Finding("price", True, price)
    platform = PLATFORMS[profile.platform]
    name = name_of(subject.job.name, datetime.now(UTC), 1)
    try:
        request = platform.request(Submission(name, subject.job), profile)
    except FAILURES as error:
        yield red("request", error)
        return
    yield Finding(
        "request", True, f"{name}: within the rules of {profile.platform} for names and sizes"
    )
    try:
        yield from platform.connect(profile, subject.place.environment).check(request)
    except FAILURES as error:
        yield red(profile.platform, error)
