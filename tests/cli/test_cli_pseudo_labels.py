"""The command `pseudo-labels`, beside a finished run that labels."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import refused
from tests.commands import Ended, call

STAGE = 'method={"name": "%s", "pseudo_labels": {"run": "tiny"}}'


def labelled(folder: Path, method: str, *more: object) -> Ended:
    sets = ("--set", "name=two-stages", "--set", STAGE % method)
    return call("pseudo-labels", "tiny.yaml", *sets, *more, folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "images"),
    [("class_balanced_self_training", [22]), ("intra_da", [14, 8])],
)
def test_labels_are_made_shown_and_found_again(
    method: str, images: list[int], finished: Path
) -> None:
    first = labelled(finished, method, "--json")
    assert first.code == 0, first.err
    answer = json.loads(first.out)
    assert list(answer["splits"].values()) == images
    assert sum(answer["label_shares"]) == pytest.approx(1)
    assert "runs/tiny/step-0000000" in answer["weights_uri"]
    assert ("threshold" in answer["shown"]) is (len(images) == 1)
    again = labelled(finished, method)
    assert again.code == 0 and "of the pixels have a label" in again.out and "band 3" in again.out
    split = next(iter(answer["splits"]))
    assert f"--split {split} --sheet labels.png" in again.err
    sheet = ("--split", split, "--sheet", "labels.png")
    drawn = call("inspect", answer["uri"].removeprefix("file://"), *sheet, folder=finished)
    assert drawn.code == 0 and (finished / "labels.png").is_file(), drawn.err


def test_a_method_without_a_stage_and_a_run_that_is_not_there(finished: Path) -> None:
    plain = call("pseudo-labels", "tiny.yaml", folder=finished)
    refused(plain, 2, "method.name: expected a method with a labelling stage", "got source_only")
    missing = labelled(finished, "intra_da", "--set", "method.pseudo_labels.run=nothing")
    refused(missing, 2, "method.pseudo_labels.run: expected a run with a checkpoint, got none")
