"""Checkpoints: complete or not there, checked when read, kept and dropped as promised."""

import json
import logging
from pathlib import Path

import pytest
import torch

from adapt.checkpoint.files import fetch_weights, sha256_of
from adapt.checkpoint.run_folder import RunFolder
from adapt.checkpoint.snapshot import Moment, Snapshot
from adapt.errors import DataError
from adapt.models.weights import read_description
from adapt.platforms.local_stack import S3Server
from storage.errors import MissingObject, StoreError
from storage.stores import Stores
from tests.servers import stores_of
from tests.storage.broken_answers import Fault, Flip, Shorten
from tests.storage.faults import FaultProxy

HEADER = {"segadapt.model": '{"aspp_branches": 2}'}
WEIGHTS = {"layer.weight": torch.arange(6.0).reshape(2, 3)}


def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(Stores().open(str(tmp_path / "run")))


def save(run: RunFolder, step: int) -> str:
    state = {"step": step, "rng": torch.get_rng_state()}
    return run.save(Snapshot(Moment(step, 0, 0.0), state, WEIGHTS, "seed: 1\n", HEADER)).name


def test_what_is_saved_is_found_again(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert run.newest_valid() is None
    save(run, 5)
    saved = run.save(Snapshot(Moment(10, 0, 0.0), {"step": 10}, WEIGHTS, "seed: 2\n", HEADER))
    found = run.newest_valid()
    assert found is not None and found[0] == saved.name and found[1]["step"] == 10
    assert run.spec_text(saved.name) == "seed: 2\n"
    assert (tmp_path / "run" / "LATEST").read_text() == saved.name
    loaded = fetch_weights(
        run.store, f"{saved.name}/weights.safetensors", tmp_path / "w.safetensors", saved.sha256
    )
    assert torch.equal(loaded["layer.weight"], WEIGHTS["layer.weight"])
    assert read_description(tmp_path / "w.safetensors") == {"aspp_branches": 2}


@pytest.mark.parametrize("harm", ["truncated", "tampered", "missing", "half-written"])
def test_a_damaged_checkpoint_is_named_and_skipped(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = folder(tmp_path)
    save(run, 5)
    newest = tmp_path / "run" / save(run, 10)
    state = newest / "state.pt"
    content = state.read_bytes()
    if harm == "truncated":
        state.write_bytes(content[: len(content) // 2])
    elif harm == "tampered":
        state.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    elif harm == "missing":
        state.unlink()
    else:
        (newest / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        found = run.newest_valid()
    assert found is not None and found[0] == "step-00000005"
    assert harm == "half-written" or "step-00000010: damaged, skipped" in caplog.text


@pytest.mark.parametrize("harm", ["truncated", "missing"])
def test_a_checkpoint_whose_spec_is_damaged_is_skipped(tmp_path: Path, harm: str) -> None:
    run = folder(tmp_path)
    save(run, 5)
    spec = tmp_path / "run" / save(run, 10) / "spec.yaml"
    if harm == "truncated":
        spec.write_text("se")
    else:
        spec.unlink()
    found = run.newest_valid()
    assert found is not None and found[0] == "step-00000005"


def test_a_step_that_is_saved_again_leaves_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder(tmp_path)
    assert save(run, 5) == "step-00000005"
    real = run.store.put

    def dies(key: str, data: bytes) -> None:
        if key.endswith("manifest.json"):
            raise StoreError(key)
        real(key, data)

    monkeypatch.setattr(run.store, "put", dies)
    with pytest.raises(StoreError):
        save(run, 5)
    monkeypatch.undo()
    found = run.newest_valid()
    assert found is not None and found[0] == "step-00000005"
    assert [save(run, 5), save(run, 5), save(run, 6)] == [
        "step-00000005-02",
        "step-00000005-03",
        "step-00000006",
    ]
    run.store.delete("step-00000005/manifest.json")  # as retention does
    assert save(run, 5) == "step-00000005-04"
    assert run.names()[-2:] == ["step-00000005-04", "step-00000006"]


def test_a_failed_upload_leaves_the_last_checkpoint_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder(tmp_path)
    save(run, 5)
    monkeypatch.setattr(run.store, "put", lambda key, data: (_ for _ in ()).throw(StoreError(key)))
    with pytest.raises(StoreError):
        save(run, 10)
    monkeypatch.undo()
    found = run.newest_valid()
    assert found is not None and found[0] == "step-00000005"
    assert (tmp_path / "run" / "LATEST").read_text() == "step-00000005"


def test_retention_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert run.best() is None
    for step in (1, 2, 3, 4, 5):
        saved = run.save(Snapshot(Moment(step, 0, 0.0), {"step": step}, WEIGHTS, "", HEADER))
        if step == 2:
            run.mark_best(saved, 0.5)
    run.retain(keep=2, newest="step-00000005")
    assert run.names() == ["step-00000002", "step-00000004", "step-00000005"]
    best = run.best()
    assert best is not None and (best.name, best.score) == ("step-00000002", 0.5)
    left = {path.name for path in (tmp_path / "run" / "step-00000001").glob("*")}
    assert not left


def test_retention_spares_the_newest_checkpoint_of_steps_that_are_named(tmp_path: Path) -> None:
    run = folder(tmp_path)
    for step in (1, 2, 2, 3, 4):
        save(run, step)
    assert run.retain(1, "step-00000004", spared=(2, 9)) == ["step-00000002-02", "step-00000004"]
    found = run.of_step(2)
    assert found is not None and found.name == "step-00000002-02"
    assert found.weights_uri.endswith("run/step-00000002-02/weights.safetensors")
    assert found.sha256 == sha256_of(tmp_path / "run" / found.name / "weights.safetensors")
    assert run.of_step(3) is None


def test_clearing_leaves_nothing(tmp_path: Path) -> None:
    run = folder(tmp_path)
    save(run, 1)
    run.clear()
    assert run.newest_valid() is None and not list(run.store.list())


def test_downloaded_weights_are_checked(tmp_path: Path) -> None:
    run = folder(tmp_path)
    name = save(run, 1)
    with pytest.raises(
        DataError, match=r"expected sha256 0000, got .*\. Fix: take another checkpoint"
    ):
        fetch_weights(run.store, f"{name}/weights.safetensors", tmp_path / "w", "0000")
    with pytest.raises(MissingObject):
        fetch_weights(run.store, "nothing.safetensors", tmp_path / "w")


def test_the_manifest_names_every_file(tmp_path: Path) -> None:
    run = folder(tmp_path)
    manifest = json.loads(run.store.get(f"{save(run, 1)}/manifest.json"))
    assert set(manifest["sha256"]) == {"weights.safetensors", "state.pt", "spec.yaml"}


def test_a_history_is_a_file_that_is_checked(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert run.history_text(save(run, 1)) == "", "as in a checkpoint of an older version"
    text = '{"kind": "train", "step": 2}\n' * 1000
    name = run.save(Snapshot(Moment(2, 0, 0.0), {}, WEIGHTS, "", HEADER, history=text)).name
    assert run.history_text(name) == text
    stored = tmp_path / "run" / name / "history.jsonl.gz"
    assert stored.stat().st_size < len(text) / 10
    stored.write_bytes(stored.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"history.jsonl.gz: expected sha256 "):
        run.history_text(name)
    assert run.newest_valid() is not None, "a job resumes all the same"


def test_a_report_replaces_an_earlier_one(tmp_path: Path) -> None:
    run = folder(tmp_path)
    for page in (b"<html>1", b"<html>2"):
        run.put_report(page)
    assert run.store.get("report.html") == b"<html>2"
    run.clear()
    with pytest.raises(MissingObject):
        run.store.get("report.html")


def test_a_second_network_is_a_file_that_comes_and_goes_with_its_checkpoint(tmp_path: Path) -> None:
    run = folder(tmp_path)
    second = {"ema.safetensors": {"layer.weight": torch.full((2,), 7.0)}}
    for step in (1, 2):
        moment = Moment(step, 0, 0.0)
        run.save(Snapshot(moment, {"step": step}, WEIGHTS, "", HEADER, others=second))
    manifest = json.loads(run.store.get("step-00000002/manifest.json"))
    assert set(manifest["sha256"]) == {
        *("weights.safetensors", "ema.safetensors"),
        *("state.pt", "spec.yaml"),
    }
    sha256 = manifest["sha256"]["ema.safetensors"]
    found = fetch_weights(run.store, "step-00000002/ema.safetensors", tmp_path / "w", sha256)
    assert found["layer.weight"].tolist() == [7.0, 7.0]
    run.retain(keep=1, newest="step-00000002")
    assert [info.key for info in run.store.list("step-00000001/")] == []


def test_loading_runs_no_code(tmp_path: Path) -> None:
    import hashlib
    import pickle

    run = folder(tmp_path)
    path = tmp_path / "run" / save(run, 1)

    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"step": Attack()}, path / "state.pt", pickle_module=pickle)
    digest = hashlib.sha256((path / "state.pt").read_bytes()).hexdigest()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"]["state.pt"] = digest
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert run.newest_valid() is None and not (tmp_path / "owned").exists()


def test_retention_does_not_count_damaged_ones_ahead(tmp_path: Path) -> None:
    run = folder(tmp_path)
    for step in (1, 2, 9):
        save(run, step)
    (tmp_path / "run" / "step-00000009" / "state.pt").write_bytes(b"cut")
    run.retain(keep=1, newest="step-00000002")
    assert run.names() == ["step-00000002", "step-00000009"]
    found = run.newest_valid()
    assert found is not None and found[0] == "step-00000002"


@pytest.mark.parametrize("content", [b"", b"{}", b'{"sha256": 3}', b"\xff"])
def test_a_damaged_manifest_is_skipped(tmp_path: Path, content: bytes) -> None:
    run = folder(tmp_path)
    save(run, 1)
    (tmp_path / "run" / save(run, 2) / "manifest.json").write_bytes(content)
    found = run.newest_valid()
    assert found is not None and found[0] == "step-00000001"


def test_a_damaged_best_loses_its_mark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = folder(tmp_path)
    saved = run.save(Snapshot(Moment(3, 0, 0.0), {"step": 3}, WEIGHTS, "", HEADER))
    run.mark_best(saved, 0.5)
    assert run.verified_best() == run.best()
    weights = tmp_path / "run" / saved.name / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert run.verified_best() is None
    assert "best checkpoint is damaged" in caplog.text and run.best() is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b'{"nam',
        b'{"name": "step-00000001", "score": NaN, "sha256": "0"}',
        b'{"name": "step-00000001", "score": Infinity, "sha256": "0"}',
        b'{"name": "step-00000001", "score": null, "sha256": "0"}',
    ],
)
def test_a_damaged_pointer_to_the_best_is_skipped(tmp_path: Path, content: bytes) -> None:
    run = folder(tmp_path)
    save(run, 1)
    (tmp_path / "run" / "BEST.json").write_bytes(content)
    assert run.best() is None


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Flip(100), Shorten(40)], ids=["flipped", "truncated"])
@pytest.mark.parametrize("file", ["state.pt", "manifest.json", "weights.safetensors", "BEST.json"])
def test_what_arrives_damaged_once_costs_no_checkpoint(
    s3_server: S3Server,
    s3_uri: str,
    proxy: FaultProxy,
    file: str,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    behind = stores_of(s3_server._replace(endpoint_url=proxy.endpoint_url)).open(s3_uri)
    run = RunFolder(behind)
    save(run, 5)
    state = {"step": 10, "rng": torch.get_rng_state()}
    saved = run.save(Snapshot(Moment(10, 0, 0.0), state, WEIGHTS, "seed: 1\n", HEADER))
    run.mark_best(saved, 0.5)
    proxy.order(fault if file != "BEST.json" else Shorten(40), file, times=2)
    newest, best = run.newest_valid(), run.verified_best()
    assert newest is not None and newest[0] == saved.name
    assert best is not None and best.name == saved.name
    assert proxy.num_ordered == 0
