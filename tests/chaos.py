"""`make chaos`: a real job that everything happens to, and a calm one; both must end the same.

The job is the command that users run, over a real S3 server and a real MLflow server. Round after
round it is killed or stopped at a random moment, in four of five rounds of its training (which
saves, uploads and evaluates all the time) and otherwise of its start, while its store or MLflow may
be away (also at the start) or slow, first requests reset, the index damaged, web pages the answers,
its scratch disk full, its newest checkpoint damaged, the same job started a second time. In the end
weights and metrics are those of the calm run, bit for bit, with no metric lost or doubled.
"""

import argparse
import math
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

from mlflow import MlflowClient

from adapt.checkpoint.run_folder import RunFolder
from adapt.models.weights import WEIGHTS
from adapt.platforms.local_stack import mlflow_server, seaweedfs
from storage.errors import MissingObject
from tests import chaos_store
from tests.chaos_world import BUCKET, GRACE_S, STEPS_A_ROUND, World
from tests.conftest import pack_tiny
from tests.processes import is_server

START_S, TRAINING_S = 12.0, 8.0
"""A round's job is ended within so long of its start, or of its first step."""
EARLY_SHARE = 0.2
"""The share of rounds that end while the job starts."""
PATIENCE_S = 60.0
"""How long a round waits for a first step, which a trouble may delay."""
SLOW_BYTES_PER_S = 1_000_000
COMPARED = ("train/", "validation/")
SCRATCH_MB = 48
SECOND_CODES = {2, 0, -9}
"""Of a second job of the run: refused, or it follows the first one, which was ended."""


class Round(NamedTuple):
    """What happened: how the job was ended and with which code, what else went on, and how many
    steps it had trained until then."""

    ending: str
    trouble: str
    code: int
    steps: int


@contextmanager
def _no_trouble(_world: World, _random: random.Random) -> Iterator[None]:
    yield


@contextmanager
def _store_away(world: World, chance: random.Random) -> Iterator[None]:
    with _later(chance, lambda: world.store_proxy.outage(chance.uniform(1, 4))):
        yield


@contextmanager
def _store_slow(world: World, _random: random.Random) -> Iterator[None]:
    world.store_proxy.bytes_per_s = SLOW_BYTES_PER_S
    try:
        yield
    finally:
        world.store_proxy.bytes_per_s = float("inf")


@contextmanager
def _mlflow_away(world: World, _random: random.Random) -> Iterator[None]:
    with world.mlflow_proxy.away():
        yield


@contextmanager
def _newest_truncated(world: World, _random: random.Random) -> Iterator[None]:
    store = world.run_store("stormy")
    states = sorted(info.key for info in store.list("step-") if info.key.endswith("state.pt"))
    if states:
        with suppress(MissingObject):
            store.put(states[-1], store.get(states[-1])[:5000])
    yield


@contextmanager
def _scratch_gone(world: World, _random: random.Random) -> Iterator[None]:
    for path in world.scratch.glob("*"):
        shutil.rmtree(path)
    yield


@contextmanager
def _scratch_full(world: World, chance: random.Random) -> Iterator[None]:
    filler = world.scratch / "filler"

    def fill() -> None:
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))

    try:
        with _later(chance, fill):
            yield
    finally:
        filler.unlink(missing_ok=True)


@contextmanager
def _second_job(world: World, chance: random.Random) -> Iterator[None]:
    """The same job once more, with a scratch folder of its own: refused while the first lives."""
    started: list[subprocess.Popen[bytes]] = []
    elsewhere = world.folder / "elsewhere"
    try:
        with _later(chance, lambda: started.append(world.start("stormy", "second", elsewhere))):
            yield
    finally:
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(START_S)
            kill_all(process)  # where it follows a job that was ended
            if process.wait() not in SECOND_CODES:
                text = _tail(world, "second")
                raise RuntimeError(f"the second job ended with {process.returncode}:\n{text}")


@contextmanager
def _later(chance: random.Random, act: Callable[[], object]) -> Iterator[None]:
    """Do something a random time after the start, in a thread of its own."""
    timer = Timer(chance.uniform(0, START_S + TRAINING_S), act)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


TROUBLES: dict[str, Callable[[World, random.Random], Any]] = {
    "none": _no_trouble,
    "store away": _store_away,
    "store away at the start": chaos_store.away_at_the_start,
    "first requests reset": chaos_store.first_requests_reset,
    "index damaged on its way": chaos_store.index_damaged,
    "web pages as answers": chaos_store.web_pages,
    "store slow": _store_slow,
    "MLflow away": _mlflow_away,
    "newest checkpoint truncated": _newest_truncated,
    "scratch disk gone": _scratch_gone,
    "scratch disk full": _scratch_full,
    "second job of the run": _second_job,
}


def kill_all(process: "subprocess.Popen[Any]") -> None:
    """The machine is gone: first process, torchrun and ranks at once."""
    for pid in [process.pid, *descendants(process.pid)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _kill_a_rank(process: "subprocess.Popen[Any]") -> None:
    """The deepest process: a rank, or what is on the way to become one, at first itself."""
    for pid in descendants(process.pid)[-1:] or [process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Children before grandchildren; no fork server of the tests."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in task.read_text().split() if not is_server(int(child))]
    return found + [below for child in found for below in descendants(child)]


ENDINGS: dict[str, tuple[Callable[["subprocess.Popen[Any]"], None], set[int]]] = {
    "SIGKILL of everything": (kill_all, {-9}),
    "SIGKILL of a rank": (_kill_a_rank, {137, 75, -9}),
    "SIGTERM": (lambda process: process.terminate(), {75}),
}
"""How a round ends the job, and the exit codes it may have then, beside 0 where it was done."""


def play(world: World, ending: str, trouble: str, chance: random.Random) -> Round:
    """One round. Raises `RuntimeError` where the job ends otherwise than it may."""
    end, codes = ENDINGS[ending]
    log = world.log("stormy")
    earlier = log.stat().st_size if log.exists() else 0
    with TROUBLES[trouble](world, chance):
        process = world.start("stormy")
        longest_s = START_S if chance.random() < EARLY_SHARE else TRAINING_S
        if longest_s == TRAINING_S:
            _wait_for_a_step(process, log, earlier)
        try:
            code = process.wait(chance.uniform(0, longest_s))
        except subprocess.TimeoutExpired:
            end(process)
            code = _ended(process)
    if code not in codes | {0}:
        raise RuntimeError(f"{ending}, {trouble}: the job ended with {code}:\n{_tail(world)}")
    return Round(ending, trouble, code, _steps_in(log, earlier))


def _wait_for_a_step(process: "subprocess.Popen[Any]", log: Path, earlier: int) -> None:
    """Return once the job trains, or has ended, or after `PATIENCE_S`."""
    deadline_s = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline_s and not _steps_in(log, earlier):
        time.sleep(0.1)


def _steps_in(log: Path, earlier: int) -> int:
    """How many steps a log has told of behind its first `earlier` bytes."""
    with log.open("rb") as file:
        file.seek(earlier)
        return sum(line.startswith(b"step ") for line in file)


def _ended(process: "subprocess.Popen[Any]") -> int:
    """How the process ended. Raises `RuntimeError`, and ends it, where it did not in its grace."""
    try:
        return process.wait(GRACE_S)
    except subprocess.TimeoutExpired as error:
        kill_all(process)
        raise RuntimeError(f"the job goes on {GRACE_S:g} s after it was asked to end") from error


def finish(world: World, name: str) -> None:
    """Run the job to its end. Raises `RuntimeError` where it does not get there."""
    process = world.start(name)
    if process.wait(900) != 0:
        raise RuntimeError(f"{name} ended with {process.returncode}:\n{_tail(world, name)}")


def metrics_of(world: World, name: str) -> dict[str, list[tuple[int, float]]]:
    """What MLflow has of the run's losses, rates and scores, in order of steps."""
    client = MlflowClient(world.mlflow_uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None, name
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 and runs[0].info.status == "FINISHED", runs
    keys = sorted(key for key in runs[0].data.metrics if key.startswith(COMPARED))
    points = {key: client.get_metric_history(runs[0].info.run_id, key) for key in keys}
    return {key: sorted((p.step, p.value) for p in found) for key, found in points.items()}


def compare(world: World) -> None:
    """Raises `RuntimeError` naming what differs from the calm run."""
    calm, stormy = (RunFolder(world.run_store(name)) for name in ("calm", "stormy"))
    if _last_weights(calm) != _last_weights(stormy):
        raise RuntimeError("the weights differ")
    best = [folder.best() for folder in (calm, stormy)]
    if best[0] is None or best[1] is None or best[0][1:] != best[1][1:]:
        raise RuntimeError(f"the best checkpoints differ: {best}")
    expected, found = (metrics_of(world, name) for name in ("calm", "stormy"))
    for key in sorted(expected.keys() | found.keys()):
        calm_points, points = (Counter(side.get(key, ())) for side in (expected, found))
        if calm_points != points:
            lost, more = (sorted(one) for one in (calm_points - points, points - calm_points))
            raise RuntimeError(f"{key} differs: lost {lost[:10]}, doubled or other {more[:10]}")


def _last_weights(folder: RunFolder) -> bytes:
    return folder.store.get(f"{folder.names()[-1]}/{WEIGHTS}")


def plan(rounds: int, seed: int, can_fill: bool) -> list[tuple[str, str]]:
    """Every ending, and every trouble, as often as the others, in random order."""
    troubles = [name for name in TROUBLES if can_fill or name != "scratch disk full"]
    endings = list(ENDINGS)
    period = math.lcm(len(endings), len(troubles))  # after which the same pairs would come again
    pairs = [
        (endings[(i + i // period) % len(endings)], troubles[i % len(troubles)])
        for i in range(rounds)
    ]
    random.Random(seed).shuffle(pairs)
    return pairs


def table(rounds: list[Round], steps: int) -> str:
    """The table of docs/reliability.md."""
    lines = ["| the job was ended by | while | rounds | steps until then | exit codes |"]
    lines.append("| --- | --- | ---: | --- | --- |")
    groups: dict[tuple[str, str], list[Round]] = {}
    for one in rounds:
        groups.setdefault((one.ending, one.trouble), []).append(one)
    for (ending, trouble), those in sorted(groups.items()):
        codes = sorted(Counter(one.code for one in those).items())
        trained = ", ".join(str(one.steps) for one in those)
        said = ", ".join(f"{code}: {times}" for code, times in codes)
        lines.append(f"| {ending} | {trouble} | {len(those)} | {trained} | {said} |")
    lines.append("")
    lines.append(
        f"After {len(rounds)} rounds and {steps} steps: weights, best checkpoint and every value "
        f"of {', '.join(COMPARED)} equal to the calm run's, none lost, none doubled."
    )
    return "\n".join(lines)


@contextmanager
def small_scratch(folder: Path) -> Iterator[bool]:
    """A small disk at `folder`, where this process may mount one; says whether it could."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SCRATCH_MB}m", "tmpfs", str(folder)]
    quiet = subprocess.DEVNULL
    mounted = shutil.which("mount") is not None and not subprocess.call(command, stderr=quiet)
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.check_call(["umount", "--lazy", str(folder)])


def storm(folder: Path, rounds: int, seed: int, say: Callable[[str], None] = print) -> str:
    """All of it, in an empty folder; the table. Raises `RuntimeError` where anything is lost."""
    chance, steps = random.Random(seed), rounds * STEPS_A_ROUND
    with ExitStack() as stack:
        server = stack.enter_context(seaweedfs(folder / "s3"))
        server.make_bucket(BUCKET)
        mlflow_uri = stack.enter_context(mlflow_server(folder / "mlflow"))
        can_fill = stack.enter_context(small_scratch(folder / "scratch"))
        if not can_fill:
            say("no small disk can be mounted here: the scratch disk is never full")
        world = World(folder, server, mlflow_uri, steps)
        pack_tiny(folder / "raw", world.stores.open(f"s3://{BUCKET}/packed"))
        for name in ("calm", "stormy"):
            world.write_spec(name)
        finish(world, "calm")
        say(f"calm run done, {steps} steps")
        played = []
        for number, (ending, trouble) in enumerate(plan(rounds, seed, can_fill), start=1):
            played.append(play(world, ending, trouble, chance))
            last = played[-1]
            say(f"round {number}/{rounds}: {ending}, {trouble}, {last.steps} steps -> {last.code}")
        trained = sum(one.steps > 0 for one in played)
        if trained < rounds / 2:
            raise RuntimeError(f"only {trained} of {rounds} rounds came to train: nothing is shown")
        finish(world, "stormy")
        compare(world)
    return table(played, steps)


def _tail(world: World, name: str = "stormy") -> str:
    return world.log(name).read_text(errors="replace")[-4000:]


def main() -> None:
    """The command line of `make chaos`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="segadapt-chaos-") as folder:
        print(storm(Path(folder), given.rounds, given.seed, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
