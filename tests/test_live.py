"""The live line and the bar: what they say, and that logs get plain lines."""

import io

from rich.console import Console

from adapt.live import LiveLine, describe, progress_bar
from adapt.trainer import Progress

REPORT = Progress(20, 100, {"segmentation/main": 0.51234}, 8.04, 0.25, 75.4)


def test_a_report_names_step_losses_speed_waiting_and_time_left() -> None:
    said = describe(REPORT)
    assert said == "step 20/100  segmentation/main 0.5123  8.0 samples/s  waiting 25%  left 0:01:15"


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
