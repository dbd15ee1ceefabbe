"""Clients of the double of ModelArts, and jobs there."""

from typing import Any

from adapt.platforms.modelarts import connect, request
from adapt.platforms.modelarts.client import ModelArtsClient
from adapt.platforms.platform import Request
from tests.platforms import modelarts_double
from tests.platforms.modelarts_double import ModelArtsDouble
from tests.platforms.modelarts_samples import profile_of, submission_of
from tests.platforms.quick import QUICK

KEYS = {
    "HUAWEICLOUD_SDK_AK": modelarts_double.ACCESS_KEY,
    "HUAWEICLOUD_SDK_SK": modelarts_double.SECRET_KEY,
    "HUAWEICLOUD_SDK_PROJECT_ID": modelarts_double.PROJECT,
}


def connected(
    double: ModelArtsDouble, environment: dict[str, str] | None = None, **changes: Any
) -> ModelArtsClient:
    """A client of the double that waits for nothing."""
    profile = profile_of(**{"endpoint": double.url, **changes})
    made = connect(profile, KEYS | (environment or {}))
    made.poll_s, made.api.retry = 0.001, QUICK
    return made


def body_of(name: str = "tiny-1", **changes: Any) -> Request:
    return request(submission_of(name=name), profile_of(**changes))


def submitted(client: ModelArtsClient, double: ModelArtsDouble, *phases: str) -> str:
    """A job whose next looks show these phases."""
    job = client.submit(body_of())
    double.jobs[job].phases = list(phases)
    return job
