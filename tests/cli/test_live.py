"""The live line and the bar: what they say, and that logs get plain lines."""

import io
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from adapt.checkpoint.snapshot import Moment
from adapt.cli.live import LiveLine, describe, progress_bar
from adapt.cli.messages import lossy_messages
from adapt.stream.observe import Observed
from adapt.trainer.budget import Bill
from adapt.trainer.progress import JobProgress

SEEN = Observed(0.4, 12.3, 2, 5.6, 0.0, 0, 0, 1.0)
REPORT = JobProgress(20, 100, {"segmentation/main": 0.51234}, 8.04, 0.25, 75.4, SEEN, None)


def test_a_report_names_step_losses_speed_waiting_and_time_left() -> None:
    said = describe(REPORT)
    assert said == (
        "step 20/100  segmentation/main 0.5123  8.0 samples/s  "
        "waiting 25% (p50 0, p99 12 ms, 2 stalls)  6 ready  left 0:01:15"
    )


def test_a_report_says_what_was_fetched() -> None:
    seen = SEEN._replace(fetched_mb=128.2, retries=3, hedges=1, hit_rate=0.5)
    said = describe(REPORT._replace(stream=seen))
    assert "6 ready  fetched 128 MB (hits 50%, 3 retries, 1 hedges)  left" in said


def test_a_report_says_the_utilisation_where_it_is_known() -> None:
    said = describe(REPORT._replace(mfu=0.3116))
    assert "8.0 samples/s  mfu 31.2%  waiting 25% (" in said


def test_a_report_says_what_the_run_has_cost() -> None:
    said = describe(REPORT._replace(bill=Bill(1.254, 4.379, "USD")))
    assert "6 ready  spent 1.25 GPU-hours, 4.38 USD  left" in said
    assert "ready  spent 1.25 GPU-hours  left" in describe(REPORT._replace(bill=Bill(1.254)))
    assert "ready  spent 0.02 EUR  left" in describe(REPORT._replace(bill=Bill(0.0, 0.02, "EUR")))


def test_a_report_says_how_old_the_last_stored_checkpoint_is() -> None:
    said = describe(REPORT._replace(saved=Moment(15, 0, time.monotonic() - 90)))
    assert "6 ready  saved 15 0:01:30 ago  left" in said


def test_off_a_terminal_each_report_is_a_plain_line() -> None:
    console = Console(file=io.StringIO(), width=20)
    with LiveLine(console) as line:
        line.show(REPORT)
    assert console.file.getvalue() == describe(REPORT) + "\n"


def test_a_quiet_line_says_nothing() -> None:
    console = Console(file=io.StringIO())
    with LiveLine(console, quiet=True) as line:
        line.show(REPORT)
    assert console.file.getvalue() == ""


def test_the_bar_counts() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with progress_bar("packing", console) as advance:
        advance(3, 4)
    assert "packing" in console.file.getvalue() and "3/4" in console.file.getvalue()


def test_a_log_that_cannot_be_written_ends_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        log = io.TextIOWrapper(full, write_through=True)
        monkeypatch.setattr(sys, "stderr", log)
        with LiveLine(Console(stderr=True)) as line, pytest.raises(OSError, match="No space left"):
            line.show(REPORT)
        with lossy_messages(), LiveLine(Console(stderr=True)) as line:
            line.show(REPORT)
        assert sys.stderr is log
