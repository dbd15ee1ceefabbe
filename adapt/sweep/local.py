"""Trains trials as ordinary jobs in processes of this machine: `segadapt run` each, with its share
of the GPUs or of the cores."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from adapt.checkpoint.run_folder import RunFolder
from adapt.errors import Interrupted
from adapt.launch.rank_status import die_with_parent
from adapt.places import Place
from adapt.spec.job_spec import JobSpec
from adapt.sweep.runner import Ending, RunningTrial
from adapt.trainer.opening import open_run_folder

GPUS, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"
_LAST_LINES = 400
_ROOT = Path(__file__).resolve().parents[2]


class LocalRunner:
    """Trains on this machine; logs and specs of the trials lie in `folder`."""

    poll_s = 1.0

    def __init__(self, place: Place, folder: Path, slots: int, gpus: int) -> None:
        self.slots, self._place, self._folder = slots, place, folder
        self._shares = shares(place.environment, slots, gpus, len(os.sched_getaffinity(0)))

    def start(self, job: JobSpec, slot: int, notes: MutableMapping[str, Any]) -> RunningTrial:
        """Start a process; it ends with this one, saved, however this one ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        spec, log = (self._folder / f"{job.name}.{ending}" for ending in ("yaml", "log"))
        spec.write_text(job.to_yaml(), encoding="utf-8")
        notes["log"] = str(log)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "adapt", "run", str(spec)],
                env=self._environment(slot),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal reaches this process alone
                preexec_fn=die_with_parent,
            )
        return LocalTrial(process, log)

    def folder(self, job: JobSpec) -> RunFolder:
        """The folder that the job names."""
        return open_run_folder(job, self._place)

    def _environment(self, slot: int) -> dict[str, str]:
        kept = {**self._place.environment, **self._shares[slot]}
        paths = [str(_ROOT), *filter(None, [kept.get("PYTHONPATH")])]
        return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


class LocalTrial:
    """A process that trains a trial, whose messages go to `log`."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process, self._log, self._asked = process, log, False

    def ended(self) -> Ending | None:
        """Its exit code as an ending."""
        code = self._process.poll()
        if code is None:
            return None
        if code == 0:
            return Ending("done")
        if code == Interrupted.exit_code or self._asked:
            return Ending("interrupted")
        return Ending("failed", f"exit code {code}: {self._last_error()}")

    def stop(self, urgent: bool = False) -> None:
        """SIGINT leaves all the time that saving takes, SIGTERM the grace of the platform."""
        self._asked = True
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM if urgent else signal.SIGINT)

    def _last_error(self) -> str:
        """The line of the log that names the error."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        named = [line for line in lines if "Error" in line.split(" ")[0] or "Error:" in line]
        return (named or lines or ["no message"])[-1].strip()


def shares(
    environment: Mapping[str, str], slots: int, gpus: int, cores: int
) -> list[dict[str, str]]:
    """The variables of each slot: its GPUs, of which several slots share one where there are
    fewer, or without GPUs its part of the cores."""
    if not gpus:
        threads = str(max(1, cores // slots))
        return [{} if THREADS in environment or slots == 1 else {THREADS: threads}] * slots
    named = [one.strip() for one in environment.get(GPUS, "").split(",") if one.strip()]
    known = (named or [str(number) for number in range(gpus)])[:gpus]
    each = max(1, len(known) // slots)
    pick = partial(_picked, known, each)
    return [{GPUS: ",".join(pick(slot))} for slot in range(slots)]


def _picked(known: list[str], each: int, slot: int) -> list[str]:
    first = slot * each % len(known)
    return known[first : first + each]
