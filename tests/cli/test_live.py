"""The live line and the bar: what they say, and that logs get plain lines."""

import io
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from adapt.checkpoint.snapshot import Moment
from adapt.cli.live import LiveLine, describe, progress_bar, rate_bar
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


class Screen:
    """A terminal's console, and what it shows in the end."""

    def __init__(self) -> None:
        self.console = Console(file=io.StringIO(), width=100, force_terminal=True)

    def lines(self) -> list[str]:
        """Lines that are left, with what was written over or erased gone: rich goes up a line and
        erases it."""
        shown = [""]
        for part in re.split(r"(\n|\x1b\[1A|\x1b\[2K)", self.console.file.getvalue()):
            if part == "\n":
                shown.append("")
            elif part == "\x1b[1A":
                shown.pop()
            elif part == "\x1b[2K":
                shown[-1] = ""
            else:
                shown[-1] += re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|\r", "", part)
        return [line.strip() for line in shown if line.strip()]


@pytest.mark.parametrize("bar", [progress_bar, rate_bar])
def test_a_bar_that_a_failure_ends_is_gone(bar: Any) -> None:
    failed, done = Screen(), Screen()
    with pytest.raises(ValueError), bar("packing", failed.console) as advance:
        advance(3, 4, *([0] if bar is rate_bar else []))
        raise ValueError
    with bar("packing", done.console) as advance:
        advance(4, 4, *([0] if bar is rate_bar else []))
    assert failed.lines() == []
    (left,) = done.lines()
    assert left.startswith("packing") and "4/4" in left


def test_a_live_line_that_a_failure_ends_keeps_its_last_report() -> None:
    early, late = Screen(), Screen()
    with pytest.raises(ValueError), LiveLine(early.console):
        raise ValueError
    with pytest.raises(ValueError), LiveLine(late.console) as line:
        line.show(REPORT)
        raise ValueError
    assert early.lines() == []
    assert " ".join(late.lines()).startswith("step 20/100")


def test_a_log_that_cannot_be_written_ends_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        log = io.TextIOWrapper(full, write_through=True)
        monkeypatch.setattr(sys, "stderr", log)
        with LiveLine(Console(stderr=True)) as line, pytest.raises(OSError, match="No space left"):
            line.show(REPORT)
        with lossy_messages(), LiveLine(Console(stderr=True)) as line:
            line.show(REPORT)
        assert sys.stderr is log
