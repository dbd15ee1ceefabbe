"""The spec against ranks and environment."""

import re
from pathlib import Path

import pytest

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


MASKED_ADVENT = "{name: mic, host: {name: advent}, block_px: 8}"


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("{name: source_only}", ["network"]),
        ("{name: advent}", ["network", "discriminators"]),
        ("{name: dacs}", ["network", "teacher"]),
        (
            "{name: mic, host: {name: advent}, block_px: 8}",
            ["network", "teacher", "discriminators"],
        ),
        ("{name: daformer}", ["network", "teacher", "fixed networks"]),
    ],
)
def test_parameters_are_counted_by_part(method: str, parts: list[str], tmp_path: Path) -> None:
    """DAFormer's first encoder is neither trained nor a teacher."""
    (line,) = (
        one.found
        for one in spec_findings(subject(tmp_path, "packed", f"method={method}"))
        if one.what == "networks"
    )
    match = re.search(r": ([0-9.]+) M parameters \((.*)\)$", line)
    assert match, line
    counts = {part: float(count) for part, count in re.findall(r"([a-z ]+) ([0-9.]+)", match[2])}
    assert [part.strip() for part in counts] == parts
    assert float(match[1]) == pytest.approx(sum(counts.values()), abs=0.2)
    assert counts.get(" teacher", counts["network"]) == counts["network"]


@pytest.mark.slow
def test_secrets_that_are_not_in_the_environment(s3_server: S3Server, tmp_path: Path) -> None:
    bare = subject(tmp_path, "s3://b/d", server=s3_server, environment={"TEST_SECRET_KEY": ""})
    message = "stores.s3.secret_key_env: expected the secret in environment variable TEST_SECRET"
    assert_red(spec_findings(bare), "secrets", 2, message, "export it before starting the job")
    assert_red(check_split(bare, "source").findings, "source", 3, "TEST_SECRET_KEY", "is not set")
