"""The weights that training starts from."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from adapt.check.weights import weights_findings
from adapt.platforms.local_stack import S3Server
from adapt.trainer.networks import build_network
from tests.check.subjects import assert_green, assert_red, subject
from tests.servers import BUCKET


def test_weights_that_are_missing(packed_s3: str, s3_server: S3Server, tmp_path: Path) -> None:
    for uri in (f"{tmp_path}/none.safetensors", f"s3://{BUCKET}/none.safetensors"):
        override = f"model.weights_uri={uri}"
        one = subject(tmp_path, packed_s3, override, server=s3_server)
        assert_red(weights_findings(one), "weights", 3, "none.safetensors", "there is no such")


def test_weights_of_the_wrong_kind(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("{}")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    for file, key, message in (
        ("a", "weights_uri", "expected a file of tensors, got a.safetensors, which is a JSON"),
        ("b", "start_uri", "model: expected weights of deeplab_v2 on test_resnet with 4 classes"),
    ):
        one = subject(tmp_path, "packed", f"model.{key}={tmp_path}/{file}.safetensors")
        assert_red(weights_findings(one), "weights", 2, message)


def test_weights_that_fit_are_loaded(tmp_path: Path) -> None:
    one = subject(tmp_path)
    save_file(build_network(one.job, one.stores).state_dict(), tmp_path / "start.safetensors")
    one = subject(tmp_path, "packed", f"model.start_uri={tmp_path}/start.safetensors")
    assert_green(weights_findings(one), "weights", "start.safetensors")
    assert_green(weights_findings(subject(tmp_path)), "weights", "none: random ones")
