"""The benchmark scripts' arithmetic: means, spreads, gains paired by seed, ratios, tables."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from adapt.models import ARCHITECTURES
from benchmarks import architectures, evaluation
from benchmarks.architectures import Cost, Measured, cost_table, ratios, result_table
from benchmarks.evaluation_images import measure_images, medians
from benchmarks.methods import run_all, write_block
from benchmarks.methods_table import Row, spread, table
from benchmarks.packaged_vit import encoder_weights
from benchmarks.serving import Timed, check_equal, measured, png_of, row


def test_spread_is_mean_and_standard_deviation_in_percent() -> None:
    assert spread([0.40, 0.44]) == "42.0 ± 2.8"
    assert spread([0.01, -0.01], "+") == "+0.0 ± 1.4"
    assert spread([]) == ""


def test_gains_are_paired_by_seed() -> None:
    def row(name: str, seed: int, miou: float) -> Row:
        return Row(name, seed, {"miou": miou, "iou": {"road": miou, "train": None}}, 2.0)

    rows = [row("source_only", 1, 0.40), row("source_only", 2, 0.44)]
    rows += [row("advent", 1, 0.41), row("advent", 2, 0.45)]
    lines = table(rows).splitlines()
    assert lines[0].startswith("| job | mIoU | gain over source only | road | train | minutes |")
    assert lines[2] == "| source_only | 42.0 ± 2.8 |  | 42.0 | 0.0 | 2.0 |"
    assert lines[3] == "| advent | 43.0 ± 2.8 | +1.0 ± 0.0 | 43.0 | 0.0 | 2.0 |"


def test_the_table_says_how_checkpoints_were_chosen() -> None:
    figures = {"miou": 0.4, "iou": {"road": 0.4}}
    rows = [Row("source_only", seed, figures, 2.0, "last, student") for seed in (1, 2)]
    rows.append(Row("mic", 1, figures, 2.0, "best by miou, ema"))
    lines = table(rows).splitlines()
    assert lines[0].endswith("| minutes | checkpoint |")
    assert lines[2].endswith("| 2.0 | last, student |")
    assert lines[3].endswith("| 2.0 | best by miou, ema |")


def test_a_job_that_fails_costs_the_others_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Task:
        has_start = False

        def run_before(self, method: str) -> str | None:
            return "b" if method == "after b" else None

        def job(self, method: str, seed: int) -> Row:
            if method == "bad":
                raise SystemExit("run bad.yaml ended with 4")
            return Row(method, seed, {}, 1.0)

    task: Any = Task()
    saved: list[Row] = []
    rows = run_all(task, ["a", "after b", "bad", "b"], [1, 2], jobs=1, on_row=saved.append)
    names = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("after b", 1), ("after b", 2)]
    assert [(row.name, row.seed) for row in rows] == names
    assert saved == rows
    assert capsys.readouterr().err.count("ended with 4") == 2


def test_ratios_are_medians_over_rounds_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = {"deeplab_v2": iter((9.0, 1.0, 2.0, 4.0)), "other": iter((1.0, 3.0, 4.0, 4.0))}
    monkeypatch.setattr(architectures, "seconds", lambda run: next(times_s[run()]))
    runs = {name: (lambda name=name: name) for name in times_s}
    assert ratios(runs, rounds=3) == {"deeplab_v2": 1.0, "other": 2.0}


def test_tables_of_architectures_are_sorted() -> None:
    cheap = Measured(Cost(1_000_000, 10**9, 0.5), 0.5, Cost(2_000_000, 10**10, 0.25))
    dear = Measured(Cost(3_000_000, 10**9, 2.0), 2.0, Cost(4_000_000, 10**10, 3.0))
    costs = cost_table({"deeplab_v2": dear, "icnet": cheap}).splitlines()
    assert costs[2] == "| `icnet` | `icnet_resnet50` | 2.0 | 10.0 | 0.25 |"
    rows = [
        Row("icnet", 1, {"miou": 0.2, "iou": {"road": 0.4, "car": None}}, 1.0),
        Row("icnet", 2, {"miou": 0.4, "iou": {"road": 0.6, "car": 0.0}}, 1.0),
        Row("deeplab_v2", 1, {"miou": 0.5, "iou": {"road": 0.5, "car": 0.5}}, 1.0),
    ]
    results = result_table(rows, {"deeplab_v2": dear, "icnet": cheap}).splitlines()
    assert results[2] == "| `deeplab_v2` | 3.0 | 1.00 | 2.0 | 50.0 | 50.0 | 50.0 |"
    assert results[3] == "| `icnet` | 1.0 | 1.00 | 0.5 | 30.0 | 50.0 | 0.0 |"


def test_every_architecture_has_its_small_and_its_papers_network() -> None:
    specs = {path.stem for path in architectures.SPECS.glob("*.yaml")}
    assert specs == set(ARCHITECTURES)
    assert specs == {row.name for row in architectures.read_rows()}


def test_a_packaged_encoder_is_found_by_the_nodes_that_read_it() -> None:
    """Exporting turns linear layers' weights and names them by number."""
    weight, table = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((1, 5, 3), np.float32)
    held = {
        "backbone.embeddings.cls_token": table[:, :1],
        "decoder.final_conv.bias": table,
        "onnx::MatMul_7": weight,
        "onnx::MatMul_8": weight,
        "onnx::Reshape_3": table[:, 1:] * 2,
        "onnx::Concat_4": table[:, :1],
    }
    nodes = [
        ("MatMul", "/backbone/encoder/layer.0/mlp/fc1/MatMul", "onnx::MatMul_7"),
        ("MatMul", "/decoder/MatMul", "onnx::MatMul_8"),
        ("Reshape", "/backbone/embeddings/Reshape_1", "onnx::Reshape_3"),
        ("Concat", "/backbone/embeddings/Concat_6", "onnx::Concat_4"),
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, ["x", read], [name], name=name) for kind, name, read in nodes],
        "exported",
        [],
        [],
        [onnx.numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    found = encoder_weights(graph)
    assert set(found) == {
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        "encoder.layer.0.mlp.fc1.weight",
    }
    assert found["encoder.layer.0.mlp.fc1.weight"].tolist() == weight.T.tolist()
    assert found["embeddings.position_embeddings"][0, :, 0].tolist() == [1, 2, 2, 2, 2]


def test_serving_is_compared_round_by_round() -> None:
    bares = [Timed(1.0, [0.25] * 4), Timed(2.0, [0.5] * 4), Timed(4.0, [1.0] * 4)]
    rounds = [Timed(2.0, [0.5] * 4), Timed(5.0, [1.25] * 4), Timed(5.0, [1.25] * 4)]
    line = row("ours", 1, rounds, bares)
    assert line == "| ours | 1 | 0.50 | 0.40 to 0.80 | 1.0 | 1250 | 1250 |"


def test_each_way_of_serving_gets_every_image() -> None:
    seen: list[bytes] = []

    def send(content: bytes) -> bytes:
        seen.append(content)
        return content

    files = [bytes([number]) for number in range(5)]
    lines = list(measured({"bare loop": send, "ours": send}, files, 2))
    assert len(lines) == 5 and [line.split(" | ")[1] for line in lines[2:]] == ["1", "1", "4"]
    assert sorted(seen) == sorted(files * 6)


def test_other_pixels_are_no_way_of_serving() -> None:
    black, white = (png_of(Image.new("L", (2, 2), value)) for value in (0, 255))
    check_equal({"bare loop": lambda _: black, "ours": lambda _: black}, b"")
    with pytest.raises(RuntimeError, match="ours: expected the bare model's pixels, got others"):
        check_equal({"bare loop": lambda _: black, "ours": lambda _: white}, b"")


@pytest.mark.slow
def test_both_ways_of_an_evaluation_count_the_same(tmp_path: Path) -> None:
    found = measure_images(tmp_path, 2, (64, 128), torch.device("cpu"), rounds=1)
    ((papers, own),) = found
    assert papers.matrix.sum() == own.matrix.sum() == 2 * 64 * 128 and own.wall_s > 0
    assert medians(found) == (papers.wall_s / own.wall_s, papers.cpu_s / own.cpu_s)


def test_a_block_of_a_page_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- evaluation -->\nold\n<!-- end evaluation -->\nb\n")
    text = evaluation.table([("", "one"), ("count", "2.00")], "here")
    write_block(page, "evaluation", text)
    lines = ["a", "<!-- evaluation -->", "|  | one |", "| :-- | --: | --: | --: |"]
    end = ["| count | 2.00 |", "", "here.", "<!-- end evaluation -->", "b", ""]
    assert page.read_text().split("\n") == [*lines, *end]
    assert "<!-- evaluation -->" in evaluation.PAGE.read_text()
