"""Commands on checkpoints: evaluate, predict, import, export, download-best."""

import json
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from adapt.models import build_segmenter
from adapt.models.official.names import MULTI_LEVEL_HEADS, official_name
from tests.cli.conftest import SECONDS, refused
from tests.commands import call
from tests.tracking.recorded import new_database


@pytest.mark.slow
def test_run_names_its_best_checkpoint(finished: Path) -> None:
    answer = json.loads((finished / "answer.json").read_text())
    assert (answer["run"], answer["step"]) == ("tiny", 4)
    assert answer["best"]["score"] >= answer["figures"]["miou"]
    rule = (answer["protocol"], answer["chosen_by"], answer["weights"])
    assert rule == ("best", "miou", "student")
    again = call("run", "tiny.yaml", folder=finished)
    assert again.code == 0 and "done: tiny, 4 steps" in again.err
    assert "% (best by miou, student)" in again.err
    assert "download-best tiny --out best --tracking-uri sqlite:///" in again.err
    assert "step 1/4" not in again.err, "a finished job is not trained again"


def figure_of(finished: Path, checkpoint: object) -> float:
    ended = call("evaluate", "tiny.yaml", "--checkpoint", checkpoint, "--json", folder=finished)
    assert ended.code == 0, ended.err
    return float(json.loads(ended.out)["miou"])


def test_evaluate_gives_the_recorded_figure(finished: Path) -> None:
    best = json.loads((finished / "answer.json").read_text())["best"]
    assert figure_of(finished, f"runs/tiny/{best['name']}") == best["score"]
    assert figure_of(finished, "runs/tiny") == best["score"], "a run's folder is its best"
    ended = call("evaluate", "tiny.yaml", "--checkpoint", "runs", folder=finished)
    refused(ended, 2, "runs: expected a file of weights or the folder of a checkpoint or of a run")
    checkpoint = ("--checkpoint", f"runs/tiny/{best['name']}/weights.safetensors")
    shown = call("evaluate", "tiny.yaml", *checkpoint, "--pictures", "p.png", folder=finished)
    assert shown.code == 0 and "band 3" in shown.out and (finished / "p.png").is_file()


@pytest.mark.slow
def test_an_ensemble_of_one_twice_is_itself(finished: Path) -> None:
    best = json.loads((finished / "answer.json").read_text())["best"]
    twice = ("--checkpoint", f"runs/tiny/{best['name']}") * 2
    ended = call("evaluate", "tiny.yaml", *twice, "--json", folder=finished)
    assert json.loads(ended.out)["miou"] == best["score"], ended.err
    weighed = call("evaluate", "tiny.yaml", *twice, "--weight", "0.3", folder=finished)
    refused(weighed, 2, "--weight: expected a number for each checkpoint, got 1 for 2. Fix: give")
    for text in ("nan", "0", "-1", "inf"):
        ended = call("evaluate", "tiny.yaml", *twice, *("--weight", text) * 2, folder=finished)
        refused(
            ended, 2, f"--weight: expected positive numbers, got {text}, {text}. Fix: give each"
        )


@pytest.mark.slow
def test_a_checkpoint_is_chosen_without_labels(finished: Path) -> None:
    kept = sorted(path.parent.name for path in (finished / "runs/tiny").glob("*/weights.*"))
    ended = call("choose", "tiny.yaml", "--json", folder=finished)
    assert ended.code == 0, ended.err
    ranked = json.loads(ended.out)
    assert sorted(Path(one["checkpoint"]).name for one in ranked) == kept and len(kept) > 1
    assert 1 >= ranked[0]["agreement"] >= ranked[-1]["agreement"] >= 0
    best = f"runs/tiny/{kept[0]}"
    twice = call("choose", "tiny.yaml", *("--checkpoint", best) * 2, folder=finished)
    assert "100.00" in twice.out and twice.err.endswith(f"chosen: {best}\n")
    one = call("choose", "tiny.yaml", "--checkpoint", best, folder=finished)
    refused(one, 2, "checkpoints: expected two or more to choose from, got 1", "checkpoint.keep")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert (answer["protocol"], answer["metric"], answer["weights"]) == ("best", "miou", "student")
    assert figure_of(finished, answer["weights_path"]) == best["score"]
    assert call("check", answer["spec_path"], "--spec", folder=finished).code == 0


def test_download_best_of_nothing_lists_the_experiments(finished: Path) -> None:
    ended = call("download-best", "nobody", "--out", "no", folder=finished)
    refused(ended, 2, "nobody: expected a run id, a run name, a job, an experiment or a", "tests")
    assert not (finished / "no").exists()


def test_download_best_makes_no_database(tmp_path: Path) -> None:
    ended = call("download-best", "tiny", "--out", "best", folder=tmp_path)
    refused(ended, 2, "runs/mlflow.db: expected MLflow's database file, got no file")
    assert not list(tmp_path.iterdir())


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
    refused(ended, 2, 'model.encoder: expected "test_resnet", with which the weights', "resnet34")
    (tmp_path / "other.safetensors").write_bytes(b"no weights")
    ended = call("evaluate", spec, "--checkpoint", "other.safetensors", folder=tmp_path)
    refused(ended, 2, "other.safetensors", "cannot be read")


@pytest.mark.slow
def test_a_registered_model_is_evaluated_compared_and_suggests(finished: Path) -> None:
    server = {"MLFLOW_TRACKING_URI": new_database(finished / "registry")}
    asked = ("runs/tiny", "--out", "theirs.safetensors", "--register", "registered tiny")
    imported = call("import-model", *asked, folder=finished, environment=server)
    assert imported.code == 0, imported.err
    registered = "models:/registered tiny@best"
    figures = [
        call(
            "evaluate",
            "tiny.yaml",
            "--checkpoint",
            one,
            "--json",
            folder=finished,
            environment=server,
        )
        for one in ("runs/tiny", registered)
    ]
    assert figures[0].code == 0 and figures[0].out == figures[1].out, figures[1].err
    both = ("--checkpoint", registered, "--checkpoint", "runs/tiny")
    chosen = call("choose", "tiny.yaml", *both, folder=finished, environment=server)
    assert chosen.code == 0 and "chosen: " in chosen.err, chosen.err
    wanted = ("--model", registered, "--count", "2", "--out", "by_registered")
    suggested = call("suggest", "tiny.yaml", *wanted, folder=finished, environment=server)
    assert suggested.code == 0, suggested.err
    gap = ("--model", registered, "--count", "12", "--set", "target.batch_size=2", "--json")
    compared = call("gap", "tiny.yaml", *gap, folder=finished, environment=server)
    assert compared.code == 0 and json.loads(compared.out)["model"] == registered, compared.err
    missing = call(
        "gap", "tiny.yaml", "--model", "models:/no@best", folder=finished, environment=server
    )
    refused(missing, 2, "models:/no@best: expected a registered model of MLflow")
