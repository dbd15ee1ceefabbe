"""The price of a job on a platform, and the most that it may come to."""

from typing import TYPE_CHECKING

from adapt.platforms.platform import Profile

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec


def price_of(job: "JobSpec", profile: Profile, submissions: int = 1) -> str | None:
    """The price of an hour of all nodes, and what the job costs at most: by `train.max_cost`, and
    by the platform's `max_hours` of each of so many submissions. None without a price."""
    if profile.price_per_hour is None:
        return None
    per_hour, currency = profile.price_per_hour * profile.nodes, profile.currency
    hours, limits = profile.longest_hours(), []
    if job.train.max_cost is not None:
        limits.append(f"{job.train.max_cost:.2f} {job.report.currency} (train.max_cost)")
    if hours is not None:
        times = f", {submissions} times" if submissions > 1 else ""
        most = f"{per_hour * hours * submissions:.2f} {currency}"
        limits.append(f"{most} (max_hours {hours:g}{times})")
    most = f"at most {' and '.join(limits)}" if limits else "without a limit (--max-cost sets one)"
    return f"{per_hour:.2f} {currency} an hour, {most}"
