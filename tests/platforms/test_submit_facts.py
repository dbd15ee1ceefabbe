"""What `submit` shows of a job before it is sent, on every platform, and how it names it."""

from datetime import UTC, datetime

import pytest
import yaml

from adapt.config.validation import validate
from adapt.platforms import PLATFORMS
from adapt.platforms.submit import facts_of, name_of, prepare_job
from adapt.spec.loading import parse_spec
from tests.commands import ROOT
from tests.conftest import tiny_values

SHOWN = {
    "docker": (
        {
            "mounts": [
                {"source": "/disk/town", "target": "/data"},
                {"source": "v", "target": "/runs"},
            ]
        },
        {
            "source.uri": "/data/a, which is the engine's /disk/town/a",
            "checkpoint.uri": "/runs, which is volume v",
        },
    ),
    "kubernetes": (
        {
            "volumes": [
                {"mount_path": "/data", "claim": "towns"},
                {"mount_path": "/runs", "nfs_server": "nas", "nfs_path": "/r", "read_only": False},
            ]
        },
        {
            "source.uri": "/data/a, which is claim towns:/a",
            "checkpoint.uri": "/runs, which is nfs nas:/r",
        },
    ),
    "modelarts": (
        {
            "inputs": {"source": "obs://bucket/town"},
            "outputs": {"checkpoints": "obs://bucket/runs", "model": "obs://bucket/m"},
            "log_uri": "obs://bucket/log",
            "cuda": 12,
            "volumes": [{"kind": "obs", "source": "/bucket/more", "path": "/data"}],
        },
        {
            "source.uri": "obs://bucket/town, in place of the spec's /data/a",
            "target.uri": "/data/a, which is obs /bucket/more/a",
            "checkpoint.uri": "obs://bucket/runs/tiny, in place of the spec's /runs",
            "best weights": "obs://bucket/m/tiny/",
            "log": "obs://bucket/log",
        },
    ),
    "slurm": (
        {
            "mounts": [
                {"source": "/shared/town", "target": "/data"},
                {"source": "/shared/runs", "target": "/runs"},
            ]
        },
        {
            "source.uri": "/data/a, which is the nodes' /shared/town/a",
            "checkpoint.uri": "/runs, which is the nodes' /shared/runs",
        },
    ),
    "sky": (
        {"price_per_hour": 2.0, "max_hours": 10},
        {
            "restarts": "by the platform; after its last attempt, submit --follow --restart N "
            "submits a reclaimed job again",
            "price": "2.00 USD an hour, at most 20.00 USD (max_hours 10)",
            "grace": "120 s from the platform's stop to its kill",
        },
    ),
    "sagemaker": (
        {
            "checkpoint_uri": "s3://bucket/runs",
            "output_uri": "s3://bucket/m",
            "channels": {
                name: {"uri": f"s3://bucket/{name}"} for name in ("source", "target", "validation")
            },
        },
        {
            "target.uri": "s3://bucket/target, in place of the spec's /data/a",
            "checkpoint.uri": "s3://bucket/runs/tiny, in place of the spec's /runs",
            "best weights": "s3://bucket/m/tiny-261129-120000/output/model",
        },
    ),
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_what_the_job_really_reads_and_writes(name: str) -> None:
    changes, expected = SHOWN[name]
    values = yaml.safe_load((ROOT / f"job_specs/platforms/{name}.yaml").read_text())
    for key in ("inputs", "outputs", "mounts", "volumes"):
        values.pop(key, None)
    values = {**values, "gpus": 1, **changes}
    values["environment"] = {}
    streams = name == "sky"
    read, written = ("s3://b/a", "s3://b/runs") if streams else ("/data/a", "/runs")
    job = parse_spec(tiny_values(read, written), "tiny")
    profile = validate(PLATFORMS[name].profile, values)
    facts = facts_of(prepare_job(job, profile, now=datetime(2026, 11, 29, 12, tzinfo=UTC)))
    assert {key: facts.get(key) for key in expected} == expected
    assert facts["MLflow"] == "a file beside the checkpoints"


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("advent", "advent-261127-234501"),
        ("My_Run.2", "my-run-2-261127-234501"),
        ("2 towns", "job-2-towns-261127-234501"),
        ("x" * 90, "x" * 26 + "-261127-234501"),
    ],
)
def test_names_are_labels(run: str, expected: str) -> None:
    assert name_of(run, datetime(2026, 11, 27, 23, 45, 1), 1) == expected
    again = name_of(run, datetime(2026, 11, 27, 23, 45, 1), 12)
    assert again.endswith("-r12") and len(again) <= 40
