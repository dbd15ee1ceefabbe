"""The frozen encoder of a distillation: its weights, its place in `check`, a stop and a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adapt.check import Subject
from adapt.check.memory import predicted_bytes
from adapt.check.weights import weights_findings
from adapt.errors import Interrupted, JobError
from adapt.models import build_encoder
from adapt.places import Place
from tests.trainer.jobs import job_of, run

SHORT = ("train.steps=2", "evaluate.every_steps=2", "evaluate.pictures=0", "model.norm=frozen")


def planted(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    path = folder / f"encoder-{seed}.safetensors"
    save_file(build_encoder("test_resnet", 32).state_dict(), path)
    return path


def distilled(uri: Path | str) -> str:
    return f"distillation={{encoder: test_resnet, size_hw: [32, 32], weights_uri: '{uri}'}}"


def test_a_stopped_job_resumes_with_its_frozen_encoder_alone(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    job = job_of(tiny_job, *SHORT, distilled(planted(tmp_path, 1)))
    with pytest.raises(Interrupted):
        run(job, place, stop_at=1)
    content = planted(tmp_path, 2).read_bytes()
    first = (tmp_path / "encoder-1.safetensors").read_bytes()
    (tmp_path / "encoder-1.safetensors").write_bytes(content)
    with pytest.raises(JobError, match="distillation: expected the weights that the run began"):
        run(job, place)
    (tmp_path / "encoder-1.safetensors").write_bytes(first)
    outcome, seen = run(job, place)
    assert outcome.step == 2 and "distillation/target" in seen[-1].losses


def test_check_names_the_key_of_a_frozen_encoder_s_weights(
    tiny_job: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    job = job_of(tiny_job, distilled(tmp_path / "other.safetensors"))
    (found,) = weights_findings(Subject(job, place))
    assert not found.ok and found.found.startswith("distillation.weights_uri: expected weights of")
    job = job_of(tiny_job, distilled(planted(tmp_path, 1)))
    (found,) = weights_findings(Subject(job, place))
    assert found.ok and "encoder-1.safetensors" in found.found


def test_an_encoder_that_does_not_exist_is_named_by_its_key(
    tiny_job: dict[str, Any], place: Place
) -> None:
    job = job_of(tiny_job, "distillation={encoder: resnot50, weights: none}")
    with pytest.raises(JobError, match=r"distillation.encoder: expected .* got 'resnot50'"):
        run(job, place)


def test_its_memory_is_predicted(tiny_job: dict[str, Any]) -> None:
    near = "distillation={encoder: test_vit, weights: none, size_hw: [32, 32]}"
    small = "method={name: source_only}"
    with_it, without = (predicted_bytes(job_of(tiny_job, small, *one), 1) for one in ([near], []))
    frozen = build_encoder("test_vit", None, equal_strides=True)
    encoder = sum(p.numel() for p in frozen.parameters()) * 4
    assert with_it.parameters - without.parameters > encoder
    assert with_it.optimizer > without.optimizer
