"""The command `gap`, before training and beside a finished run."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import refused
from tests.commands import call


@pytest.mark.slow
def test_a_gap_before_and_after_training(finished: Path) -> None:
    target = "target.batch_size=2"
    first = call("gap", "tiny.yaml", "--count", "12", "--set", target, folder=finished)
    assert first.code == 0, first.err
    assert first.out.strip() == "gap.html" and (finished / "gap.html").stat().st_size > 10**6
    assert "kernel distance" in first.err and "Train on the source alone" in first.err
    model = ("--model", "runs/tiny", "--out", "pages/after.html", "--json")
    after = call("gap", "tiny.yaml", "--count", "12", *model, folder=finished)
    assert after.code == 0, after.err
    answer = json.loads(after.out)
    assert answer["page"] == "pages/after.html" and answer["model"] == "runs/tiny"
    assert answer["before"]["predictions"] is None
    entropy = answer["after"]["predictions"]["entropy"]
    assert entropy[0] == pytest.approx(entropy[1], rel=0.3)
    assert "What training has closed" in (finished / "pages" / "after.html").read_text()


def test_a_model_that_is_not_there_and_too_few_images(finished: Path) -> None:
    missing = call("gap", "tiny.yaml", "--model", "runs/none", folder=finished)
    refused(missing, 2, "runs/none: expected a file of weights or the folder of a checkpoint")
    few = call("gap", "tiny.yaml", "--count", "5", folder=finished)
    assert few.code == 2 and "--count" in few.err
