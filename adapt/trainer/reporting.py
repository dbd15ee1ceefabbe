"""The history of a running job, and the report that it leaves at its end.

The report is made and stored in a thread of its own, with a limit, so neither a slow store nor a
fault of the page holds up the exit or fails a run that is trained.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import torch

from adapt.checkpoint.run_folder import REPORT
from adapt.checkpoint.spent import NOTHING
from adapt.errors import DataError, JobError
from adapt.places import Place
from adapt.report.environment import session_facts
from adapt.report.history import History
from adapt.report.page import run_page
from adapt.report.run_record import RunRecord, read_run
from adapt.tracking.tracker import Tracker
from adapt.trainer.opening import Opened, splits_in_use
from adapt.trainer.resume import HISTORY_KEY, Checkpoint
from storage.errors import StoreError

log = logging.getLogger(__name__)

REPORT_S = 60.0
STOPPED_SHARE = 0.1
"""Of the time between SIGTERM and SIGKILL, where a stop comes while the report is written."""
_POLL_S = 0.2


def open_history(
    opened: Opened,
    device: torch.device,
    state: Checkpoint | None,
    began_s: float | None = None,
    fresh: bool = False,
) -> History | None:
    """The leader's history, that of the checkpoint continued by this session, which began at
    `began_s` of `time.monotonic()`; None elsewhere.

    The run's lease keeps the time that it has taken, unless it is `fresh`.
    """
    if not opened.place.leader:
        return None
    history: History = History() if state is None else state[HISTORY_KEY]
    facts = {**session_facts(opened.place, device), "data": data_facts(opened)}
    lease, step = opened.folder.lease, 0 if state is None else state["engine"]["step"]
    before = NOTHING if fresh or lease is None else lease.before
    history.start_session(facts, step, began_s, before)
    if lease is not None:
        lease.spent = history.spent
    return history


def data_facts(opened: Opened) -> dict[str, dict[str, object]]:
    """The packed splits of a job by key: dataset, split, URI, samples and fingerprint."""
    return {
        key: {
            "dataset": config.dataset,
            "split": config.split,
            "uri": config.uri,
            "samples": len(split),
            "fingerprint": split.dataset_id,
        }
        for key, (split, config) in splits_in_use(opened).items()
    }


def leave_report(
    opened: Opened,
    history: History | None,
    tracker: Tracker | None,
    stop: Event,
    beat: Callable[[], None],
) -> None:
    """Write the run's `report.html` beside its checkpoints, to MLflow and where the platform keeps
    the model, in at most a minute, or in a tenth of what a stop leaves. Failures are warnings.
    `beat` is called while it waits."""
    if history is None or not opened.job.report.enabled:
        return
    writer = _Writer(opened, history)
    writer.start()
    waited_for(writer, opened.place, stop, beat)
    again = f"segadapt report {opened.folder.uri}"
    if writer.page is None:
        why = writer.failure or "it took too long or has a fault"
        log.warning("the report was not written (%s). Fix: run `%s`", why, again)
        return
    if tracker is not None:
        tracker.log_file(writer.page, REPORT)
    _keep(writer.page, opened.place.model_dir)
    if writer.failure is not None:
        log.warning("the report is in MLflow alone: %s. Fix: run `%s`", writer.failure, again)
    else:
        log.info("the report is %s/%s", opened.folder.uri, REPORT)


def waited_for(writer: Thread, place: Place, stop: Event, beat: Callable[[], None]) -> None:
    """Wait for a thread that writes a page, at most a minute, or a tenth of what a stop leaves."""
    deadline_s = time.monotonic() + REPORT_S
    while writer.is_alive() and time.monotonic() < deadline_s:
        beat()
        writer.join(_POLL_S)
        if stop.is_set():
            left_s = STOPPED_SHARE * place.stop_s
            deadline_s = min(deadline_s, time.monotonic() + left_s)
            stop = Event()


def _keep(page: bytes, model_dir: Path | None) -> None:
    """Write the page beside the weights that the platform keeps, where there is such a folder."""
    if model_dir is None:
        return
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        (model_dir / REPORT).write_bytes(page)
    except OSError as error:
        log.warning("%s: the report cannot be written there: %s", model_dir, error.strerror)


class _Writer(Thread):
    """Makes the page and stores it. `page` is None until it is made, `failure` the reason where
    that or the store failed."""

    def __init__(self, opened: Opened, history: History) -> None:
        super().__init__(name="report", daemon=True)
        self._opened, self._text = opened, history.text()
        self.page: bytes | None = None
        self.failure: str | None = None

    def run(self) -> None:
        """Make and store the page."""
        opened = self._opened
        try:
            record = RunRecord.of(
                opened.job.to_yaml(), History.parsed(self._text), opened.folder.uri
            )
            page = run_page(record, self._baseline()).encode()
        except (DataError, JobError, ValueError) as error:
            self.failure = str(error)
            return
        self.page = page
        try:
            opened.folder.put_report(page)
        except StoreError as error:
            self.failure = str(error)

    def _baseline(self) -> RunRecord | None:
        """The run to compare with; None, with a warning, where it cannot be read."""
        uri = self._opened.job.baseline_uri()
        if uri is None:
            return None
        try:
            return read_run(self._opened.stores.open(uri))
        except (DataError, JobError, StoreError) as error:
            log.warning("report.baseline: %s; the report compares with the first evaluation", error)
            return None
