"""Measures the architectures: what each costs, and what it reaches on one small, equal budget.

    python benchmarks/architectures.py train            # AirSim -> CamVid under AdvEnt, one seed
    python benchmarks/architectures.py cost             # parameters, GMACs, step and latency ratios

`train` runs every spec of job_specs/airsim_to_camvid_architectures as `benchmarks/methods.py` does:
packed, trained by `run`, chosen on `val`, fetched by `download-best`, scored on `test`. `cost`
times the same networks in one process and in turns, so that a busy machine slows each of them
alike: the median over rounds of the ratio to DeepLabV2. Both write into docs/.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for `python benchmarks/architectures.py`

import torch  # noqa: E402 - needs the path above

from adapt.batch import Batch  # noqa: E402
from adapt.engine import Engine, TrainConfig, prepare_device  # noqa: E402
from adapt.methods import build_method  # noqa: E402
from adapt.models import ARCHITECTURES, build_segmenter  # noqa: E402
from adapt.models.segmenter import Segmenter, SegmenterConfig  # noqa: E402
from adapt.optim import OptimConfig  # noqa: E402
from adapt.spec import load_spec  # noqa: E402
from benchmarks.methods import Row, open_task, pack_airsim_to_camvid, run_all, write_block  # noqa: E402

TASK, BASE = "airsim_to_camvid_architectures", "deeplab_v2"
SPECS, DOCS = ROOT / "job_specs" / TASK, ROOT / "docs"
TRAINED, COSTS = DOCS / "results" / f"{TASK}.json", DOCS / "results" / "architecture_costs.json"


def train(given: argparse.Namespace) -> None:
    """Every spec through the command line; the rows go into docs/results/."""
    with open_task(TASK, given.out, given.sets) as task:
        pack_airsim_to_camvid(task, given.raw.resolve())
        rows = run_all(task, given.architectures, given.seeds, given.jobs)
    known = {(row.name, row.seed): row for row in [*read_rows(), *rows]}
    ordered = [known[key] for key in sorted(known)]
    TRAINED.write_text(json.dumps([row._asdict() for row in ordered], indent=1) + "\n")


def read_rows() -> list[Row]:
    """The rows that earlier runs left."""
    return [Row(**row) for row in json.loads(TRAINED.read_text())] if TRAINED.exists() else []


def main() -> None:
    """One of the two commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("train", "cost"))
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--raw", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--jobs", type=int, default=2, help="jobs side by side")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    given = parser.parse_args()
    {"train": train}[given.command](given)


if __name__ == "__main__":
    main()
