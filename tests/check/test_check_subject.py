"""Parts of a job that only its platform can check."""

from pathlib import Path

from adapt.check import Subject
from adapt.check.data import check_split
from adapt.check.stores import checkpoint_findings
from adapt.check.tracking import tracking_findings
from adapt.check.weights import weights_findings
from adapt.platforms.local_stack import S3Server
from adapt.platforms.platform import Profile
from tests.check.subjects import PROFILE, assert_green, stores_seen, subject


def test_what_stands_on_the_platform_alone_is_said_to(tmp_path: Path) -> None:
    start = f"model.start_uri={tmp_path}/start.safetensors"
    there = subject(tmp_path, "/opt/ml/input/data/source", start, profile={})
    seen = "a folder of double's machines, checked only there"
    assert_green(check_split(there, "source").findings, "source", "/opt/ml/input/data/source", seen)
    assert_green(checkpoint_findings(there), "checkpoint", seen)
    assert_green(weights_findings(there), "model.start_uri", seen)


def test_names_of_the_platforms_own_network_are_said_to(
    s3_server: S3Server, tmp_path: Path
) -> None:
    inside = subject(
        tmp_path,
        "s3://b/d",
        server=s3_server,
        endpoint_url="http://seaweedfs.data.svc:8333",
        profile={"environment": {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}},
        runs="s3://b/runs",
    )
    seen = "a name of double's own network, checked only there"
    for what, found in stores_seen(inside):
        assert_green(found, what, f"seaweedfs.data.svc: {seen}")
    assert_green(tracking_findings(inside), "MLflow", f"mlflow: {seen}")


def test_data_that_the_platform_brings_is_its_own_to_check(tmp_path: Path) -> None:
    class Bringing(Profile):
        def replaced(self) -> dict[str, str]:
            return {"source.uri": "obs://b/d"}

    one = subject(tmp_path, "s3://b/d")
    there = Subject(one.job, one.place, Bringing.from_values(PROFILE, "profile"))
    found = check_split(there, "source").findings
    assert_green(found, "source", "obs://b/d: double's to fetch, with rights of its own")
