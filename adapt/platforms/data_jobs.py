"""Prepares the jobs that pack or verify a dataset on a platform, each a slice of its shards."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from adapt.config.strict_yaml import packed
from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from adapt.platforms.deploy import endpoint_name
from adapt.platforms.gpus import check_gpus
from adapt.platforms.platform import Profile
from adapt.platforms.predict_jobs import PreparedPrediction, slices_of
from adapt.platforms.prediction import DataJobs, SetUri
from adapt.platforms.reachable import asked_faults, key_faults, raise_together
from adapt.platforms.submit import name_of
from storage.stores import Stores

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec


class Wanted(NamedTuple):
    """A command as words, without its slice, and the URIs among them; of how many slices, or which
    one (`part`, I/N) alone."""

    words: Sequence[str]
    uris: Sequence[SetUri]
    num_slices: int | None
    part: str


def prepare_data_jobs(
    wanted: Wanted,
    profile: Profile,
    stores: Stores,
    spec: "JobSpec | None" = None,
    now: datetime | None = None,
) -> PreparedPrediction:
    """The requests; `spec` has the settings of the stores. Raises `JobError`, a line for each
    mistake, for what the platform would refuse or its machines would not have."""
    slices, num_slices = slices_of(wanted.num_slices, wanted.part)
    if profile.gpus:
        check_gpus(profile)
    label = f"{wanted.words[0]}-{endpoint_name(wanted.uris[-1].uri, None)}"
    jobs = DataJobs(
        name=name_of(label, now or datetime.now(UTC), 1, reserve=len(f"-{num_slices}")),
        words=tuple(wanted.words),
        uris=tuple(wanted.uris),
        num_slices=num_slices,
        slices=slices,
        spec=None if spec is None else packed(spec.to_yaml()),
    )
    platform, asked = PLATFORMS[profile.platform], [(one.key, one.uri) for one in jobs.uris]
    faults = asked_faults(asked, profile, stores)
    faults += key_faults([uri for _, uri in asked], profile, stores.configs)
    try:
        requests = platform.predict(jobs, profile)
    except JobError as error:
        raise_together([*faults, error])
        raise
    raise_together(faults)
    return PreparedPrediction(jobs, profile, platform, requests)
