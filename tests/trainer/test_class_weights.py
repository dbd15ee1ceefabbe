"""A job whose classes are weighed by its source's labels."""

from typing import Any

import torch

from adapt.places import Place
from adapt.trainer.opening import open_cache, open_split, open_stores
from tests.trainer.jobs import job_of, last_weights, run


def test_a_job_balances_by_its_sources_labels(tiny_job: dict[str, Any], place: Place) -> None:
    """Trained with `balanced`, and with the same weights written out."""
    ends = []
    for weights in ("none", "balanced", None):
        tiny_job["loss"] = {"class_weights": weights or _balanced_by_hand(tiny_job, place)}
        job = job_of({**tiny_job, "name": f"run{len(ends)}"}, "train.steps=2", "validation=null")
        run(job, place)
        ends.append(last_weights(job)["decoder.heads.0.branches.0.weight"])
    none, balanced, by_hand = ends
    torch.testing.assert_close(balanced, by_hand, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(none, balanced, rtol=1e-3, atol=1e-5)


def _balanced_by_hand(values: dict[str, Any], place: Place) -> list[float]:
    job = job_of(values)
    split = open_split(job, job.source, open_stores(job, place), open_cache(job, place), True)
    totals = split.label_pixels(job.classes.num_classes).sum(axis=0).astype(float)
    split.close()
    return [float(totals.sum() / (totals > 0).sum() / max(total, 1)) for total in totals]
