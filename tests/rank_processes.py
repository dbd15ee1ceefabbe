"""The ranks of a test: processes that meet over gloo, do one piece of work, and store its result.

`python -m tests.rank_processes FOLDER RANK NUM_RANKS` is one of them.
"""

import os
import pickle
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from adapt.ranks import barrier
from tests.processes import ROOT, Process

ENDS = timedelta(seconds=60)
"""How long a rank waits for the others."""
WORK = "work.pickle"


def start_ranks(num_ranks: int, folder: Path, work: Any, *given: Any) -> list[Process]:
    """Start processes that call `work(rank, num_ranks, *given)`, a function of a module.

    What it returns is stored as `folder/rank-R.pt`.
    """
    (folder / WORK).write_bytes(pickle.dumps((sys.path, pickle.dumps((work, given)))))
    command = [sys.executable, "-m", __name__, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ranks = []
    for rank in range(num_ranks):
        with (folder / f"rank-{rank}.stderr").open("w") as stderr:
            given_rank = [*command, str(rank), str(num_ranks)]
            ranks.append(Process(given_rank, cwd=ROOT, env=environment, stderr=stderr))
    return ranks


def on_ranks(num_ranks: int, folder: Path, work: Any, *given: Any) -> list[Any]:
    """Return what `work` returned on each rank. Raises `AssertionError` with what a rank that
    failed printed; the others are killed."""
    ranks = start_ranks(num_ranks, folder, work, *given)
    try:
        while None in (codes := [process.poll() for process in ranks]) and not any(codes):
            time.sleep(0.02)
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    for rank, code in enumerate(codes):
        assert not code, f"rank {rank}: {code}\n{(folder / f'rank-{rank}.stderr').read_text()}"
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(num_ranks)]


def main(folder: Path, rank: int, num_ranks: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", ENDS, rank=rank, world_size=num_ranks)
    sys.path[:], sent = pickle.loads((folder / WORK).read_bytes())
    work, given = pickle.loads(sent)
    torch.save(work(rank, num_ranks, *given), folder / f"rank-{rank}.pt")
    barrier()
    dist.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # torch's threads sometimes abort the interpreter's own end; the result is stored


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
