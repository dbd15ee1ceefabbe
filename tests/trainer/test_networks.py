"""The networks of a job: built, started from weights, checked."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adapt.errors import JobError
from adapt.models.discriminators import FullyConvolutionalDiscriminator
from adapt.models.official.exporting import adversaries_of
from adapt.places import Place
from adapt.trainer.networks import check_networks
from adapt.trainer.score import evaluate_checkpoint
from tests.trainer.jobs import job_of, run


@pytest.mark.slow
def test_a_run_can_start_from_another_runs_weights(tiny_job: dict[str, Any], place: Place) -> None:
    first = job_of(tiny_job)
    outcome, _ = run(first, place)
    assert outcome.best is not None
    weights = Path(first.checkpoint.uri) / "tiny" / outcome.best.name / "weights.safetensors"
    second = job_of(tiny_job, "name=second", f"model.start_uri={weights}", "train.steps=1")
    assert run(second, place)[0].step == 1
    other = job_of(
        tiny_job,
        "name=third",
        f"model.start_uri={weights}",
        "model.aux=false",
        "method={name: source_only}",
    )
    with pytest.raises(JobError, match=r"model.aux: expected true, with which the weights"):
        run(other, place)


def test_weights_of_two_branches_are_no_start_for_four(
    tiny_job: dict[str, Any], place: Place
) -> None:
    outcome, _ = run(job_of(tiny_job, "model.aspp_branches=2", "train.steps=1"), place)
    assert outcome.best is not None
    weights = Path(tiny_job["checkpoint"]["uri"]) / "tiny" / outcome.best.name
    start = f"model.start_uri={weights / 'weights.safetensors'}"
    message = "model.aspp_branches: expected 2, with which the weights at model.start_uri were"
    with pytest.raises(JobError, match=message):
        run(job_of(tiny_job, "name=second", start), place)
    (weights / "spec.yaml").unlink()  # by which it would be built
    message = r"model.aspp_branches: expected 2, with which the weights at .*\.safetensors were"
    with pytest.raises(JobError, match=message):
        evaluate_checkpoint(job_of(tiny_job), place, str(weights))


def test_discriminators_can_start_from_files(tiny_job: dict[str, Any], place: Place) -> None:
    weights = Path(tiny_job["checkpoint"]["uri"]) / "main.safetensors"
    weights.parent.mkdir(parents=True)
    network = FullyConvolutionalDiscriminator(4, tiny_job["method"]["discriminator_width"])
    torch.nn.init.zeros_(network.convs[4].bias)
    save_file(network.state_dict(), weights)
    steps = ("train.steps=1", "optim.adversary_lr=1e-12")
    job = job_of(tiny_job, f"method.discriminator_uris.main={weights}", *steps)
    outcome, _ = run(job, place)
    assert outcome.best is not None
    state = weights.parent / "tiny" / outcome.best.name / "state.pt"
    found = adversaries_of(state)["main"]
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(found[key], tensor)
    wide = job_of(
        tiny_job, "name=wide", f"method.discriminator_uris.main={weights}",
        "method.discriminator_width=8", *steps
    )  # fmt: skip
    with pytest.raises(JobError, match=r"discriminator_uris.main: expected weights of a discrim"):
        run(wide, place)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method.weight_adv=[1.0, 1.0, 1.0]",), "method.weight_adv: expected at most one weight"),
        (
            ("method.discriminator_uris.third=x.pth",),
            "method.discriminator_uris.third: expected an adapted head, got 'third'",
        ),
        (("optim.sgd_multiplicity=official",), "optim.sgd_multiplicity: expected none with enco"),
        (
            ("model.encoder=caffe_resnet14", "model.output_stride=8", "model.weights=imagenet"),
            "model.weights: expected none with encoder 'caffe_resnet14'",
        ),
        (("model.encoder=caffe_resnet14", "model.output_stride=16"), "model.output_stride: expe"),
    ],
)
def test_networks_that_do_not_fit_are_found_before_data_is_touched(
    tiny_job: dict[str, Any], overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        check_networks(job_of(tiny_job, *overrides))
