"""GPU-hours and cost of a job over restarts and kills, and its end at `train.max_cost`."""

import json
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from adapt.checkpoint.lease import LEASE
from adapt.checkpoint.spent import Spent
from adapt.errors import Interrupted, JobError
from adapt.places import Place
from adapt.report.history import TRAIN, History
from adapt.report.run_record import RunRecord, read_run
from adapt.trainer.budget import Bill, Budget
from adapt.trainer.progress import JobProgress
from adapt.trainer.run import run_job
from storage.stores import Stores
from tests.report.runs import session
from tests.trainer.jobs import job_of, run

PRICE = "report={price_per_hour: 3600, currency: CHF}"
"""A franc a second."""


def record_of(job: Any) -> RunRecord:
    return read_run(Stores().open(str(Path(job.checkpoint.uri) / job.name)))


def test_a_bill_has_gpu_hours_and_the_price_of_all_nodes(tiny_job: dict[str, Any]) -> None:
    history = History()
    history.sessions.append({**session(nodes=2, ranks=16), "step": 0, "seconds": 900.0})
    job = job_of(tiny_job, "report={price_per_hour: 10, currency: CHF}", "train.max_cost=5")
    bill = Budget(job, history).bill()
    assert bill == Bill(4.0, 5.0, "CHF") and Budget(job, history).used_up()
    assert bill.metrics() == {"spent/gpu_hours": 4.0, "spent/cost": 5.0}
    dearer = job_of(tiny_job, "report.price_per_hour=10", "train.max_cost=5.01")
    free = job_of(tiny_job)
    assert not Budget(dearer, history).used_up() and not Budget(free, history).used_up()
    assert Budget(free, history).bill() == Bill(4.0, None, "USD")
    assert Budget(job, None).bill() == Bill() and not Budget(job, None).used_up()
    assert Bill().metrics() == {}


def test_a_run_ends_at_its_cost_saved_and_goes_on_where_it_is_raised(
    tiny_job: dict[str, Any], place: Place
) -> None:
    job = job_of(tiny_job, PRICE, "train.max_cost=0.001", "evaluate.every_steps=1000")
    with pytest.raises(
        Interrupted,
        match=r"^\d+\.\d\d CHF are spent, train.max_cost is 0.001 \(raise it to continue\): "
        "stopped at step 0, everything is saved$",
    ):
        run(job, place)
    assert record_of(job).step == 0, "a checkpoint is stored"
    with pytest.raises(JobError) as refused:
        run(job, place)
    assert str(refused.value.problem).startswith("train.max_cost: expected more than the ")
    assert refused.value.problem.endswith("CHF that the run has cost already, got 0.001")
    assert refused.value.fix == "raise it (--max-cost) to continue"
    raised = job_of(tiny_job, PRICE, "train.max_cost=100000", "evaluate.every_steps=1000")
    outcome, seen = run(raised, place)
    assert outcome.step == 6
    costs = [one.bill.cost for one in seen]
    assert costs == sorted(costs) and costs[0] > 0 and seen[0].bill.currency == "CHF"
    kept = record_of(raised).history
    assert len(kept.sessions) == 2
    assert kept.curves[TRAIN].rows[6]["spent/cost"] == pytest.approx(costs[-1], rel=1e-5)
    assert kept.spent().cost(3600) >= costs[-1]
    run(job, place)  # there is nothing left to train, so nothing to refuse


@pytest.mark.slow
def test_the_time_of_a_killed_session_counts(tiny_job: dict[str, Any], place: Place) -> None:
    """The lease says it: the session has no checkpoint. `--fresh` starts at nothing."""
    job = job_of(tiny_job, PRICE)
    with pytest.raises(Interrupted):
        run(job, place, stop_at=2)
    lease = Path(job.checkpoint.uri) / job.name / LEASE
    writer = json.loads(lease.read_text())
    first = Spent.read(writer["spent"])
    assert first.seconds > 0 and first.node_s == first.seconds and first.gpu_s == 0
    killed = first.plus(Spent(100.0, 200.0, 300.0))
    lease.write_text(json.dumps({**writer, "spent": killed}))
    _, seen = run(job, place)
    assert seen[0].bill.cost == pytest.approx(killed.node_s, abs=60)
    assert seen[0].bill.gpu_hours == pytest.approx(300 / 3600, rel=0.01)
    found = record_of(job)
    assert found.history.sessions[1]["unsaved"] == pytest.approx([100, 200, 300], abs=60)
    assert found.spent.seconds >= killed.seconds
    _, seen = run(job, place, fresh=True)
    assert seen[0].bill.cost < killed.node_s and "unsaved" not in record_of(job).history.sessions[0]


def test_time_counts_from_the_start_of_the_rank(tiny_job: dict[str, Any], place: Place) -> None:
    """Opening the data, the network and the labelling are paid for too."""
    job, seen = job_of(tiny_job, PRICE), list[JobProgress]()
    run_job(job, place, Event(), seen.append)
    stretch_s = seen[0].bill.cost
    assert stretch_s is not None and stretch_s > 0.1
