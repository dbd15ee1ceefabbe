"""The benchmark scripts' arithmetic: means, spreads and gains paired by seed."""

from benchmarks.methods import Row, spread, table


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
