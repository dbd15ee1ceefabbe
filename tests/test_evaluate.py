"""A score as plain data."""

import json

import torch

from adapt.evaluate import Score

NAMES = ["road", "sky", "[car]"]


def test_a_record_is_json_with_null_for_a_class_that_never_occurs() -> None:
    record = Score(torch.tensor([[2, 1, 0], [1, 4, 0], [0, 0, 0]])).record(NAMES)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["iou"] == {"road": 2 / 4, "sky": 4 / 6, "[car]": None}
    assert record["miou"] == (2 / 4 + 4 / 6) / 2 and record["pixel_accuracy"] == 6 / 8


def test_a_record_of_nothing_has_no_mean() -> None:
    record = Score(torch.zeros(3, 3, dtype=torch.int64)).record(NAMES)
    assert record["miou"] is None
    json.dumps(record, allow_nan=False)
