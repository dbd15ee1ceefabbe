"""The weights that training starts from."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from adapt.check.weights import labelling_findings, weights_findings
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


STAGE = 'method={"name": "intra_da", "weight_adv": [0.01], "pseudo_labels": {"run": "before"}}'


def trained(folder: Path, *overrides: str) -> Path:
    """A run `before` with one checkpoint, as far as a labelling stage reads it."""
    one = subject(folder, "packed", "name=before", *overrides)
    step = folder / "runs" / "before" / "step-00000002"
    step.mkdir(parents=True)
    save_file(build_network(one.job, one.stores).state_dict(), step / "weights.safetensors")
    (step / "spec.yaml").write_text(one.job.to_yaml())
    (step / "manifest.json").write_text("{}")
    return step


def test_the_run_that_labels_is_loaded(tmp_path: Path) -> None:
    step = trained(tmp_path, "model.architecture=deeplab_v3", "model.norm=train")
    one = subject(tmp_path, "packed", STAGE)
    found = list(labelling_findings(one))
    assert_green(found, "pseudo-labels", f"made by {step}/weights.safetensors, deeplab_v3 on")
    assert list(labelling_findings(subject(tmp_path))) == []


def test_a_run_that_cannot_label_is_red(tmp_path: Path) -> None:
    one = subject(tmp_path, "packed", STAGE)
    message = "method.pseudo_labels.run: expected a run with a checkpoint, got none at"
    assert_red(labelling_findings(one), "pseudo-labels", 2, message, "train that run first")
    trained(tmp_path, "classes.0.name=another")
    assert_red(labelling_findings(one), "pseudo-labels", 2, "classes: expected those of", "another")


def test_a_start_from_another_architecture_is_red(tmp_path: Path) -> None:
    trained(tmp_path, "model.architecture=deeplab_v3", "model.norm=train")
    stage = '{"name": "class_balanced_self_training", "pseudo_labels": {"run": "before"}}'
    one = subject(tmp_path, "packed", f"method={stage}")
    assert_red(weights_findings(one), "weights", 2, "expected weights of deeplab_v2")
