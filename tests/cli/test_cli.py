"""The commands as users run them: answers, exit codes, messages, signals."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from adapt.config.strict_yaml import packed
from adapt.models import build_segmenter
from adapt.models.official.names import MULTI_LEVEL_HEADS, official_name
from adapt.spec.job_spec import JobSpec, json_schema
from adapt.trainer.trainer import Outcome
from tests.commands import ROOT, Ended, call, finish, start, start_python
from tests.conftest import TINY_HW, tiny_values, write_raw_folders

COMMANDS = [
    "run", "check", "pack", "merge", "verify", "inspect", "evaluate", "predict", "download-best",
    "import-checkpoint", "export-checkpoint", "demo", "schema", "models", "cache", "sync-metrics",
    "submit", "jobs", "status", "logs", "stop", "train", "specs",
]  # fmt: skip
SECONDS = 15
"""What `within seconds` means on a busy machine of two cores."""


@pytest.fixture
def spec(tiny_uri: str, tmp_path: Path) -> Path:
    """The tiny job's spec file; its checkpoints go to `runs` in the same folder."""
    return write_spec(tiny_values(tiny_uri, "runs"), tmp_path)


def write_spec(values: dict[str, Any], folder: Path) -> Path:
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder / "tiny.yaml"


def refused(ended: Ended, code: int, *parts: str) -> None:
    """The command ended with this code and one message, which has these parts."""
    message = ended.err.strip().splitlines()
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err and ended.out == ""
    kinds = ("JobError", "StoreError", "MissingObject", "DataError", "StoreUnavailable")
    assert sum(line.startswith(kinds) for line in message) == 1, ended.err
    for part in parts:
        assert part in ended.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    ended = call(command, "--help", folder=tmp_path)
    assert ended.code == 0 and command in ended.out and ended.err == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["run"], "SPEC: expected a job spec, got none, nor from the platform (local)"),
        (["check"], "Missing argument 'SPEC'"),
        (["schema", "--bogus"], "No such option: --bogus"),
        (["pack", "folders", "raw", "uri", "--size-hw", "48"], "--size-hw"),
    ],
)
def test_wrong_usage_ends_with_2(argv: list[str], message: str, tmp_path: Path) -> None:
    ended = call(*argv, folder=tmp_path)
    assert ended.code == 2 and message in ended.err and "Traceback" not in ended.err


def test_without_arguments_the_commands_are_listed(tmp_path: Path) -> None:
    ended = call(folder=tmp_path)
    assert ended.code == 2 and all(command in ended.out + ended.err for command in COMMANDS)


def test_schema_is_the_models_own(tmp_path: Path) -> None:
    assert call("schema", folder=tmp_path) == Ended(0, json_schema(), "")


def test_a_bug_ends_with_1_and_its_traceback(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("adapt.trainer.run.run_job", broken)
    ended = call("run", spec, folder=tmp_path)
    assert ended.code == 1
    assert "Traceback" in ended.err and "ZeroDivisionError: a bug" in ended.err
    assert "this is a bug in SegAdapt" in ended.err


def test_check_answers_with_a_spec_that_is_valid_itself(spec: Path, tmp_path: Path) -> None:
    first = call("check", spec, "--spec", "--set", "train.steps=7", folder=tmp_path)
    assert first.code == 0 and "valid" in first.err
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(first.out)
    again = call("check", resolved, "--spec", folder=tmp_path)
    assert again.out == first.out
    as_json = call("check", resolved, "--spec", "--json", folder=tmp_path)
    assert json.loads(as_json.out) == yaml.safe_load(first.out)
    assert json.loads(as_json.out)["train"]["steps"] == 7


@pytest.mark.parametrize("command", [("check", "--spec"), ("run",)])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "train.stepz: unknown key, got 'stepz'; did you mean 'steps'?"),
        ("train.steps=10k", "train.steps: expected a positive integer, got '10k'"),
        (
            "stores={s3: {access_key_env: NO_SUCH_KEY, secret_key_env: NO_SUCH_SECRET}}",
            "stores.s3.access_key_env: expected the secret in environment variable NO_SUCH_KEY",
        ),
    ],
)
def test_a_wrong_spec_is_refused_by_key(
    command: tuple[str, ...], override: str, message: str, spec: Path, tmp_path: Path
) -> None:
    uri = ("--set", "source.uri=s3://bucket/tiny")
    ended = call(*command, spec, "--set", override, *uri, folder=tmp_path)
    refused(ended, 2, message)
    assert not (tmp_path / "runs").exists()


def test_a_spec_that_is_not_there(tmp_path: Path) -> None:
    refused(call("run", "nowhere.yaml", folder=tmp_path), 2, "nowhere.yaml", "cannot be read")


def pack(folder: Path, *more: object, layout: str = "folders", raw: str = "raw") -> Ended:
    return call("pack", layout, raw, "packed", "--shard-mb", "0.03", *more, folder=folder)


def test_pack_then_pack_again_does_nothing(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 6, seed=1)
    first = pack(tmp_path, "--name", "tiny", "--json")
    assert first.code == 0 and "6 samples" in first.err
    answer = json.loads(first.out)
    assert (answer["num_samples"], answer["dataset"], answer["split"]) == (6, "tiny", "train")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").rglob("*")}
    again = pack(tmp_path, "--name", "tiny", "--json")
    assert json.loads(again.out) == answer
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").rglob("*")} == before
    refused(pack(tmp_path, "--name", "other"), 2, "another packing is there", "--overwrite")


@pytest.mark.parametrize("more", [("--size-hw", 24, 32), ("--small",)], ids=str)
def test_original_files_are_not_resized(more: tuple[object, ...], tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    refused(pack(tmp_path, "--original", *more), 2, "--original")
    assert not (tmp_path / "packed").exists()


def test_slices_are_merged_and_verified(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 14, seed=1)
    for number in (1, 0):
        ended = pack(tmp_path, "--slice", f"{number}/2", "--json")
        assert ended.code == 0 and f"(slice {number}/2). Run `merge` when all" in ended.err
        assert "dataset_id" not in json.loads(ended.out)
        if number == 1:
            refused(
                call("merge", "packed", folder=tmp_path), 4, "`pack --slice I/2` again for I = 0,"
            )
    shutil.rmtree(tmp_path / "raw")
    merged = call("merge", "packed", "--json", folder=tmp_path)
    assert merged.code == 0 and "packed/train: 14 samples in" in merged.err
    assert call("merge", "packed", "--json", folder=tmp_path).out == merged.out
    verified = call("verify", "packed", folder=tmp_path)
    assert verified.code == 0 and "14 samples in" in verified.err and verified.out == ""
    assert "of train, " in verified.err and "no faults" in verified.err
    write_raw_folders(tmp_path / "raw", 14, seed=1)
    whole = call("pack", "folders", "raw", "whole", "--shard-mb", "0.03", "--json", folder=tmp_path)
    assert whole.out == merged.out


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 14, seed=1)
    pack(tmp_path)
    shard = tmp_path / "packed" / "train" / "shard-00001.tar"
    shard.write_bytes(shard.read_bytes()[:-9000])
    ended = call("verify", "packed", "--split", "train", folder=tmp_path)
    refused(ended, 4, "train/shard-00001.tar: size: expected", "--overwrite")
    as_json = call("verify", "packed", "--json", "--workers", 1, folder=tmp_path)
    assert as_json.code == 4 and len(json.loads(as_json.out)["faults"]) >= 3
    shard.unlink()
    refused(
        call("verify", "packed", folder=tmp_path), 4, "1 faults in", "shard-00001.tar: is missing"
    )
    refused(call("verify", "nothing", folder=tmp_path), 4, "nothing: no packed split is there")


def test_labels_are_packed_as_the_train_ids_of_a_spec(spec: Path, tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 4, seed=1)
    packed = pack(tmp_path, "--name", "tiny", "--classes", spec, "--json")
    names = [f"band {index}" for index in range(4)]
    assert json.loads(packed.out)["label_space"]["classes"] == names
    shown = call("inspect", "packed", "--json", folder=tmp_path)
    assert list(json.loads(shown.out)["class_shares"]) == [*names, "ignored"]
    values = tiny_values(str(tmp_path / "packed"), "runs")
    values["classes"] = [*values["classes"][:3], {**values["classes"][3], "name": "car"}]
    del values["validation"]
    ended = call("run", write_spec(values, tmp_path), folder=tmp_path)
    refused(
        ended,
        4,
        "packed/train: expected labels of the classes band 0, band 1, band 2, car, got train ids "
        "of custom (band 0,",
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--slice", "2/2"),
            "--slice: expected I/N with I from 0 to N - 1, got '2/2'",
        ),
        (("--classes", "camvid12"), "did you mean 'camvid11'"),
        (
            ("--classes", "camvid11", "--unlabelled"),
            "--classes: expected labels to map, got images alone",
        ),
    ],
)
def test_wrong_options_of_pack_are_named(
    more: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    refused(pack(tmp_path, "--name", "camvid", *more), 2, message)
    assert not (tmp_path / "packed").exists()


def test_a_raw_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(pack(tmp_path), 4, "raw: expected a folder with images/")


@pytest.mark.parametrize("kept_bytes", [20, 2000], ids=["no header", "half a picture"])
def test_a_corrupt_image_stops_the_packing(kept_bytes: int, tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 6, seed=1)
    image = tmp_path / "raw" / "images" / "003.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:kept_bytes])
    refused(pack(tmp_path), 4, "003.png: corrupt image")
    assert not list(tmp_path.glob("packed/**/manifest.json"))
    assert call("inspect", "packed", folder=tmp_path).code == 4
    image.write_bytes(whole)
    assert pack(tmp_path).code == 0
    assert call("inspect", "packed", folder=tmp_path).code == 0


def test_unknown_ids_in_a_label_are_named(tmp_path: Path) -> None:
    for folder, ending, mode in (
        ("leftImg8bit", "leftImg8bit", "RGB"),
        ("gtFine", "gtFine_labelIds", "L"),
    ):
        (tmp_path / "raw" / folder / "train" / "ulm").mkdir(parents=True)
        path = tmp_path / "raw" / folder / "train" / "ulm" / f"ulm_000000_000019_{ending}.png"
        Image.new(mode, (8, 6), 77 if mode == "L" else (1, 2, 3)).save(path)
    ended = pack(tmp_path, layout="cityscapes")
    message = "labelIds.png: expected ids from 0 to 33 in the label, got 77"
    refused(ended, 4, f"ulm_000000_000019_gtFine_{message}")
    assert not list(tmp_path.glob("packed/**/manifest.json"))


def test_inspect_shows_class_shares_and_a_sheet(spec: Path, tiny_uri: str, tmp_path: Path) -> None:
    shown = call("inspect", tiny_uri, "--classes", spec, "--sheet", "sheet.png", folder=tmp_path)
    assert shown.code == 0 and "22 in" in shown.out and "band 3" in shown.out
    assert "sheet.png" in shown.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width >= TINY_HW[1]
    asked = ("--split", "val", "--classes", spec, "--json")
    answer = json.loads(call("inspect", tiny_uri, *asked, folder=tmp_path).out)
    assert answer["num_samples"] == 5 and answer["manifest"]["dataset"] == "tiny"
    assert sum(answer["class_shares"].values()) == pytest.approx(1)


def test_inspect_of_nothing(tmp_path: Path) -> None:
    refused(call("inspect", "nothing", folder=tmp_path), 4, "nothing", "pack")


@pytest.fixture(scope="module")
def finished(tiny_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the spec and the finished run of a source-only tiny job; `answer.json` is
    what the command answered."""
    folder = tmp_path_factory.mktemp("finished")
    changed = {"train": {"steps": 4, "log_every_steps": 1}, "evaluate": {"every_steps": 2}}
    values = tiny_values(tiny_uri, "runs") | {"method": {"name": "source_only"}} | changed
    ended = call("run", write_spec(values, folder), "--json", folder=folder)
    assert ended.code == 0, ended.err
    assert [line.split()[1] for line in ended.err.splitlines() if line.startswith("step ")] == [
        f"{step}/4" for step in range(1, 5)
    ]
    (folder / "answer.json").write_text(ended.out)
    return folder


def test_run_names_its_best_checkpoint(finished: Path) -> None:
    answer = json.loads((finished / "answer.json").read_text())
    assert (answer["run"], answer["step"]) == ("tiny", 4)
    assert answer["best"]["score"] >= answer["figures"]["miou"]
    again = call("run", "tiny.yaml", folder=finished)
    assert again.code == 0 and "done: tiny, 4 steps" in again.err
    assert "download-best tiny --out best --tracking-uri sqlite:///" in again.err
    assert "step 1/4" not in again.err, "a finished job is not trained again"


def figure_of(finished: Path, checkpoint: object) -> float:
    ended = call("evaluate", "tiny.yaml", "--checkpoint", checkpoint, "--json", folder=finished)
    assert ended.code == 0, ended.err
    return float(json.loads(ended.out)["miou"])


def test_evaluate_gives_the_recorded_figure(finished: Path) -> None:
    best = json.loads((finished / "answer.json").read_text())["best"]
    assert figure_of(finished, f"runs/tiny/{best['name']}") == best["score"]
    checkpoint = ("--checkpoint", f"runs/tiny/{best['name']}/weights.safetensors")
    shown = call("evaluate", "tiny.yaml", *checkpoint, "--pictures", "p.png", folder=finished)
    assert shown.code == 0 and "band 3" in shown.out and (finished / "p.png").is_file()


def test_an_ensemble_of_one_twice_is_itself(finished: Path) -> None:
    best = json.loads((finished / "answer.json").read_text())["best"]
    twice = ("--checkpoint", f"runs/tiny/{best['name']}") * 2
    ended = call("evaluate", "tiny.yaml", *twice, "--json", folder=finished)
    assert json.loads(ended.out)["miou"] == best["score"], ended.err
    weighed = call("evaluate", "tiny.yaml", *twice, "--weight", "0.3", folder=finished)
    refused(weighed, 2, "weights: expected a number for each checkpoint, got 1 for 2")


def test_predict_writes_ids_and_colours(finished: Path) -> None:
    best = json.loads((finished / "answer.json").read_text())["best"]
    wanted = ("--checkpoint", f"runs/tiny/{best['name']}", "--out", "seen", "--colours")
    sized = call("predict", "tiny.yaml", *wanted, "--size-hw", "96", "128", folder=finished)
    assert sized.code == 0 and "5 predictions in seen" in sized.err, sized.err
    (first, *_) = sorted((finished / "seen").glob("*.png"))
    with Image.open(first) as image:
        assert image.size == (128, 96)
        assert set(image.get_flattened_data()) <= {0, 1, 2, 3}
    assert len(list((finished / "seen" / "colours").glob("*.png"))) == 5


def test_an_official_network_is_imported_evaluated_and_exported(spec: Path, tmp_path: Path) -> None:
    model = {"architecture": "deeplab_v2", "encoder": "caffe_resnet14", "weights": "none"}
    network = build_segmenter(model, 4)
    official = {
        official_name(key, MULTI_LEVEL_HEADS): value for key, value in network.state_dict().items()
    }
    torch.save(official, tmp_path / "theirs.pth")
    imported = ("import-checkpoint", "theirs.pth", "--out", "ours.safetensors")
    refused(call(*imported, folder=tmp_path), 2, "--aspp-branches: expected 2", "or 4")
    done = call(*imported, "--aspp-branches", "2", folder=tmp_path)
    assert done.code == 0 and "mapped" in done.out and "model.start_uri" in done.out, done.err
    theirs = ("--set", "model.encoder=caffe_resnet14", "--set", "model.output_stride=8")
    asked = ("evaluate", spec, "--checkpoint", "ours.safetensors", *theirs, "--json")
    refused(call(*asked, folder=tmp_path), 2, "model.aspp_branches: expected 2")
    scored = call(*asked, "--set", "model.aspp_branches=2", folder=tmp_path)
    assert 0 <= json.loads(scored.out)["miou"] <= 1, scored.err
    exported = ("export-checkpoint", "ours.safetensors", "--out", "back.pth", "--style", "advent")
    assert call(*exported, folder=tmp_path).code == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], official[key]) for key in official)


def test_check_asks_the_networks(spec: Path, tmp_path: Path) -> None:
    one_level = ("--set", "model.aux=false")
    ended = call("check", spec, "--spec", *one_level, folder=tmp_path)
    refused(ended, 2, "method.weight_adv: expected at most one weight for each head", "got 2")
    ended = call("check", spec, "--spec", "--set", "model.encoder=resnet19", folder=tmp_path)
    refused(ended, 2, "model.encoder", "did you mean 'resnet18'")


@pytest.mark.parametrize("wanted", ["run name", "run id", "experiment"])
def test_download_best_fetches_what_was_recorded(wanted: str, finished: Path) -> None:
    best = json.loads((finished / "answer.json").read_text())["best"]
    names = {"run name": "tiny", "experiment": "tests"}
    if wanted == "run id":
        found = call("download-best", "tiny", "--out", "any", "--json", folder=finished)
        names["run id"] = json.loads(found.out)["run_id"]
    ended = call("download-best", names[wanted], "--out", wanted, "--json", folder=finished)
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert (answer["score"], answer["sha256"]) == (best["score"], best["sha256"])
    assert figure_of(finished, answer["weights_path"]) == best["score"]
    assert call("check", answer["spec_path"], "--spec", folder=finished).code == 0


def test_download_best_of_nothing_lists_the_experiments(finished: Path) -> None:
    ended = call("download-best", "nobody", "--out", "no", folder=finished)
    refused(ended, 2, "nobody: expected a run id, a run name, a job or an experiment", "tests")
    assert not (finished / "no").exists()


def test_download_best_keeps_no_other_bytes_than_recorded(finished: Path) -> None:
    best = json.loads((finished / "answer.json").read_text())["best"]
    weights = finished / "runs" / "tiny" / best["name"] / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        ended = call("download-best", "tiny", "--out", "changed", folder=finished)
        refused(ended, 4, "weights.safetensors: expected sha256")
        assert not (finished / "changed" / "weights.safetensors").exists()
    finally:
        weights.write_bytes(whole)


def test_download_best_without_mlflow(absent_uri: str, tmp_path: Path) -> None:
    started_s = time.monotonic()
    asked = ("--out", "best", "--tracking-uri", absent_uri)
    ended = call("download-best", "tiny", *asked, folder=tmp_path)
    refused(ended, 2, f"{absent_uri}: expected an answer of MLflow, got: ")
    assert time.monotonic() - started_s < 2 * SECONDS


def test_weights_that_do_not_fit(finished: Path, spec: Path, tmp_path: Path) -> None:
    best = json.loads((finished / "answer.json").read_text())["best"]
    weights = finished / "runs" / "tiny" / best["name"] / "weights.safetensors"
    start_uri = ("--set", f"model.start_uri={weights}")
    deeper = ("--set", "model.encoder=resnet34")
    ended = call("run", spec, *start_uri, *deeper, folder=tmp_path)
    refused(ended, 2, 'model.encoder: expected "resnet18", with which the weights', "resnet34")
    (tmp_path / "other.safetensors").write_bytes(b"no weights")
    ended = call("evaluate", spec, "--checkpoint", "other.safetensors", folder=tmp_path)
    refused(ended, 2, "other.safetensors", "cannot be read")


def test_a_truncated_shard(tiny_uri: str, spec: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", tiny_uri, copy], check=True)
    for shard in (copy / "train").glob("shard-*.tar"):
        shard.write_bytes(shard.read_bytes()[:-1000])
    ended = call("run", spec, "--set", f"source.uri={copy}", folder=tmp_path)
    refused(ended, 3, "truncated or damaged shard", "shard-0000")


def s3_settings(endpoint_url: str) -> tuple[str, ...]:
    keys = "access_key_env: TEST_ACCESS, secret_key_env: TEST_SECRET, region: us-east-1"
    return ("--set", f"stores.s3={{endpoint_url: '{endpoint_url}', addressing: path, {keys}}}")


def test_buckets_and_keys_that_do_not_fit(spec: Path, tmp_path: Path, s3_server: Any) -> None:
    stores = s3_settings(s3_server.endpoint_url)
    keys = {"TEST_ACCESS": s3_server.access_key, "TEST_SECRET": s3_server.secret_key}
    started_s = time.monotonic()
    for key in ("source.uri", "checkpoint.uri"):
        uri = ("--set", f"{key}=s3://no-such-bucket/x")
        ended = call("run", spec, *stores, *uri, folder=tmp_path, environment=keys)
        refused(ended, 3, "no-such-bucket")
        wrong = keys | {"TEST_SECRET": "wrong"}
        uri = ("--set", f"{key}=s3://tests/x")
        ended = call("run", spec, *stores, *uri, folder=tmp_path, environment=wrong)
        refused(ended, 3, "s3://tests/x", "TEST_SECRET")
    assert time.monotonic() - started_s < 4 * SECONDS


def test_a_store_that_does_not_answer(absent_uri: str, spec: Path, tmp_path: Path) -> None:
    keys = {"TEST_ACCESS": "a", "TEST_SECRET": "b"}
    uri = ("--set", "source.uri=s3://bucket/x")
    started_s = time.monotonic()
    ended = call("run", spec, *s3_settings(absent_uri), *uri, folder=tmp_path, environment=keys)
    refused(ended, 3, "s3://bucket/x", absent_uri)
    assert time.monotonic() - started_s < SECONDS


def test_checkpoints_that_cannot_be_written(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    started_s = time.monotonic()
    refused(call("run", spec, folder=tmp_path), 3, "runs", "is a file, not a folder")
    assert time.monotonic() - started_s < SECONDS


def test_a_full_disk(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path / "runs"]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("needs the right to mount a small disk")
    try:
        ended = call(
            "run", spec, "--set", f"tracking.uri=sqlite:///{tmp_path}/m.db", folder=tmp_path
        )
        refused(ended, 3, "the disk is full", "step-00000003")
        left = list((tmp_path / "runs").rglob("*"))
        assert not [path for path in left if path.name in ("manifest.json", "LATEST", "BEST.json")]
    finally:
        subprocess.run(["umount", tmp_path / "runs"], check=True)


def test_mlflow_that_does_not_answer_costs_no_job(
    absent_uri: str, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt.trainer.tracked_run.TRACKER_FLUSH_S", 1.0)
    ended = call("run", spec, "--set", f"tracking.uri={absent_uri}", folder=tmp_path)
    assert ended.code == 0 and "done: tiny, 6 steps" in ended.err
    (spool,) = (tmp_path / "scratch" / "tracking").glob("*.jsonl")
    assert "is unreachable" in ended.err
    assert "they are buffered in" in ended.err and str(spool) in ended.err


LONG = ("--set", "train.steps=12", "--set", "evaluate.every_steps=100")


@pytest.fixture(scope="module")
def calm(tiny_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adversarial run of 12 steps that nobody disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    ended = call("run", write_spec(tiny_values(tiny_uri, "runs"), folder), *LONG, folder=folder)
    assert ended.code == 0, ended.err
    return folder


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "runs" / "tiny" / "step-00000012" / "weights.safetensors")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.cold_start),
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
    ids=lambda number: number.name,
)
def test_a_job_that_got_a_signal_goes_on_bit_for_bit(
    number: signal.Signals, calm: Path, spec: Path, tmp_path: Path
) -> None:
    every_step = ("--set", "checkpoint.every_steps=1") if number == signal.SIGKILL else ()
    process = start("run", spec, *LONG, *every_step, folder=tmp_path)
    seen = wait_for_line(process, "step 4/12")
    process.send_signal(number)
    ended = finish(process)
    if number == signal.SIGKILL:
        assert ended.code == -signal.SIGKILL
    else:
        assert ended.code == 75, seen + ended.err
        assert f"{number.name}: saving at the next step" in ended.err
        assert "everything is saved" in ended.err and "Traceback" not in ended.err
    again = call("run", spec, *LONG, folder=tmp_path)
    first = "step 1/12" if number == signal.SIGKILL else "step 3/12"  # the last upload was cut off
    assert again.code == 0 and first not in again.err and "step 12/12" in again.err
    expected, found = last_weights(calm), last_weights(tmp_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("words", [("--help",), ("pack", "--help"), ("jobs",), ("run", "--typo")])
def test_commands_that_train_nothing_do_not_wait_for_torch(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """Nor, where they only explain themselves, for a library that takes a tenth of a second."""
    ended = finish(
        start_python("-X", "importtime", ROOT / "entrypoint.py", *words, folder=tmp_path)
    )
    assert ended.code in (0, 2) and "|adapt.cli\n" in ended.err.replace(" ", "")
    imported = {line.rpartition("|")[2].strip() for line in ended.err.splitlines()}
    dear = {"torch", "mlflow", "boto3", "numpy", "PIL"}
    if words == ("--help",):  # typer imports pydantic to parse any option
        dear |= {"pydantic", "yaml"}
    assert imported & dear == set()


def test_a_supervisor_imports_no_torch(spec: Path, tmp_path: Path) -> None:
    program = ("-X", "importtime", ROOT / "entrypoint.py", "run", spec, "--set", "train.steps=0")
    ended = finish(start_python(*program, folder=tmp_path))
    assert ended.code == 2 and ended.err.count("train.steps: expected a positive integer") == 1
    imported = {line.rpartition("|")[2].strip() for line in ended.err.splitlines()}
    assert "adapt.launch.supervisor" in imported
    assert imported & {"torch", "numpy", "PIL", "mlflow", "boto3"} == set()


def wait_for_line(process: subprocess.Popen[str], start_of_line: str) -> str:
    """Read what the process reports until a line starts so."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(start_of_line):
            return "".join(seen)
    raise AssertionError(f"no line {start_of_line!r} in:\n{''.join(seen)}")


PYTORCHJOB = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "PET_NNODES": "1",
    "MASTER_ADDR": "p-master-0",
    "RANK": "0",
}


@pytest.mark.parametrize(("ended", "expected"), [(75, 143), (0, 0), (3, 3)])
def test_an_interruption_has_the_code_that_the_platform_retries(
    ended: int, expected: int, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt.launch.supervisor.launch", lambda *_given: ended)
    found = call("run", spec, "--processes", 1, folder=tmp_path, environment=PYTORCHJOB)
    assert found.code == expected, found.err


def test_a_job_takes_what_the_platform_says(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[JobSpec] = []

    def trained(job: JobSpec, *_given: object) -> Outcome:
        seen.append(job)
        return Outcome(job.train.steps, None, {})

    monkeypatch.setattr("adapt.trainer.run.run_job", trained)
    platform = {"MA_VJ_NAME": "v", "checkpoints": "/out/checkpoints", "source": "/in/source"}
    environment = {**platform, "SEGADAPT_SPEC_BASE64": packed(spec.read_text())}
    arguments = ("--train.steps=9", "--source=/in/other", "--set", "seed=5")
    ended = call("run", *arguments, folder=tmp_path, environment=environment)
    assert ended.code == 0, ended.err
    (job,) = seen
    assert (job.source.uri, job.checkpoint.uri) == ("/in/other", "/out/checkpoints")
    assert (job.train.steps, job.seed, job.name) == (9, 5, "tiny")


def test_a_platform_that_contradicts_itself_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/termination-log").touch()
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "VC_TASK_INDEX": "0"}
    ended = call("schema", folder=tmp_path, environment=pod)
    refused(ended, 2, "VC_WORKER_HOSTS: expected the pods of a task named `worker`")
    shown = (tmp_path / "dev/termination-log").read_text()
    assert shown.startswith("JobError: VC_WORKER_HOSTS: expected the pods")


def test_a_platform_that_repeats_commands_takes_no_fresh(spec: Path, tmp_path: Path) -> None:
    ended = call("run", spec, "--fresh", folder=tmp_path, environment=PYTORCHJOB)
    refused(ended, 2, "--fresh: pytorchjob starts the same command again")


def test_passwords_of_servers_are_not_printed(spec: Path, tmp_path: Path) -> None:
    uri = "http://me:hunter2@127.0.0.1:1"
    environment = {"MLFLOW_TRACKING_URI": uri, "SEGADAPT_GRACE_S": "6"}
    ended = call("run", spec, "--json", folder=tmp_path, environment=environment)
    assert ended.code == 0 and json.loads(ended.out)["tracking_uri"] == "http://***@127.0.0.1:1"
    assert "hunter2" not in ended.out + ended.err
