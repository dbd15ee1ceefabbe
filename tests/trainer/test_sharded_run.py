"""A job whose ranks hold parts: stopped and resumed bit for bit, with a plain file of weights."""

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor

from adapt.checkpoint.files import sha256_of
from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.shards import is_mark
from adapt.errors import Interrupted
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.trainer import run as run_module
from adapt.trainer import shard_saves
from adapt.trainer.progress import JobProgress
from adapt.trainer.shard_saves import ShardSaves
from storage.errors import StoreError
from storage.stores import Stores
from tests.rank_processes import on_ranks
from tests.trainer.jobs import assert_same_weights, job_of, last_folder, last_weights
from tests.trainer.test_trained_only import write_base


def run(job: JobSpec, place: Place, stop_at: int | None = None) -> list[Mapping[str, float]]:
    stop, losses = Event(), []

    def watch(progress: JobProgress) -> None:
        losses.append(dict(progress.losses))
        if progress.step == stop_at:
            stop.set()

    run_module.run_job(job, place, stop, watch)
    return losses


def job(values: dict[str, Any], folder: Path, name: str) -> JobSpec:
    return job_of(values, f"checkpoint.uri={folder / name}", "stream.threads=1")


def calm_and_stopped(
    rank: int, num_ranks: int, folder: Path, values: dict[str, Any], stop_at: int = 3
) -> Any:
    run_module.open_ranks = lambda *_: nullcontext()  # type: ignore[assignment] # they are open
    run_module.shared = lambda _stop: nullcontext()  # type: ignore[assignment] # of one run
    place = Place("local", {}, folder / f"scratch-{rank}", grace_s=120)
    place = replace(place, rank=rank, num_ranks=num_ranks)
    calm = run(job(values, folder, "calm"), place)
    stopped = job(values, folder, "stopped")
    try:
        run(stopped, place, stop_at)
    except Interrupted as error:
        return calm, run(stopped, place), str(error)
    return calm, [], "nothing stopped it"


@pytest.mark.slow
def test_a_stopped_job_ends_bit_identical(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    values = {**tiny_job, "tracking": {"experiment": "tests"}}
    values["method"] = {"name": "dacs", "pseudo_labels": {"threshold": 0.3}}
    values["model"] |= {"norm": "frozen"}
    values["train"] = {"steps": 4, "log_every_steps": 1, "parallel": "fsdp2"}
    values["evaluate"] = {"every_steps": 2, "pictures": 0, "ema": True}
    values["report"] = {"enabled": False}
    calm, rest, said = on_ranks(2, tmp_path, calm_and_stopped, tmp_path, values)[0]
    assert "step 3, everything is saved" in said
    assert rest == calm[3:] and len(rest) == 1
    assert_same_weights(*(job(values, tmp_path, name) for name in ("calm", "stopped")))
    last = RunFolder(Stores().open(str(tmp_path / "stopped" / "tiny"))).names()[-1]
    folder = tmp_path / "stopped" / "tiny" / last
    digests = json.loads((folder / "manifest.json").read_text())["sha256"]
    shards = {"shards/.metadata", "shards/__0_0.distcp", "shards/__1_0.distcp"}
    assert {file for file in digests if file.startswith("shards/")} == shards
    assert all(sha256_of(folder / file) == digest for file, digest in digests.items())


ALL_TOGETHER = {
    "model.adapters": {"kind": "soma", "rank": 2},
    "train.precision": "bf16",
    "train.frozen_weights": "bf16",
    "train.accumulate": 2,
    "checkpoint.trained_only": True,
}
"""Keys of a job whose checkpoints, weights and batches are in parts at the same time."""


def outgrown(values: dict[str, Any], base: str) -> dict[str, Any]:
    """The values of such a job, distilled from a frozen encoder, sharded over its ranks."""
    values = {**values, "tracking": {"experiment": "tests"}, "report": {"enabled": False}}
    values["method"] = {"name": "dacs", "pseudo_labels": {"threshold": 0.3}}
    values["model"] |= {"encoder": "test_vit", "weights_uri": base}
    values["train"] = {"steps": 4, "log_every_steps": 1, "parallel": "fsdp2"}
    values["evaluate"] = {"every_steps": 2, "pictures": 0, "ema": True}
    values["distillation"] = {"encoder": "test_vit", "weights_uri": base, "size_hw": [32, 32]}
    for domain in ("source", "target"):
        values[domain] |= {"batch_size": 4}
    for key, value in ALL_TOGETHER.items():
        section, name = key.split(".")
        values[section] |= {name: value}
    return values


@pytest.mark.slow
def test_adapters_alone_are_stored_of_sharded_networks_whose_frozen_weights_are_bf16(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    values = outgrown(tiny_job, write_base(tmp_path / "vit.safetensors", seed=1))
    calm, rest, said = on_ranks(2, tmp_path, calm_and_stopped, tmp_path, values)[0]
    assert "step 3, everything is saved" in said
    assert rest == calm[3:] and len(rest) == 1
    assert {"distillation/source", "distillation/target"} <= calm[0].keys()
    both = [job(values, tmp_path, name) for name in ("calm", "stopped")]
    assert_same_weights(*both)
    state = torch.load(last_folder(both[0]) / "state.pt")["engine"]
    kept = {name for name in state["method"] if name.startswith("segmenter.")}
    assert not any(name.endswith(".qkv.weight") for name in kept)
    assert {name for name in kept if is_mark(state["method"][name])} == kept - {
        name for name in kept if name.endswith(".basis")
    }
    elastic = job(values, tmp_path, "alone")
    shutil.copytree(tmp_path / "stopped", tmp_path / "alone")
    shutil.rmtree(last_folder(elastic))
    run(elastic, Place("local", {}, tmp_path / "scratch", grace_s=120))
    alone, expected = last_weights(elastic), last_weights(both[0])
    for name, value in expected.items():
        torch.testing.assert_close(alone[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_rounds_are_labelled_by_the_sharded_network(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    """Of a job that runs, and of one that was stopped before the second round had its labels."""
    values = {**tiny_job, "tracking": {"experiment": "tests"}, "report": {"enabled": False}}
    values["train"] = {"steps": 4, "log_every_steps": 1}
    values["evaluate"] = {"every_steps": 4, "pictures": 0}
    before = job({**values, "method": {"name": "source_only"}}, tmp_path, "before")
    run(before, Place("local", {}, tmp_path / "scratch", grace_s=120))
    stage = {"pseudo_labels": {"run": str(last_folder(before))}}
    values["method"] = {"name": "class_balanced_self_training", "rounds": 2, **stage}
    values["train"] |= {"parallel": "fsdp2"}
    calm, rest, said = on_ranks(2, tmp_path, calm_and_stopped, tmp_path, values, 2)[0]
    assert "nothing stopped it" not in said and len(calm) == 4
    assert rest == calm[2:]
    both = [job(values, tmp_path, name) for name in ("calm", "stopped")]
    assert_same_weights(*both)
    labels = [sorted(last_folder(one).parent.glob("pseudo_labels/round-1-*")) for one in both]
    assert [path.name for path in labels[0]] == [path.name for path in labels[1]] != []


def folder_at(path: Path) -> RunFolder:
    return RunFolder(Stores().open(str(path)))


TENSORS: dict[str, Tensor] = {"/a": torch.arange(4.0)}


def test_shards_that_cannot_be_stored_are_a_warning_or_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> dict[str, str]:
        raise StoreError("runs: the disk is full")

    monkeypatch.setattr(shard_saves, "WAIT_S", 0.01)
    beats: list[int] = []
    saves = ShardSaves(folder_at(tmp_path), lambda: beats.append(1))
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(RunFolder, "put_shards", refuse)
        assert saves.store(5, TENSORS, patience_s=0) is None
        assert "the shards of step 5 could not be stored, training continues" in caplog.text
        with pytest.raises(StoreError, match="the disk is full"):
            saves.store(5, TENSORS, patience_s=0.05)
    assert beats, "the watchdog hears of the wait"
    found = saves.store(5, TENSORS, patience_s=0)
    assert found is not None
    for file, digest in found.sha256.items():
        assert sha256_of(tmp_path / found.name / file) == digest


def test_two_saves_of_a_step_have_folders_of_their_own(tmp_path: Path) -> None:
    saves = ShardSaves(folder_at(tmp_path), lambda: None)
    names = [found.name for _ in range(2) if (found := saves.store(7, TENSORS, 0)) is not None]
    assert names == ["step-00000007", "step-00000007-02"]
