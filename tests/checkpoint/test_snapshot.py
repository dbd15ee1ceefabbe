"""Copies of a checkpoint's content in memory."""

import torch

from adapt.checkpoint.snapshot import in_memory


def test_a_copy_is_apart_and_shared_memory_stays_one() -> None:
    tensor = torch.arange(4.0)
    copied = in_memory({"a": tensor, "b": [tensor.detach()], "c": (1, "x", None)})
    tensor += 1
    assert torch.equal(copied["a"], torch.arange(4.0)) and copied["b"][0] is copied["a"]
    assert copied["c"] == (1, "x", None)
    empty = in_memory({"a": torch.empty(0), "b": torch.empty(0, dtype=torch.int64)})
    assert empty["b"].dtype == torch.int64


def test_views_of_one_memory_keep_their_values() -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    copied = in_memory({"whole": whole, "turned": whole.t(), "row": whole[0]})
    assert torch.equal(copied["turned"], whole.t()) and torch.equal(copied["row"], whole[0])
