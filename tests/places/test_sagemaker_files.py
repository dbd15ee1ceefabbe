"""SageMaker's files: hyperparameters of all types, tuning jobs, and files of another form."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adapt.config.strict_yaml import with_overrides
from adapt.errors import JobError
from adapt.places import find_place
from tests.places.test_places import SAGEMAKER, written

CONFIG = "opt/ml/input/config"


def test_a_tuning_jobs_metric_is_no_key_and_each_of_its_jobs_a_run_of_its_own(
    tmp_path: Path,
) -> None:
    given = {"_tuning_objective_metric": "miou", "optim.lr": "0.00025", "_more": "x"}
    written({**SAGEMAKER, f"{CONFIG}/hyperparameters.json": json.dumps(given)}, tmp_path)
    job = {"TRAINING_JOB_NAME": "tune-261129-1200-003-abc"}
    assert find_place(job, tmp_path).overrides == (
        "name=tune-261129-1200-003-abc",
        "optim.lr=0.00025",
    )
    given["name"] = '"mine"'
    written({f"{CONFIG}/hyperparameters.json": json.dumps(given)}, tmp_path)
    assert find_place(job, tmp_path).overrides == ("name=mine", "optim.lr=0.00025")


@pytest.mark.parametrize(
    "encode", [json.dumps, lambda value: value], ids=["strings", "as they are"]
)
def test_hyperparameters_of_every_type_are_values_of_the_spec(
    encode: Callable[[object], object], tmp_path: Path
) -> None:
    """SageMaker has strings alone; its local mode and other programs do not."""
    values = {
        "train.steps": 500,
        "optim.lr": 2.5e-4,
        "evaluate.pictures": 0,
        "train.sync_batch_norm": True,
        "method.weight_adv": [0.001, 0.0002],
        "method.name": "advent",
        "target.size_hw": None,
        "model": {"architecture": "deeplab_v2"},
    }
    given = json.dumps({key: encode(value) for key, value in values.items()})
    written({**SAGEMAKER, f"{CONFIG}/hyperparameters.json": given}, tmp_path)
    found = with_overrides(
        {"model": {}, "target": {"size_hw": 1}}, find_place({}, tmp_path).overrides
    )
    assert found["train"] == {"steps": 500, "sync_batch_norm": True}
    assert found["optim"]["lr"] == 2.5e-4 and found["evaluate"]["pictures"] == 0
    assert found["method"] == {"weight_adv": [0.001, 0.0002], "name": "advent"}
    assert found["target"]["size_hw"] is None and found["model"] == values["model"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("hyperparameters.json", "[1]", r"hyperparameters.json: expected a JSON object, got \[1\]"),
        (
            "resourceconfig.json",
            "{}",
            "expected current_host to be one of hosts, got None and None",
        ),
        ("resourceconfig.json", '{"hosts": ["a"], "current_host": "b"}', "got 'b' and"),
        ("resourceconfig.json", "3", "expected a JSON object, got 3"),
        ("inputdataconfig.json", '"x"', "inputdataconfig.json: expected a JSON object, got 'x'"),
        ("checkpointconfig.json", "[]", "checkpointconfig.json: expected a JSON object"),
    ],
)
def test_sagemakers_files_that_are_something_else_are_named(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    written({**SAGEMAKER, f"{CONFIG}/{name}": text}, tmp_path)
    with pytest.raises(JobError, match=said):
        find_place({}, tmp_path)
