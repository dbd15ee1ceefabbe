"""Profiles and jobs of the tests of ModelArts."""

from typing import Any

from adapt.config.validation import validate
from adapt.platforms.modelarts import ModelArtsProfile
from adapt.platforms.platform import Submission
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec
from tests.conftest import tiny_values

SMALL = {
    "platform": "modelarts",
    "region": "cn-north-4",
    "project_id": "0123456789abcdef" * 2,
    "image": "town/segadapt:0.1.0",
    "flavor_id": "modelarts.p3.large.public",
    "inputs": dict.fromkeys(("source", "target", "validation"), "obs://towns/tiny"),
    "outputs": {"checkpoints": "obs://towns/runs"},
}
"""One node, nothing that needs keys."""

LARGE = {
    "platform": "modelarts",
    "region": "eu-west-101",
    "workspace_id": "f" * 32,
    "image": "swr.eu-west-101.myhuaweicloud.eu/town/segadapt:0.1.0",
    "flavor_id": "modelarts.pool.visual.8xlarge",
    "pool_id": "pool-1a2b3c",
    "nodes": 2,
    "gpus": 8,
    "max_hours": 48,
    "log_uri": "obs://towns/logs/",
    "restarts": 128,
    "restart_hanging": True,
    "grace_s": 90,
    "inputs": {"source": "obs://towns/tiny", "target": "obs://towns/tiny/"},
    "outputs": {"model": "obs://towns/models"},
    "volumes": [
        {"kind": "nfs", "source": "10.1.2.3:/share", "path": "/mnt/share", "read_only": True},
        {"kind": "pfs", "source": "/towns-fs/runs", "path": "/mnt/runs"},
        {"kind": "obs", "source": "/towns", "path": "/mnt/towns"},
    ],
    "priority": 2,
    "preemptible": True,
    "notification": {"topic_urn": "urn:smn:eu-west-101:1:me", "events": ["JobFailed"]},
    "environment": {"MLFLOW_TRACKING_URI": "http://mlflow.towns:5000"},
    "secrets": ["MLFLOW_TRACKING_PASSWORD", "OBS_ACCESS_KEY", "OBS_SECRET_KEY"],
}
"""Everything that a profile can say."""

OBS = {
    "endpoint_url": "https://obs.eu-west-101.myhuaweicloud.eu",
    "region": "eu-west-101",
    "access_key_env": "OBS_ACCESS_KEY",
    "secret_key_env": "OBS_SECRET_KEY",
}


def profile_of(values: dict[str, Any] = SMALL, **changes: Any) -> ModelArtsProfile:
    """A profile as `load_profile` makes it; None takes a key away."""
    changed = {key: one for key, one in (values | changes).items() if one is not None}
    return validate(ModelArtsProfile, changed)


def job_of(runs_uri: str = "obs://towns/runs", **changes: Any) -> JobSpec:
    """The tiny job with its data in OBS."""
    values = tiny_values("obs://towns/tiny", runs_uri)
    return parse_spec({**values, "stores": {"obs": OBS}, **changes}, "tiny")


def submission_of(job: JobSpec | None = None, name: str = "tiny-261127-120000") -> Submission:
    return Submission(name, job or job_of())
