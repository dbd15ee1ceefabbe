"""The live line of a running job: step, losses, samples/s, model FLOPs utilisation, share of time
waiting for data, GPU-hours and cost so far, time left.

On a terminal one line is updated; elsewhere every report is a line of its own, without control
characters, for log collectors. A bar that a failure ends is erased, so that none stands above the
message; so is a live line that has no report yet.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

if TYPE_CHECKING:
    from adapt.trainer.progress import JobProgress

LINE_EVERY_S = 10.0
"""Between lines of progress where there is no terminal."""


def describe(progress: "JobProgress") -> str:
    """Format one report."""
    losses = "  ".join(f"{name} {value:.4g}" for name, value in progress.losses.items())
    left = str(timedelta(seconds=round(progress.remaining_s)))
    seen, fetched = progress.stream, ""
    waits = f"p50 {seen.wait_p50_ms:.0f}, p99 {seen.wait_p99_ms:.0f} ms, {seen.stalls} stalls"
    if seen.fetched_mb:
        fetched = f"fetched {seen.fetched_mb:.0f} MB (hits {seen.hit_rate:.0%}"
        fetched += f", {seen.retries} retries, {seen.hedges} hedges)  "
    mfu = "" if progress.mfu is None else f"mfu {progress.mfu:.1%}  "
    bill, saved = [], ""
    if progress.bill.gpu_hours:
        bill.append(f"{progress.bill.gpu_hours:.2f} GPU-hours")
    if progress.bill.cost is not None:
        bill.append(f"{progress.bill.cost:.2f} {progress.bill.currency}")
    spent = f"spent {', '.join(bill)}  " if bill else ""
    if progress.saved is not None:
        age = timedelta(seconds=round(progress.saved.age_s))
        saved = f"saved {progress.saved.step} {age} ago  "
    return (
        f"step {progress.step}/{progress.steps}  {losses}  {progress.samples_per_s:.1f} samples/s  "
        f"{mfu}waiting {progress.wait_share:.0%} ({waits})  "
        f"{seen.queue_depth:.0f} ready  {fetched}{saved}{spent}left {left}"
    )


class LiveLine:
    """A context in which `show` displays reports; `quiet` shows none, for ranks that do not
    lead."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._live: Live | None = None
        self._reported = False

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(Text("starting ..."), console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.transient = error is not None and not self._reported
            self._live.stop()

    def show(self, progress: "JobProgress") -> None:
        """Display a report."""
        self._reported = True
        if self._live is not None:
            self._live.update(Text(describe(progress)))
        elif not self._quiet:
            self._console.print(describe(progress), highlight=False, soft_wrap=True)


@contextmanager
def _erased_by_failures(bar: Bar) -> Iterator[Bar]:
    with bar:
        try:
            yield bar
        except BaseException:
            bar.live.transient = True
            raise


@contextmanager
def progress_bar(text: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; yields the function that moves it: (done, total)."""
    columns = (*Bar.get_default_columns(), MofNCompleteColumn())
    with _erased_by_failures(Bar(*columns, console=console)) as bar:
        task = bar.add_task(escape(text), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def rate_bar(
    text: str, console: Console, quiet: bool = False
) -> Iterator[Callable[[int, int, int], None]]:
    """Show progress with its rate and the time left; yields the function that moves it: (done,
    total, bad). Where there is no terminal, a line every ten seconds."""
    started_s = shown_s = time.monotonic()
    shown = console.is_terminal and not quiet
    columns = (*Bar.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with _erased_by_failures(Bar(*columns, console=console, disable=not shown)) as bar:
        task = bar.add_task(escape(text), total=None, rate="")

        def show(done: int, total: int, bad: int) -> None:
            nonlocal shown_s
            now_s = time.monotonic()
            rate = done / max(1e-9, now_s - started_s)
            facts = f"{rate:.1f}/s" + (f", {bad} bad" if bad else "")
            bar.update(task, completed=done, total=total, rate=facts)
            if not shown and not quiet and now_s - shown_s >= LINE_EVERY_S:
                shown_s = now_s
                left = timedelta(seconds=round((total - done) / rate)) if done else "unknown"
                line = f"{text} {done}/{total}, {facts}, left {left}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)

        yield show
