"""The spec against ranks and environment."""

from pathlib import Path

from adapt.check.data import check_split
from adapt.check.machine import gpu_findings
from adapt.check.spec import spec_findings
from adapt.platforms.local_stack import S3Server
from tests.check.subjects import assert_green, assert_red, subject


def test_batches_that_do_not_fit_the_profiles_ranks(tmp_path: Path) -> None:
    wide = subject(tmp_path, profile={"nodes": 2, "gpus": 2})
    message = "source.batch_size: expected a multiple of 4 (4 ranks x train.accumulate 1), got 2"
    assert_red(spec_findings(wide), "batches", 2, message)
    assert list(gpu_findings(wide, dict)) == [], "one mistake is one red line"
    assert_green(spec_findings(subject(tmp_path, profile={"gpus": 2})), "batches", "1 and 1 images")


def test_networks_that_do_not_fit_one_another(tmp_path: Path) -> None:
    odd = subject(tmp_path, "packed", "model.aux=false")
    assert_red(spec_findings(odd), "networks", 2, "method.weight_adv: expected at most one weight")
    assert_red(gpu_findings(odd, dict), "GPU memory", 2, "method.weight_adv")


def test_secrets_that_are_not_in_the_environment(s3_server: S3Server, tmp_path: Path) -> None:
    bare = subject(tmp_path, "s3://b/d", server=s3_server, environment={"TEST_SECRET_KEY": ""})
    message = "stores.s3.secret_key_env: expected the secret in environment variable TEST_SECRET"
    assert_red(spec_findings(bare), "secrets", 2, message, "export it before starting the job")
    assert_red(check_split(bare, "source").findings, "source", 3, "TEST_SECRET_KEY", "is not set")
